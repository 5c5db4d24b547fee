"""The report: films, figures, the page."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ElementTree

import av
import numpy as np
import pytest

from fpo_ros.demo.config import demo_config
from fpo_ros.demo.plots import comparison, learning_curve
from fpo_ros.demo.report import chosen_pair, write_report
from fpo_ros.demo.video import encode, episode_frames
from fpo_ros.episodes.store import EpisodeStore
from fpo_ros.policy.contract import START_JOINTS


def run(seed: int, success: bool, episode: str = '') -> dict:
    return {
        'seed': seed,
        'success': success,
        'episode_id': episode,
        'policy_version': 'v000001',
        'max_stage': 2,
        'steps': 300,
    }


def rate(successes: int) -> dict:
    one = {
        'successes': successes,
        'episodes': 10,
        'success_rate': successes / 10,
        'wilson_low': successes / 20,
        'wilson_high': (successes + 10) / 20,
        'success_strict_rate': 0.1,
        'control_steps': 1000,
    }
    return {**one, 'zero_sampling': dict(one)}


HISTORY = [{'control_steps': 1000 * k, 'success_rate': k / 10, 'smoothed_success': k / 12} for k in (1, 2, 3)]


def test_the_shown_scene_is_one_that_only_the_second_policy_solved():
    runs = [
        run(1, True, 'a'),
        run(2, False, 'b'),
        run(3, False, 'c'),
        run(1, True, 'd'),
        run(2, False, 'e'),
        run(3, True, 'f'),
    ]
    assert [entry['episode_id'] for entry in chosen_pair(runs)] == ['c', 'f']


def test_without_such_a_scene_one_is_shown_that_both_solved():
    runs = [run(1, False, 'a'), run(2, True, 'b'), run(1, False, 'c'), run(2, True, 'd')]
    assert [entry['episode_id'] for entry in chosen_pair(runs)] == ['b', 'd']


def test_a_scene_that_was_lost_is_the_last_choice():
    runs = [run(1, True, 'a'), run(2, False, 'b'), run(1, False, 'c'), run(2, False, 'd')]
    assert [entry['episode_id'] for entry in chosen_pair(runs)] == ['b', 'd']


@pytest.mark.parametrize('size', [(48, 64), (49, 65)])
def test_films_can_be_decoded_and_show_the_frames(size):
    frames = [np.full((*size, 3), 20 * index, np.uint8) for index in range(12)]
    with av.open(io.BytesIO(encode(frames))) as film:
        stream = film.streams.video[0]
        assert stream.codec_context.name == 'h264' and stream.average_rate == 25
        assert stream.pix_fmt == 'yuv420p'
        seen = [frame.to_ndarray(format='rgb24') for frame in film.decode(stream)]
    assert len(seen) == 12 and seen[0].shape == (48, 64, 3)
    for index, frame in enumerate(seen):
        assert abs(float(frame.mean()) - 20 * index) < 4


@pytest.mark.parametrize(
    'figure',
    [learning_curve(HISTORY, rate(3), rate(9)), comparison(rate(0), rate(10))],
    ids=['curve', 'bars'],
)
def test_figures_are_svg(figure):
    assert ElementTree.fromstring(figure).tag.endswith('svg')
    assert len(figure) > 2000


def write_episode(store: EpisodeStore, with_pose: bool, offset: float = 0.0) -> str:
    steps = 8
    joints = np.tile(START_JOINTS, (steps, 1)).astype(np.float32)
    joints[:, 0] += offset
    arrays = {
        'joint_positions': joints,
        'action': joints,
        'reward': np.zeros(steps, np.float32),
        'timestamp': np.arange(steps) * 0.02,
    }
    images = None
    if with_pose:
        arrays['object_pose'] = np.tile(np.array([0.1, 0.5, 0.02, 1, 0, 0, 0], np.float32), (steps, 1))
    else:
        images = {'cam_high': (np.full((2, 16, 24, 3), 90, np.uint8), np.array([0, 4], np.int32))}
    return store.write(
        arrays,
        {
            'task': 'transfer_cube',
            'prompt': 'Transfer cube',
            'observation': 'state' if with_pose else 'pixels',
            'source': 'policy',
            'seed': 1,
            'success': True,
            'created': '2026-01-01T00:00:00+00:00',
        },
        images,
    )


def test_frames_are_drawn_from_the_recorded_state_or_taken_from_the_camera(tmp_path):
    store = EpisodeStore.create_or_open(tmp_path / 'episodes')
    still, turned, seen = (
        write_episode(store, True),
        write_episode(store, True, 0.5),
        write_episode(store, False),
    )
    drawn = episode_frames(store.read(still))
    assert len(drawn) == 4 and drawn[0].shape == (240, 320, 3)
    assert not np.array_equal(drawn[0], episode_frames(store.read(turned))[0])
    recorded = episode_frames(store.read(seen))
    assert len(recorded) == 2 and recorded[0].shape == (48, 72, 3) and (recorded[0] == 90).all()


def test_the_page_stands_alone_and_states_the_numbers(tmp_path):
    store = EpisodeStore.create_or_open(tmp_path / 'episodes')
    ids = [write_episode(store, False) for _ in range(2)]
    graph = {
        'runs': [run(5, False, ids[0]), {**run(5, True, ids[1]), 'policy_version': 'v000002'}],
        'episodes': 2,
        'successes_sft': 0,
        'successes_fpo': 1,
        'swaps': 1,
        'command_rate_hz': 50.01,
        'command_jitter_p99_ms': 1.25,
        'missed_ticks': 0,
        'ticks': 1000,
        'inference_p50_ms': 9.5,
        'inference_p99_ms': 20.25,
    }
    results = {
        'graph': graph,
        'sft_evaluation': rate(3),
        'fpo_evaluation': rate(9),
        'fpo': {'history': HISTORY},
        'sft': {'parameters': 1, 'pairs': 2, 'loss': [[1, 0.5]]},
        'demonstrations': {'episodes': 4, 'successes': 2},
        'release': {'onnx_max_abs_difference': 3e-6, 'sft_version': 'v000001', 'fpo_version': 'v000002'},
        'stages': {'sft': 60.0, 'graph': 30.0},
        'wall_s': 90.0,
    }
    page = tmp_path / 'report.html'
    write_report(page, demo_config('state', True), tmp_path, results, quick=True)
    text = page.read_text()
    assert text.count('data:video/mp4;base64,') == 2 and text.count('<svg') >= 2
    assert not re.search(r'(?:src|href)=["\'](?:https?:)?//', text), 'nothing is loaded from elsewhere'
    for words in ('90.0', '30.0', 'v000001', 'v000002', '1 min 30 s'):
        assert words in text, words

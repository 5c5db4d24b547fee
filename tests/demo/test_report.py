"""The report: films, figures, the page."""

from __future__ import annotations

import base64
import io
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import av
import numpy as np
import pytest

from fpo_ros.demo import report
from fpo_ros.demo.config import demo_config
from fpo_ros.demo.numbers import numbers
from fpo_ros.demo.plots import comparison, learning_curve
from fpo_ros.demo.report import chosen_pair, write_report
from fpo_ros.demo.video import episode_frames
from fpo_ros.episodes.store import EpisodeStore
from fpo_ros.films import encode
from fpo_ros.policy.contract import START_JOINTS
from fpo_ros.sim.render import RenderError
from fpo_ros.sim.task import sample_object_pose


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
        'max_steps': 350,
        'success_rule': 'it is done',
        'strict_rule': 'it is done twice',
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


@pytest.mark.parametrize(('size', 'fps'), [((48, 64), 25.0), ((49, 65), 5.0), ((48, 64), 12.5)])
def test_films_can_be_decoded_and_show_the_frames(size, fps):
    frames = [np.full((*size, 3), 20 * index, np.uint8) for index in range(12)]
    with av.open(io.BytesIO(encode(frames, fps))) as film:
        stream = film.streams.video[0]
        assert stream.codec_context.name == 'h264' and stream.average_rate == fps
        assert float(stream.duration * stream.time_base) == pytest.approx(12 / fps, rel=0.02)
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
    kind, _, data = figure.partition(',')
    assert kind == 'data:image/svg+xml;base64'
    assert ElementTree.fromstring(base64.b64decode(data)).tag.endswith('svg')
    assert len(figure) > 2000


def write_episode(store: EpisodeStore, with_pose: bool, offset: float = 0.0, frame_every: int = 4) -> str:
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
        images = {'cam_high': (np.full((2, 16, 24, 3), 90, np.uint8), np.array([0, frame_every], np.int32))}
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
    drawn, fps = episode_frames(store.read(still))
    assert len(drawn) == 4 and drawn[0].shape == (240, 320, 3) and fps == 25
    assert not np.array_equal(drawn[0], episode_frames(store.read(turned))[0][0])
    recorded, _ = episode_frames(store.read(seen))
    assert len(recorded) == 2 and recorded[0].shape == (48, 72, 3) and (recorded[0] == 90).all()


def test_films_of_a_task_of_two_objects_show_both(tmp_path):
    store = EpisodeStore.create_or_open(tmp_path / 'episodes')
    start = sample_object_pose('insertion', 1)
    pictures = []
    for moved in (None, 0, 7):
        poses = np.tile(start, (4, 1)).astype(np.float32)
        if moved is not None:
            poses[:, moved] += 0.05
        joints = np.tile(START_JOINTS, (4, 1))
        episode = store.read(store.write(
            {'joint_positions': joints, 'action': joints, 'reward': np.zeros(4), 'timestamp': np.arange(4) * 0.02,
             'object_pose': poses},
            {'task': 'insertion', 'prompt': 'x', 'observation': 'state', 'source': 'policy',
             'created': '2026-01-01T00:00:00+00:00'}))
        frames, fps = episode_frames(episode)
        assert len(frames) == 2 and fps == 25
        pictures.append(frames[0].astype(int))
    assert all(np.abs(other - pictures[0]).max() > 30 for other in pictures[1:])


@pytest.mark.parametrize(('frame_every', 'fps'), [(1, 50.0), (2, 25.0), (5, 10.0)])
def test_recorded_frames_are_shown_in_real_time(tmp_path, frame_every, fps):
    store = EpisodeStore.create_or_open(tmp_path / 'episodes')
    assert episode_frames(store.read(write_episode(store, False, frame_every=frame_every)))[1] == fps


CONFIG = replace(demo_config('state', True), graph_episodes=1)


def demo_results(work: Path, with_pose: bool = False) -> dict:
    """Return the results of a demo whose graph recorded two episodes in a directory."""
    store = EpisodeStore.create_or_open(work / 'episodes')
    ids = [write_episode(store, with_pose) for _ in range(2)]
    graph = {
        'runs': [run(5, False, ids[0]), {**run(5, True, ids[1]), 'policy_version': 'v000002'}],
        'episodes': 2,
        'successes_sft': 0,
        'successes_fpo': 1,
        'swaps': 1,
        'command_rate_hz': 50.01,
        'command_jitter_p99_ms': 1.25,
        'command_jitter_max_ms': 4.75,
        'missed_ticks': 0,
        'ticks': 1000,
        'inference_p50_ms': 9.5,
        'inference_p99_ms': 20.25,
    }
    return {
        'graph': graph,
        'sft_evaluation': rate(3),
        'fpo_evaluation': rate(9),
        'fpo': {'history': HISTORY},
        'sft': {'parameters': 1, 'pairs': 2, 'loss': [[1, 0.5]]},
        'demonstrations': {'episodes': 4, 'successes': 2},
        'release': {'onnx_max_abs_difference': 3e-6, 'sft_version': 'v000001', 'fpo_version': 'v000002',
                    'refusal': ''},
    }


def page_of(work: Path, results: dict, memory: int | None = 2_500_000_000, no_films: str = '') -> str:
    """Write the report of these results and return its text."""
    found = numbers(results, {'sft': 60.0, 'graph': 30.0}, 90.0, memory)
    write_report(work / 'report.html', CONFIG, work, results, found, True, no_films)
    return (work / 'report.html').read_text()


class Page(HTMLParser):
    """Checks that elements are closed in order, and keeps what is referred to, the ids and the words."""

    VOID = ('meta', 'img', 'br')

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.ids: list[str] = []
        self.words = ''
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        self.references += [value for name, value in attrs if name in ('src', 'href', 'poster', 'data', 'srcset')]
        self.ids += [value for name, value in attrs if name == 'id']

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def test_the_page_stands_alone_and_states_the_numbers(tmp_path):
    text = page_of(tmp_path, demo_results(tmp_path))
    page = Page(text)
    assert text.startswith('<!doctype html>')
    assert page.references and all(reference.startswith('data:') for reference in page.references)
    assert not re.search(r'https?://', text), 'nothing is loaded from elsewhere'
    assert text.count('data:video/mp4;base64,') == 2 and text.count('data:image/svg+xml;base64,') == 2
    assert len(page.ids) == len(set(page.ids))
    for words in ('90.0', '30.0', 'v000001', 'v000002', '1 min 30 s', '50.01 Hz', '4.75 ms', '2.5 GB'):
        assert words in page.words, words
    for words in ('Not shown that FPO beats SFT', 'The policy was swapped'):
        assert words in page.words, words


def test_the_page_tells_why_the_graph_and_the_evaluation_differ(tmp_path):
    words = Page(page_of(tmp_path, demo_results(tmp_path))).words
    assert '350 + 40 control periods' in words and '0 of 1' in words and '1 of 1' in words and '9 of 10' in words
    assert 'all 1000 control periods' in words
    assert 'Success means that it is done. By the strict rule (it is done twice)' in words


def test_the_page_says_where_everything_is_and_how_to_look_further(tmp_path):
    work = tmp_path / 'lab & <home>'
    work.mkdir()
    words = Page(page_of(work, demo_results(work))).words
    assert f'Everything lies in {work}' in words
    assert f"up sim --policy '{work}'/releases/v000002 --trusted-keys '{work}'/keys/release.pub" in words
    assert f"episodes list '{work}'/episodes" in words


def test_the_page_of_a_resumed_demo_says_that_memory_is_not_known(tmp_path):
    assert 'not measured, since the demo was resumed' in page_of(tmp_path, demo_results(tmp_path), memory=None)


def test_the_page_of_a_refused_release_names_the_one_that_serves(tmp_path):
    results = demo_results(tmp_path)
    results['release'] |= {'fpo_version': None, 'refusal': 'v000002 is 5 points worse'}
    results['graph'] |= {'swaps': 0, 'runs': results['graph']['runs'][:1], 'episodes': 1}
    text = page_of(tmp_path, results)
    assert 'did not serve' in text and 'not swapped: v000002 is 5 points worse' in text
    assert 'releases/v000001' in text and text.count('data:video/mp4;base64,') == 1


def test_without_gl_the_page_has_everything_but_films(tmp_path, monkeypatch):
    def tried(*_: object) -> None:
        raise AssertionError('nothing is drawn where GL is known not to work')

    monkeypatch.setattr(report, 'episode_frames', tried)
    text = page_of(tmp_path, demo_results(tmp_path, True), no_films='MUJOCO_GL=disabled: no context')
    assert 'No film: MUJOCO_GL=disabled: no context.' in text and 'data:video' not in text
    assert '50.01 Hz' in Page(text).words


def test_a_picture_that_fails_late_costs_the_films_alone(tmp_path, monkeypatch):
    class Broken:
        def __init__(self, *_: object, **__: object) -> None:
            raise RenderError('no GL context any more')

    monkeypatch.setattr('fpo_ros.demo.video.WorldRenderer', Broken)
    text = page_of(tmp_path, demo_results(tmp_path, True))
    assert 'No film: no GL context any more.' in text and '50.01 Hz' in text

"""Learning from camera images: each decision keeps the prefix of what it saw."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tiny_task
import torch

from fpo_ros.episodes.store import EpisodeStore
from fpo_ros.learning.decisions import flatten
from fpo_ros.learning.demonstrations import load_demonstrations
from fpo_ros.learning.evaluate import evaluate
from fpo_ros.learning.finetune import finetune
from fpo_ros.learning.record import record_demonstrations
from fpo_ros.learning.rollout import collect
from fpo_ros.sim.batch import BatchedWorlds
from fpo_ros.sim.render import BatchRenderer

CONTRACT = replace(tiny_task.CONTRACT, observation='pixels', cameras=('cam_high', 'cam_angle'), image_height=16,
                   image_width=24)


@pytest.fixture(scope='module')
def rolled():
    """Return a policy, its rollout of three episodes and the pictures in the order they were taken."""
    policy, pictures = tiny_task.policy(contract=CONTRACT), []
    with (tiny_task.short_episodes(), BatchedWorlds('transfer_cube', 3) as worlds,
          BatchRenderer('transfer_cube', CONTRACT.cameras, 16, 24) as renderer):
        plain = renderer.render_all
        renderer.render_all = lambda qpos: pictures.append(plain(qpos)) or pictures[-1]
        rollout = collect(policy, worlds, np.arange(3), tiny_task.start_noise(3), renderer=renderer, noise_scale=0.0)
    return policy, rollout, pictures


def test_every_decision_keeps_the_prefix_of_its_own_pictures(rolled):
    policy, rollout, pictures = rolled
    assert rollout.states.shape[-1] == 14 and not np.array_equal(pictures[0][0], pictures[0][1])
    with torch.no_grad():
        ragged = rollout.valid.copy()
        ragged[0, 3:], ragged[1, 1:] = False, False
        flat = flatten(rollout, ragged)
        expected = []
        for episode in range(3):
            for decision in np.flatnonzero(ragged[episode]):
                still = np.flatnonzero(rollout.valid[:, decision])
                seen = pictures[decision][list(still).index(episode)]
                expected.append(policy.prefix(seen[None]))
    torch.testing.assert_close(flat.prefix_kv, torch.cat(expected, 2), atol=1e-5, rtol=1e-4)
    assert flat.prefix_kv.shape[2] == len(flat) == ragged.sum() == 8


def test_kept_prefix_and_state_reproduce_the_chunk_that_was_drawn(rolled):
    policy, rollout, _ = rolled
    flat = flatten(rollout, rollout.valid)
    zero = torch.zeros(len(flat), 4, 14)
    with torch.no_grad():
        chunks = policy.act(flat.states, flat.prefix_kv, zero)
        mixed = policy.act(flat.states, flat.prefix_kv.flip(2), zero)
    torch.testing.assert_close(chunks, flat.chunks, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(mixed, flat.chunks, atol=1e-4), 'the chunk depends on the pictures'


def test_recorded_frames_are_what_the_policy_would_have_seen(tmp_path):
    store = EpisodeStore.create_or_open(tmp_path / 'store')
    record_demonstrations(store, CONTRACT, 1, 0.0, frame_every=50)
    pairs = load_demonstrations(store, CONTRACT)
    assert pairs.images.shape == (5, 2, 16, 24, 3) and pairs.states.shape == (5, 14)
    episode = next(iter(store.iter()))
    assert 'object_pose' not in episode.arrays
    np.testing.assert_array_equal(pairs.chunks[2], np.asarray(episode.arrays['action'])[100:104])
    with BatchedWorlds('transfer_cube', 1) as worlds, \
            BatchRenderer('transfer_cube', CONTRACT.cameras, 16, 24) as renderer:
        worlds.reset(np.array([episode.meta.seed]))
        worlds.rest()
        assert np.array_equal(renderer.render_all(worlds.qpos)[0], pairs.images[0])
        worlds.step(np.asarray(episode.arrays['action'], np.float64)[None, :50])
        later = renderer.render_all(worlds.qpos)[0].astype(int)
    assert np.abs(later - pairs.images[1]).mean() < 1
    assert np.abs(later - pairs.images[0]).mean() > 2


def test_fine_tuning_and_evaluation_from_pixels(waist_task, tmp_path):
    start = tiny_task.policy(contract=CONTRACT)
    policy, history = finetune(start, tmp_path, tiny_task.config(episodes=6), 2)
    errors = [entry['first_ratio_error'] for entry in history if 'first_ratio_error' in entry]
    assert errors and max(errors) < 1e-4
    changed = {name for name, value in tiny_task.weights(policy).items()
               if not torch.equal(value, start.model.state_dict()[name])}
    assert not any(name.startswith(('vision_tower', 'language_layers')) for name in changed)
    assert evaluate(policy, 2, sampling='zero').episodes == 2
    _, resumed = finetune(start, tmp_path, tiny_task.config(episodes=6), 3, resume=True)
    assert [entry['iteration'] for entry in resumed] == [1, 2, 3]

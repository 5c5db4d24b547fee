"""Grounding: pictures with the positions of objects, and a prefix that learns to tell them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tiny_task
import torch

from fpo_ros.learning import sft
from fpo_ros.learning.grounding import GroundingConfig, LabelledFrames, grounded, labelled_frames
from fpo_ros.policy.contract import ContractError, PolicyContract
from fpo_ros.sim.scenes import Scenes, is_held_out, scene_seeds
from fpo_ros.sim.task import sample_object_pose

CONTRACT = replace(tiny_task.CONTRACT, observation='pixels', cameras=('cam_high',), image_height=16, image_width=16)


def squares(count: int = 40) -> LabelledFrames:
    """Return black pictures with a white square, and where it is."""
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 12, (count, 1, 2))
    images = np.zeros((count, 1, 1, 16, 16, 3), np.uint8)
    for index, (row, column) in enumerate(corners[:, 0]):
        images[index, 0, 0, row:row + 4, column:column + 4] = 255
    return LabelledFrames(images, (corners / 100).astype(np.float32))


def test_frames_show_where_objects_are_when_they_have_come_to_rest():
    contract = replace(CONTRACT, image_height=48, image_width=64)
    frames = labelled_frames(contract, GroundingConfig(episodes=3, frame_every=100))
    scenes = scene_seeds(Scenes.DEMONSTRATIONS, 0, 3)
    assert not any(is_held_out(int(scene)) for scene in scenes)
    assert frames.images.shape[0] == 3 and frames.images.shape[2:] == (1, 48, 64, 3)
    assert frames.positions.shape == (*frames.images.shape[:2], 3)
    placed = np.stack([sample_object_pose('transfer_cube', int(scene))[:2] for scene in scenes])
    np.testing.assert_allclose(frames.positions[:, 0, :2], placed, atol=5e-3)
    assert len(np.unique(frames.images[:, 0].reshape(3, -1), axis=0)) == 3


def test_a_prefix_learns_to_tell_positions():
    frames, errors = squares(), []
    for steps in (1, 250):
        config = GroundingConfig(training=sft.SFTConfig(steps, 16, 3e-3, 10))
        model, error = grounded(CONTRACT, tiny_task.TINY, frames, config)
        errors.append(error)
    assert errors[1] < 0.6 * errors[0]


def test_grounding_is_repeatable():
    short = GroundingConfig(training=sft.SFTConfig(3, 4))
    first, second = (grounded(CONTRACT, tiny_task.TINY, squares(), short) for _ in range(2))
    assert first[1] == second[1]
    ours, theirs = (one[0].state_dict() for one in (first, second))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_grounded_prefix_stays_as_it_is_when_the_expert_is_trained():
    network, _ = grounded(CONTRACT, tiny_task.TINY, squares(), GroundingConfig(training=sft.SFTConfig(3, 4)))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    pairs = replace(tiny_task.pairs(), states=tiny_task.pairs().states[:, :14], frame=np.arange(6),
                    images=squares(6).images[:, 0])
    policy = sft.train(pairs, CONTRACT, tiny_task.TINY, sft.SFTConfig(3, 4, warmup=1), 0, network=network)
    moved = {name for name, value in policy.model.state_dict().items() if not torch.equal(value, before[name])}
    assert policy.model is network and any(name.startswith('expert_layers') for name in moved)
    assert not [name for name in moved if name.startswith(('vision_tower', 'language', 'embed_tokens'))]


def test_a_policy_without_cameras_has_nothing_to_ground():
    with pytest.raises(ContractError, match='no pictures to ground'):
        labelled_frames(PolicyContract(), GroundingConfig())

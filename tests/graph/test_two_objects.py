"""The graph with a task of two objects: from the twin's trackers to the policy and the stored episode."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tiny_releases import STEADY, Releases

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from fpo_ros.episodes.store import EpisodeStore  # noqa: E402
from fpo_ros.nodes.client import EpisodeClient  # noqa: E402
from fpo_ros.nodes.graph import GraphOptions  # noqa: E402
from fpo_ros.nodes.up import running_graph  # noqa: E402
from fpo_ros.policy.contract import START_JOINTS  # noqa: E402
from fpo_ros.sim.task import sample_object_pose  # noqa: E402

pytestmark = [pytest.mark.ros, pytest.mark.serial]


def test_an_episode_of_two_objects_is_run_by_a_policy_that_sees_both_and_recorded_with_both(tmp_path) -> None:
    releases, lines = Releases.make(tmp_path), []
    release = releases.publish(START_JOINTS, replace(STEADY, task='insertion', prompt=''))
    options = GraphOptions(policy=str(release), trusted_keys=str(releases.keys), learner=False,
                           record_dir=str(tmp_path / 'episodes'), parameters={
                               'arm_controller': {'max_joint_age': 1.0},  # the machine may be busy
                               'episode_manager': {'stream_limit': 2.0}})
    with running_graph(options, sink=lambda node, line: lines.append(f'{node}: {line}')), EpisodeClient() as client:
        outcome = client.run_episode(7, task='insertion', max_steps=25, timeout_s=60.0)
    assert (outcome.reason, outcome.steps, outcome.policy_version) == ('timeout', 25, 'v000001'), lines
    episode = EpisodeStore.open(tmp_path / 'episodes').read(outcome.episode_id)
    assert episode.meta.task == 'insertion' and episode.meta.extra['refused_steps'] == 0
    poses, start = np.array(episode.arrays['object_pose']), sample_object_pose('insertion', 7)
    across = [0, 1, 7, 8]  # they fall the last centimetres onto the table while the arms settle
    np.testing.assert_allclose(poses[:, across], np.tile(start[across], (25, 1)), atol=2e-3)

"""The learner trains in a worker process while the arms run an episode."""

from __future__ import annotations

import json

import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')
torch = pytest.importorskip('torch', reason='training needs torch')

import numpy as np  # noqa: E402

from fpo_ros.episodes.store import EpisodeStore  # noqa: E402
from fpo_ros.learning.record import record_demonstrations  # noqa: E402
from fpo_ros.msg import LearnerStatus  # noqa: E402
from fpo_ros.nodes.client import EpisodeClient  # noqa: E402
from fpo_ros.nodes.graph import GraphError, GraphOptions  # noqa: E402
from fpo_ros.nodes.up import running_graph  # noqa: E402
from fpo_ros.policy.checkpoint import FlowPolicy  # noqa: E402
from fpo_ros.policy.config import preset  # noqa: E402
from fpo_ros.policy.contract import START_JOINTS, PolicyContract  # noqa: E402
from fpo_ros.policy.normalisation import NormStats  # noqa: E402
from fpo_ros.policy.pi0 import Pi0  # noqa: E402

pytestmark = [pytest.mark.ros, pytest.mark.serial]


@pytest.mark.timeout(400)
def test_training_goes_on_while_an_episode_runs_and_reports_its_progress(releases, tmp_path) -> None:
    contract = PolicyContract()
    record_demonstrations(EpisodeStore.create_or_open(tmp_path / 'episodes'), contract, 1, noise_std=0.0)
    stats = NormStats(np.zeros(contract.state_dim), np.ones(contract.state_dim), START_JOINTS, np.full(14, 0.05))
    start = tmp_path / 'start'
    start.mkdir()
    FlowPolicy(Pi0(preset('pi0_tiny'), contract), stats).save(start)
    options = GraphOptions(
        policy=str(releases.path / 'v000001'), trusted_keys=str(releases.keys), releases=str(releases.path),
        record_dir=str(tmp_path / 'episodes'), run_dir=str(tmp_path / 'run'),
        parameters={'learner': {'start_policy': str(start), 'train_arguments': '--episodes 2', 'nice': 1},
                    'arm_controller': {'max_joint_age': 1.0},  # the machine is busy
                    'episode_manager': {'stream_limit': 2.0}})
    with running_graph(options, sink=lambda node, line: None) as graph, EpisodeClient() as client:
        client.start_training(iterations=1)
        with pytest.raises(GraphError, match='the trainer is running'):
            client.start_training(iterations=1)
        before = client.command_timing()
        outcome = client.run_episode(3, max_steps=100)
        assert outcome.reason == 'timeout'
        after = client.command_timing()
        assert after.missed_ticks - before.missed_ticks < 0.3 * (after.ticks - before.ticks)
        status = client.wait_for(
            lambda: client.learner_status() if client.learner_status().state != LearnerStatus.STATE_TRAINING else None,
            'the end of the training', 120.0)
        assert status.state == LearnerStatus.STATE_FINISHED, status.message
        assert status.iteration == 1 and status.control_steps > 0
        assert (tmp_path / 'run' / 'best' / 'policy.json').is_file()
        used = json.loads((tmp_path / 'run' / 'config.json').read_text())['demonstrations']
        assert used['episodes'] == 1, 'the recorded success is imitated, the episodes that failed are not'

        client.start_training(iterations=1)
        status = client.wait_for(
            lambda: client.learner_status() if client.learner_status().state == LearnerStatus.STATE_FAILED else None,
            'the second training to fail', 120.0)
        assert 'already holds a run' in status.message
        assert all(process.running for process in graph.processes.values())

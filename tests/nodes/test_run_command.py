"""``fpo-ros run``: which scenes it asks a cell for."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from fpo_ros.nodes import client  # noqa: E402
from fpo_ros.sim.scenes import Scenes, is_held_out  # noqa: E402

pytestmark = pytest.mark.ros


@pytest.fixture
def asked(monkeypatch) -> list[int]:
    """Let a cell stand in that ends every episode at once; return the scenes that it is asked for."""
    found: list[int] = []

    class Cell:
        def __init__(self, namespace: str, name: str) -> None:
            self.latest = self.wait_for = lambda *_: SimpleNamespace(task='transfer_cube')

        def __enter__(self) -> Cell:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def start_episode(self, seed: int, task: str, **how: object) -> None:
            found.append(seed)

        def finish_episode(self, handle: None, timeout_s: float) -> client.EpisodeOutcome:
            return client.EpisodeOutcome(True, 'success', '', 4, 100, 'v000001', '')

    monkeypatch.setattr(client, 'EpisodeClient', Cell)
    return found


def test_an_operator_demonstrates_in_scenes_that_training_may_see_and_a_policy_is_shown_others(fpo_ros, asked) -> None:
    assert fpo_ros('run', '--driver', 'operator', '--episodes', 2)[0] == 0
    low, high = Scenes.DEMONSTRATIONS.value
    assert asked[1] == asked[0] + 1 and low <= asked[0] < high and not any(map(is_held_out, asked))
    asked.clear()
    assert fpo_ros('run', '--episodes', 2)[0] == 0
    assert len(asked) == 2 and all(map(is_held_out, asked))
    asked.clear()
    assert fpo_ros('run', '--driver', 'operator', '--seed', 7)[0] == 0 and asked == [7]

"""Messages that no node of this version sends do not end those that hear them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from fpo_ros.msg import ControllerStatus, Observation  # noqa: E402
from fpo_ros.nodes import convert  # noqa: E402
from fpo_ros.nodes.arms import Arms  # noqa: E402
from fpo_ros.nodes.episode_manager import EpisodeManager  # noqa: E402
from fpo_ros.nodes.logic.episode_steps import StepAssembler  # noqa: E402
from fpo_ros.nodes.logic.rivals import Followed  # noqa: E402
from fpo_ros.nodes.logic.sequences import SequenceError  # noqa: E402
from fpo_ros.runtime.controller_config import ArmState  # noqa: E402

pytestmark = pytest.mark.ros


def test_states_of_the_controller_are_known_or_none() -> None:
    assert [convert.arm_state(state) for state in ArmState] == list(ArmState)
    assert convert.arm_state(250) is None


def test_an_episode_passes_over_an_unknown_state_and_says_so() -> None:
    words: list[str] = []
    node = SimpleNamespace(followed=Followed(), steady_ns=lambda: 0, sequence=object(), error_once=words.append)
    EpisodeManager._on_status(node, ControllerStatus(state=250))
    assert words == ['controller_status has state 250, which is unknown here: it is passed over']


def test_a_sequence_ends_at_an_unknown_state() -> None:
    node = SimpleNamespace(status=ControllerStatus(state=250), now_ns=lambda: 0)
    with pytest.raises(SequenceError, match='arm_controller is in state 250, which is unknown here'):
        Arms.state(node)


def test_recording_goes_on_without_pictures_that_cannot_be_read() -> None:
    words, steps = [], []
    recorder = SimpleNamespace(problem='', append=lambda step, images: steps.append((step, images)))
    node = SimpleNamespace(sequence=SimpleNamespace(steps=2), recording=True, recorder=recorder, chunk=0,
                           observation=Observation(camera_names=['cam_high']), error_once=words.append,
                           params=SimpleNamespace(image_period=5), steps=StepAssembler())
    EpisodeManager._take_step(node, ControllerStatus(state=ControllerStatus.STATE_POLICY, chunk_sequence=1,
                                                     measured=np.zeros(14, 'f4'), command=np.zeros(14, 'f4')))
    assert len(steps) == 1 and steps[0][1] == {}
    assert len(words) == 1 and words[0].startswith('recording goes on without the pictures of an observation: ')

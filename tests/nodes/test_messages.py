"""Between messages and values, and the live path against the recorded one."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import fpo_ros

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from sensor_msgs.msg import JointState  # noqa: E402

from fpo_ros.episodes.store import EpisodeStore  # noqa: E402
from fpo_ros.hardware.gripper import GYM_ALOHA  # noqa: E402
from fpo_ros.hardware.joints import both_sides, joint_state_positions, side_joints  # noqa: E402
from fpo_ros.hardware.names import JOINT_STATE_NAMES  # noqa: E402
from fpo_ros.msg import Observation as ObservationMessage  # noqa: E402
from fpo_ros.nodes import convert  # noqa: E402
from fpo_ros.nodes.logic.episode_steps import StepAssembler  # noqa: E402
from fpo_ros.policy.contract import TASKS, ContractError, Observation, PolicyContract  # noqa: E402
from fpo_ros.policy.normalisation import NormStats  # noqa: E402
from fpo_ros.policy.transforms import model_inputs, resize_with_pad  # noqa: E402

pytestmark = pytest.mark.ros

ROOT = Path(fpo_ros.__file__).parents[1]
INTERFACES = sorted(file for kind in ('msg', 'srv', 'action') for file in (ROOT / kind).glob(f'*.{kind}'))
#: Types whose fields need a unit: numbers, and the messages of numbers that ours hold.
NUMBERS = re.compile(r'u?int\d+|float\d+|builtin_interfaces/Time|std_msgs/Header|geometry_msgs/Pose|sensor_msgs/Image')


def test_stamps_poses_and_images_survive_the_round_trip() -> None:
    assert convert.nanoseconds(convert.stamp_of(1_234_567_890_123_456_789)) == 1_234_567_890_123_456_789
    pose = np.array([0.1, 0.2, 0.3, 0.5, -0.5, 0.5, -0.5])
    np.testing.assert_array_equal(convert.pose_array(convert.pose_message(pose)), pose)
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    message = convert.image_message(image, convert.stamp_of(1), 'cam_high')
    np.testing.assert_array_equal(convert.image_array(message), image)


def test_chunk_survives_the_round_trip_and_a_wrong_count_is_refused() -> None:
    chunk = np.random.default_rng(0).standard_normal((20, 14)).astype(np.float32)
    message = convert.chunk_message(chunk, sequence=3, observation_ns=5, measured_ns=4, now_ns=7, version='v000001',
                                    period_s=0.02, inference_s=0.01)
    np.testing.assert_array_equal(convert.chunk_array(message), chunk)
    message.horizon = 21
    with pytest.raises(ContractError, match='21 x 14'):
        convert.chunk_array(message)


def test_oldest_part_of_an_observation_counts_images_and_joints() -> None:
    message = ObservationMessage(joint_age=0.01, image_ages=[0.02, 0.04])
    message.header.stamp = convert.stamp_of(1_000_000_000)
    assert convert.oldest_part_ns(message) == 960_000_000


def test_live_and_recorded_path_give_the_model_the_same_arrays(tmp_path) -> None:
    """The same raw messages through the graph's conversions and through the episode store."""
    rng = np.random.default_rng(1)
    contract = PolicyContract(observation='pixels', cameras=('cam_high',), image_height=24, image_width=32)
    stats = NormStats(np.zeros(14), np.ones(14), np.zeros(14), np.ones(14))
    sides = [rng.uniform(-1, 1, 7) for _ in range(2)]
    raw = rng.integers(0, 256, (48, 64, 3), np.uint8)
    drivers = [JointState(name=list(JOINT_STATE_NAMES), position=joint_state_positions(side, GYM_ALOHA))
               for side in sides]
    camera = convert.image_message(raw, convert.stamp_of(5), 'cam_high')

    joints = both_sides(*(side_joints(m.name, m.position, GYM_ALOHA) for m in drivers))
    small = resize_with_pad(convert.image_array(camera), 24, 32)
    message = ObservationMessage(
        camera_names=['cam_high'], image_ages=[0.0], joint_positions=joints.astype('f4')
    )
    message.images = [convert.image_message(small, camera.header.stamp, 'cam_high')]
    live = convert.observation_value(message)

    store = EpisodeStore.create_or_open(tmp_path / 'store')
    writer = store.writer({'task': 'transfer_cube', 'prompt': TASKS['transfer_cube'], 'observation': 'pixels',
                           'source': 'policy', 'created': '2026-01-01T00:00:00+00:00'})
    step = StepAssembler().assemble(0, message.joint_positions, np.zeros(14), None)
    writer.append(step, {'cam_high': convert.image_array(message.images[0])})
    episode = store.read(writer.commit(success=True))
    recorded = Observation(np.array(episode.arrays['joint_positions'])[0],
                           {'cam_high': np.array(episode.images('cam_high')[0])[0]})

    first, second = (model_inputs(o, contract, stats) for o in (live, recorded))
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


@pytest.mark.skipif(not INTERFACES, reason='the interface files lie in the checkout')
@pytest.mark.parametrize('file', INTERFACES, ids=lambda path: path.stem)
def test_every_field_is_explained_and_every_number_has_its_unit(file) -> None:
    for number, line in enumerate(file.read_text(encoding='utf-8').splitlines(), 1):
        code, _, comment = line.partition('#')
        if not code.strip() or code.startswith('---') or '=' in code:
            continue
        kind = code.split()[0].split('[')[0]
        assert comment.strip(), f'{file.name}:{number}: say what this is: {line}'
        if NUMBERS.fullmatch(kind):
            assert re.search(r'\[[^\]]+\]', comment), f'{file.name}:{number}: name the unit in brackets: {line}'


@pytest.mark.skipif(not INTERFACES, reason='the interface files lie in the checkout')
def test_built_interfaces_are_those_of_the_files() -> None:
    from fpo_ros import action, msg, srv

    kinds = {'msg': (msg, ['']), 'srv': (srv, ['Request', 'Response']),
             'action': (action, ['Goal', 'Result', 'Feedback'])}
    for file in INTERFACES:
        module, parts = kinds[file.parent.name]
        for part, text in zip(parts, re.split('^---$', file.read_text(encoding='utf-8'), flags=re.M), strict=True):
            built = getattr(module, file.stem)
            built = getattr(built, part) if part else built
            lines = [line.partition('#')[0] for line in text.splitlines()]
            wanted = [line.split()[1] for line in lines if line.strip() and '=' not in line]
            assert list(built.get_fields_and_field_types()) == wanted, f'{file.name}: make setup builds it again'


def test_numbers_of_states_and_joinings_are_those_of_the_messages() -> None:
    from fpo_ros.msg import ActionChunk, ControllerStatus
    from fpo_ros.runtime.controller_config import ArmState
    from fpo_ros.runtime.timeline import Joining

    for enumeration, message, prefix in ((ArmState, ControllerStatus, 'STATE_'), (Joining, ActionChunk, 'JOIN_')):
        assert {one.name: one.value for one in enumeration} == {
            name.removeprefix(prefix): getattr(message, name) for name in dir(message) if name.startswith(prefix)}

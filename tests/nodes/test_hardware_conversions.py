"""Between Interbotix arrays and the 14-vector: hand-computed cases and round trips."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fpo_ros.hardware.gripper import CALIBRATIONS, GYM_ALOHA, INTERBOTIX, GripperCalibration, calibration_of
from fpo_ros.hardware.images import ImageError, rgb_image
from fpo_ros.hardware.joints import (
    JointStateError,
    both_sides,
    joint_state_positions,
    side_gripper_command,
    side_joints,
    split_command,
)
from fpo_ros.hardware.names import JOINT_STATE_NAMES, camera_list, camera_topic
from fpo_ros.policy.contract import JOINT_NAMES, START_JOINTS

ANGLES = st.lists(st.floats(-3.2, 3.2), min_size=6, max_size=6)


def test_start_pose_of_gym_aloha_normalises_to_the_contracts_start() -> None:
    positions = [0, -0.96, 1.16, 0, -0.3, 0, 0.0, 0.02239, -0.02239]
    side = side_joints(JOINT_STATE_NAMES, positions, GYM_ALOHA)
    np.testing.assert_allclose(side, START_JOINTS[:7], atol=1e-4)


@pytest.mark.parametrize('calibration', CALIBRATIONS.values())
def test_gripper_ends_map_to_zero_and_one(calibration: GripperCalibration) -> None:
    assert calibration.normalise_finger(calibration.finger_closed_m) == 0.0
    assert calibration.normalise_finger(calibration.finger_open_m) == pytest.approx(1.0)
    assert calibration.joint_angle(1.0) == pytest.approx(calibration.joint_open_rad)
    assert calibration.joint_angle(0.0) == calibration.joint_closed_rad


def test_half_open_gripper_by_hand() -> None:
    assert GYM_ALOHA.joint_angle(0.5) == pytest.approx((1.4910 - 0.6213) / 2)
    assert INTERBOTIX.normalise_finger((0.0579 + 0.0440) / 2) == pytest.approx(0.5)


@given(ANGLES, st.floats(-0.1, 1.4))
def test_driver_layout_and_back_is_the_identity(angles: list[float], gripper: float) -> None:
    side = np.array([*angles, gripper])
    positions = joint_state_positions(side, GYM_ALOHA)
    assert len(positions) == 9 and positions[7] == -positions[8]
    np.testing.assert_allclose(side_joints(JOINT_STATE_NAMES, positions, GYM_ALOHA), side, atol=1e-9)


def test_joints_are_found_by_name_in_any_order() -> None:
    positions = joint_state_positions(START_JOINTS[:7], GYM_ALOHA)
    order = [8, 3, 0, 7, 1, 5, 2, 4, 6]
    shuffled = side_joints([JOINT_STATE_NAMES[i] for i in order], [positions[i] for i in order], GYM_ALOHA)
    np.testing.assert_allclose(shuffled, START_JOINTS[:7])


@pytest.mark.parametrize(('names', 'positions', 'why'), [
    (JOINT_STATE_NAMES, [0.0] * 8, '9 names but 8 positions'),
    (('a', *JOINT_STATE_NAMES[1:]), [0.0] * 9, "lacks 'waist'"),
    (JOINT_STATE_NAMES, [0.0, np.nan, *[0.0] * 7], 'shoulder is nan'),
    (JOINT_STATE_NAMES, [*[0.0] * 7, np.inf, 0.0], 'left_finger is inf'),
])
def test_unusable_joint_states_are_refused_with_the_joint(names, positions, why) -> None:
    with pytest.raises(JointStateError, match=why):
        side_joints(names, positions, GYM_ALOHA)


def test_gripper_command_is_what_the_motor_reads_not_what_the_finger_measures() -> None:
    """The stock linkage: 0.6197 rad closes the jaws to 42.9 mm, which the finger scale calls -0.08, the motor 0."""
    positions = [0.0] * 6 + [0.6197, 0.04288, -0.04288]
    assert side_joints(JOINT_STATE_NAMES, positions, INTERBOTIX)[6] == pytest.approx(-0.0806, abs=1e-3)
    assert side_gripper_command(JOINT_STATE_NAMES, positions, INTERBOTIX) == pytest.approx(0.0, abs=1e-9)
    assert side_gripper_command((), positions, INTERBOTIX) == side_gripper_command(
        JOINT_STATE_NAMES[::-1], positions[::-1], INTERBOTIX)


@given(st.floats(-0.2, 1.5))
def test_first_gripper_command_leaves_the_motor_where_it_is(angle: float) -> None:
    command = np.zeros(14)
    command[6] = side_gripper_command((), [0.0] * 6 + [angle, 0.05, -0.05], INTERBOTIX)
    assert split_command(command, INTERBOTIX)['left'].gripper_rad == pytest.approx(angle, abs=1e-9)


def test_gripper_command_refuses_a_motor_that_is_not_read() -> None:
    with pytest.raises(JointStateError, match='gripper is nan'):
        side_gripper_command((), [0.0] * 6 + [np.nan, 0.05, -0.05], INTERBOTIX)
    with pytest.raises(JointStateError, match="lacks 'gripper'"):
        side_gripper_command(('left_finger',), [0.05], INTERBOTIX)


def test_command_is_split_into_arms_and_gripper_angles() -> None:
    command = np.arange(14.0)
    command[[6, 13]] = 1.0, 0.0
    parts = split_command(command, GYM_ALOHA)
    np.testing.assert_array_equal(parts['left'].arm, np.arange(6, dtype=np.float32))
    np.testing.assert_array_equal(parts['right'].arm, np.arange(7, 13, dtype=np.float32))
    assert parts['left'].gripper_rad == pytest.approx(1.4910)
    assert parts['right'].gripper_rad == pytest.approx(-0.6213)
    assert JOINT_NAMES[6] == 'left_gripper'


@pytest.mark.parametrize('command', [np.zeros(13), np.full(14, np.nan)])
def test_command_that_is_not_14_finite_numbers_is_never_split(command) -> None:
    with pytest.raises(ValueError, match='14 finite numbers'):
        split_command(command, GYM_ALOHA)


def test_both_sides_in_contract_order() -> None:
    joined = both_sides(np.arange(7.0), np.arange(7.0, 14.0))
    np.testing.assert_array_equal(joined, np.arange(14.0))


@pytest.mark.parametrize('values', [
    (0.01, 0.05, 1.0, 0.0), (0.05, 0.01, 0.0, 1.0), (0.05, 0.05, 1.0, 0.0), (0.0, 0.0, 0.0, 0.0)])
def test_calibration_must_open_upwards(values) -> None:
    with pytest.raises(ValueError, match='open above closed'):
        GripperCalibration(*values)


def test_calibration_of_four_parameters() -> None:
    parameters = SimpleNamespace(gripper_finger_open=0.06, gripper_finger_closed=0.04, gripper_joint_open=1.6,
                                 gripper_joint_closed=0.6)
    assert calibration_of(parameters) == GripperCalibration(0.06, 0.04, 1.6, 0.6)
    parameters.gripper_joint_open = float('nan')
    with pytest.raises(ValueError, match='joint_open_rad is not a finite number'):
        calibration_of(parameters)


def test_bgr_rows_with_padding_become_rgb() -> None:
    rows = np.zeros((2, 8), np.uint8)  # two pixels of three bytes, two bytes of padding
    rows[0, :6] = 1, 2, 3, 4, 5, 6
    image = rgb_image(rows.tobytes(), 'bgr8', 2, 2, 8)
    np.testing.assert_array_equal(image[0], [[3, 2, 1], [6, 5, 4]])
    assert image.shape == (2, 2, 3)


@pytest.mark.parametrize(
    ('encoding', 'size', 'why'), [('bayer_rggb8', 12, 'not supported'), ('rgb8', 11, '11 bytes')]
)
def test_unreadable_images_are_refused(encoding, size, why) -> None:
    with pytest.raises(ImageError, match=why):
        rgb_image(bytes(size), encoding, 2, 2, 6)


def test_camera_lists() -> None:
    assert camera_list(' cam_high, cam_low ') == ('cam_high', 'cam_low')
    assert camera_list('  ') == ()
    assert camera_topic('cam_high') == 'cam_high/camera/color/image_rect_raw'
    assert camera_topic('cam_high', 'image_raw') == 'cam_high/camera/color/image_raw'
    with pytest.raises(ValueError, match='empty or repeated'):
        camera_list('a,,b')

"""Between Interbotix arrays and the 14-vector: hand-computed cases and round trips."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fpo_ros.hardware.gripper import (
    CALIBRATIONS,
    GYM_ALOHA,
    INTERBOTIX,
    GripperCalibration,
    calibrations_of,
)
from fpo_ros.hardware.images import ImageError, rgb_image
from fpo_ros.hardware.joints import (
    JointStateError,
    both_sides,
    joint_state_positions,
    side_joints,
    split_command,
)
from fpo_ros.hardware.motor_file import (
    linkage_of_file,
    position_counts_of_file,
    position_counts_of_text,
    text_of_position_counts,
)
from fpo_ros.hardware.names import JOINT_STATE_NAMES, SIDES, camera_list, camera_topic
from fpo_ros.hardware.xs import FOLLOWER, VX300S_LINKAGE
from fpo_ros.policy.aloha import PI_ANGLES, state_to_pi
from fpo_ros.policy.contract import JOINT_NAMES, START_JOINTS
from fpo_ros.runtime.safety_config import servo_counts

ANGLES = st.lists(st.floats(-3.2, 3.2), min_size=6, max_size=6)


def test_start_pose_of_gym_aloha_normalises_to_the_contracts_start() -> None:
    """Its finger, 0.02239 m of 0.01844 to 0.058, is 0.0998 of the stroke; that of the motor's is -0.4104 rad."""
    positions = [0, -0.96, 1.16, 0, -0.3, 0, -0.4104, 0.02239, -0.02239]
    side = side_joints(JOINT_STATE_NAMES, positions, GYM_ALOHA)
    np.testing.assert_allclose(side, START_JOINTS[:7], atol=1e-4)


@pytest.mark.parametrize('calibration', CALIBRATIONS.values())
def test_gripper_ends_map_to_zero_and_one(calibration: GripperCalibration) -> None:
    assert calibration.normalise(calibration.joint_closed_rad) == 0.0
    assert calibration.normalise(calibration.joint_open_rad) == pytest.approx(1.0)
    assert calibration.angle(0.0) == pytest.approx(calibration.joint_closed_rad)
    assert calibration.normalise(calibration.angle(1.0)) == pytest.approx(1.0)


def test_half_open_gripper_by_hand() -> None:
    """Without a crank half of the motor's way; with it half of the fingers', from 42.88 to 62.44 mm, is 52.66 mm."""
    assert GYM_ALOHA.angle(0.5) == pytest.approx((1.4910 - 0.6213) / 2)
    assert INTERBOTIX.linkage.finger(INTERBOTIX.angle(0.5)) == pytest.approx(0.05266, abs=1e-5)
    assert INTERBOTIX.normalise((1.6214 + 0.6197) / 2) == pytest.approx(0.7553, abs=1e-4)


def test_a_crank_beyond_its_dead_centre_opens_no_further() -> None:
    """At 1.6214 rad the horn is 0.05 rad past the fingers' line, and they stand where they do at 1.5202."""
    assert INTERBOTIX.angle(1.0) == pytest.approx(math.pi - 1.6214, abs=1e-6)
    assert INTERBOTIX.normalise(math.pi / 2) == pytest.approx(1.0032, abs=1e-4)
    assert INTERBOTIX.angle(1.5) == pytest.approx(math.pi / 2)


@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.floats(0.5, 0.7), st.floats(1.2, 1.57))
def test_what_is_commanded_is_what_is_measured_over_the_whole_stroke(left, right, closed, opened) -> None:
    """Each side by its own ends, and by the fingers that the driver computes from the motor."""
    grippers = {'left': INTERBOTIX, 'right': GripperCalibration(opened, closed, FOLLOWER.linkage)}
    command = np.zeros(14)
    command[[6, 13]] = left, right
    for side, part in split_command(command, grippers).items():
        finger = FOLLOWER.linkage.finger(part.gripper_rad)
        measured = side_joints((), [*part.arm, part.gripper_rad, finger, -finger], grippers[side])[6]
        wanted = command[6 if side == 'left' else 13]
        assert measured == pytest.approx(wanted, abs=1e-6)
        ends = [FOLLOWER.linkage.finger(angle) for angle in (grippers[side].joint_closed_rad,
                                                             grippers[side].joint_open_rad)]
        assert finger == pytest.approx(ends[0] + wanted * (ends[1] - ends[0]), abs=1e-8)


@given(st.floats(-0.6, 1.45))
def test_states_of_the_first_aloha_are_those_that_openpi_takes_back_to_an_angle(angle: float) -> None:
    """openpi turns the share of a finger's travel into the motor's angle; its constants are rounded to 0.1 mm."""
    first = GripperCalibration(GYM_ALOHA.joint_open_rad, GYM_ALOHA.joint_closed_rad, VX300S_LINKAGE)
    seen = state_to_pi(np.full(14, first.normalise(angle)))[6] * (PI_ANGLES[1] - PI_ANGLES[0]) + PI_ANGLES[0]
    assert VX300S_LINKAGE.finger(seen) == pytest.approx(VX300S_LINKAGE.finger(angle), abs=1.5e-4)


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
    (JOINT_STATE_NAMES, [*[0.0] * 6, np.inf, 0.0, 0.0], 'gripper is inf'),
    (JOINT_STATE_NAMES[7:], [0.0, 0.0], "lacks 'waist'"),
])
def test_unusable_joint_states_are_refused_with_the_joint(names, positions, why) -> None:
    with pytest.raises(JointStateError, match=why):
        side_joints(names, positions, GYM_ALOHA)


@pytest.mark.parametrize('angle', [-0.2, 0.6197, 1.1, 1.5])
def test_first_gripper_command_leaves_the_motor_where_it_is(angle: float) -> None:
    command = np.zeros(14)
    command[6] = side_joints((), [0.0] * 6 + [angle, 0.05, -0.05], INTERBOTIX)[6]
    sent = split_command(command, dict.fromkeys(SIDES, INTERBOTIX))['left'].gripper_rad
    assert sent == pytest.approx(angle, abs=1e-7)


def test_command_is_split_into_arms_and_gripper_angles() -> None:
    command = np.arange(14.0)
    command[[6, 13]] = 1.0, 0.0
    parts = split_command(command, dict.fromkeys(SIDES, GYM_ALOHA))
    np.testing.assert_array_equal(parts['left'].arm, np.arange(6, dtype=np.float32))
    np.testing.assert_array_equal(parts['right'].arm, np.arange(7, 13, dtype=np.float32))
    assert parts['left'].gripper_rad == pytest.approx(1.4910)
    assert parts['right'].gripper_rad == pytest.approx(-0.6213)
    assert JOINT_NAMES[6] == 'left_gripper'


@pytest.mark.parametrize('command', [np.zeros(13), np.full(14, np.nan)])
def test_command_that_is_not_14_finite_numbers_is_never_split(command) -> None:
    with pytest.raises(ValueError, match='14 finite numbers'):
        split_command(command, dict.fromkeys(SIDES, GYM_ALOHA))


def test_both_sides_in_contract_order() -> None:
    joined = both_sides(np.arange(7.0), np.arange(7.0, 14.0))
    np.testing.assert_array_equal(joined, np.arange(14.0))


@pytest.mark.parametrize(('values', 'why'), [
    ((0.0, 1.0), 'open above closed'), ((0.52, 0.5), 'open above closed'), ((math.nan, 0.5), 'is not a finite number'),
    ((1.66, 1.48, FOLLOWER.linkage), 'a finger to travel 0.001 m or more')])
def test_calibration_must_open_upwards_and_move_the_fingers(values, why) -> None:
    with pytest.raises(ValueError, match=why):
        GripperCalibration(*values)


def test_each_side_has_a_calibration_of_its_own() -> None:
    ends = dict(left_gripper_joint_open=1.6, left_gripper_joint_closed=0.6, right_gripper_joint_open=1.5,
                right_gripper_joint_closed=0.7)
    found = calibrations_of(SimpleNamespace(**ends, gripper_horn=0.0275, gripper_arm=0.035))
    assert found == {'left': GripperCalibration(1.6, 0.6, FOLLOWER.linkage),
                     'right': GripperCalibration(1.5, 0.7, FOLLOWER.linkage)}
    assert calibrations_of(SimpleNamespace(**ends, gripper_horn=0.0, gripper_arm=0.0))['left'].linkage is None
    with pytest.raises(ValueError, match='horn of a gripper is no longer than its arm'):
        calibrations_of(SimpleNamespace(**ends, gripper_horn=0.0275, gripper_arm=0.0))


def test_the_linkage_of_a_motor_file_and_of_one_that_has_none(tmp_path) -> None:
    file = tmp_path / 'motors.yaml'
    file.write_text('grippers: {gripper: {horn_radius: 0.022, arm_length: 0.036, left_finger: left_finger}}')
    assert linkage_of_file(file) == VX300S_LINKAGE
    for text in ('grippers: {}', 'grippers: {gripper: 3}', '3', 'grippers: {gripper: {horn_radius: 1, arm_length: 0}}'):
        file.write_text(text)
        with pytest.raises(ValueError, match=r'motors\.yaml has no horn_radius and arm_length'):
            linkage_of_file(file)
    file.write_text('a: [')
    with pytest.raises(ValueError, match='is no YAML file'):
        linkage_of_file(file)
    with pytest.raises(ValueError, match='cannot read the motor file'):
        linkage_of_file(tmp_path / 'nowhere.yaml')


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


def test_position_limits_of_a_motor_file_are_those_the_servos_keep(tmp_path) -> None:
    file, stock = tmp_path / 'motors.yaml', FOLLOWER.counts
    file.write_text('motors: {waist: {ID: 1, Min_Position_Limit: 1365, Max_Position_Limit: 2731}, elbow: {ID: 4}}')
    found = position_counts_of_file(file, stock)
    assert found == [(1365, 2731), *FOLLOWER.counts[1:6]], 'stock where the file is silent'
    assert position_counts_of_text(text_of_position_counts(found), 'a parameter') == found
    for limits in ('Min_Position_Limit: 4096', 'Max_Position_Limit: 0', 'Min_Position_Limit: 3.5',
                   'Max_Position_Limit: far'):
        file.write_text(f'motors: {{waist: {{{limits}}}}}')
        with pytest.raises(ValueError, match=r"motors\.yaml: waist's Min_Position_Limit and Max_Position_Limit are"):
            position_counts_of_file(file, stock)
    for text in ('1, 2', '0,' * 12, ', '.join(['2, 1'] * 6), ', '.join(['0, 4096'] * 6), ', '.join(['-1, 5'] * 6)):
        with pytest.raises(ValueError, match='a parameter is .*: give twelve counts from 0 to 4095'):
            position_counts_of_text(text, 'a parameter')


def test_the_safety_filter_and_the_driver_know_the_same_limits_of_the_stock_servos():
    assert servo_counts().tolist() == [[list(pair) for pair in FOLLOWER.counts[:6]]] * 2

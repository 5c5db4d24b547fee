"""The cell's physics: what bus requests cost and do, torque, currents, leaders, placed objects."""

from __future__ import annotations

import numpy as np
import pytest

from fpo_ros.hardware import xs
from fpo_ros.hardware.gripper import INTERBOTIX
from fpo_ros.hardware.modes import ModeFileError, load_modes
from fpo_ros.policy.contract import SIDES, START_JOINTS
from fpo_ros.sim.task import sample_object_pose
from fpo_ros.sim.twin.physics import PlacingError, TwinPhysics

ARM = 'follower_left'


@pytest.fixture
def cell() -> TwinPhysics:
    """Both followers and the cube at the start of scene 0."""
    return TwinPhysics('transfer_cube')


@pytest.fixture(scope='module')
def four() -> TwinPhysics:
    """All four arms; tests of this module leave the right leader alone."""
    return TwinPhysics('transfer_cube', leaders=True)


def test_requests_cost_what_registers_cost(cell) -> None:
    arm = cell.arms[ARM]
    assert sum(arm.single('gripper', 0.5)) == pytest.approx(0.01)
    assert sum(arm.torque_enable('group', 'arm', True)) == pytest.approx(0.06)
    assert sum(arm.set_modes('group', 'arm', 'position', 'velocity', 0, 0)) == pytest.approx(0.36)
    assert sum(arm.reboot('group', 'all', False, False)) == pytest.approx(7.0)
    assert sum(arm.set_registers('single', 'gripper', 'Current_Limit', 200)) == pytest.approx(0.01)


def test_a_mode_change_takes_the_torque_for_a_moment_and_leaves_it_on(cell) -> None:
    arm = cell.arms[ARM]
    list(arm.torque_enable('single', 'elbow', False))
    change, seen = arm.set_modes('single', 'elbow', 'position', 'velocity', 63, 0), []
    for _ in change:
        seen.append(bool(arm.motors.torque[2]))
    assert seen == [False, False] and arm.motors.torque[2]
    assert arm.motors.registers[2]['Profile_Velocity'] == 63


def test_unknown_names_and_wrong_lengths_are_logged_and_change_nothing(cell) -> None:
    arm, said = cell.arms[ARM], []
    arm.log = said.append
    arm.group('arm', [0.0] * 5)
    arm.group('legs', [0.0] * 6)
    assert list(arm.single('toe', 0.0)) == list(arm.torque_enable('pair', 'arm', False)) == []
    assert list(arm.set_modes('group', 'arm', 'wishful', 'velocity', 0, 0)) == []
    assert len(said) == 5 and '5 values' in said[0]
    assert arm.motors.torque.all() and arm.get_registers('single', 'toe', 'ID') == []


def test_ping_takes_the_torque_of_every_motor_and_the_arm_falls(cell) -> None:
    cell.arms[ARM].ping()
    cell.step(500)
    assert np.abs(cell.measure(ARM).positions - cell.measure('follower_right').positions).max() > 0.5


def test_currents_carry_the_load_and_not_the_models_friction(cell) -> None:
    cell.step(100)
    gravity = cell._world.data.qfrc_bias[cell._world.model.arm_dofs[0]]
    np.testing.assert_allclose(cell.measure(ARM).torques[:6], gravity, atol=0.05)
    assert 100 < abs(cell.measure(ARM).currents_ma[2]) < 3000


def test_a_grippers_current_limit_caps_its_force(cell) -> None:
    arm = cell.arms[ARM]
    list(arm.single('gripper', 1.4))
    cell.step(500)
    list(arm.set_modes('single', 'gripper', 'current_based_position', 'velocity', 0, 0))
    arm.motors.write(6, 'Goal_Current', 20, arm.measure().positions)
    list(arm.single('gripper', -0.6))
    forces = []
    for _ in range(100):
        cell.step(5)
        forces.append(abs(cell._world.data.actuator_force[cell._world.model.finger_ctrl[0]]).max())
    most = 20 * xs.CURRENT_UNIT_MA * 1e-3 * 0.897 / (2 * (0.058 - 0.01844) / (1.4910 + 0.6213))
    assert max(forces) == pytest.approx(most, rel=0.05)


def test_pwm_closes_a_gripper_and_current_turns_the_waist(cell) -> None:
    arm = cell.arms[ARM]
    list(arm.single('gripper', 1.4))
    cell.step(500)
    list(arm.set_modes('single', 'gripper', 'pwm', 'velocity', 0, 0))
    list(arm.single('gripper', -250.0))
    list(arm.set_modes('single', 'waist', 'current', 'velocity', 0, 0))
    list(arm.single('waist', 800.0))
    cell.step(250)
    assert cell.measure(ARM).positions[0] > 0.2 and cell.measure(ARM).velocities[0] < 4
    assert cell.follower('left').positions[6] > 0.5, '250 of 885 are 1.4 rad/s at most'
    cell.step(750)
    assert cell.follower('left').positions[6] < 0.2


def test_velocity_mode_turns_a_joint_at_its_speed(cell) -> None:
    arm = cell.arms[ARM]
    list(arm.set_modes('single', 'waist', 'velocity', 'velocity', 0, 0))
    list(arm.single('waist', 0.5))
    cell.step(250)
    first = cell.measure(ARM).positions[0]
    cell.step(500)
    assert cell.measure(ARM).positions[0] - first == pytest.approx(0.5, abs=0.03)


def test_trajectories_skip_their_first_point_and_lose_whole_seconds(cell) -> None:
    arm, rest = cell.arms[ARM], START_JOINTS[1:6].tolist()
    arm.log = (said := []).append
    points = [[0.0, *rest], [0.1, *rest], [0.2, *rest]]
    arm.trajectory('group', 'arm', [(0, 0), (0, 200_000_000), (1, 400_000_000)], points, cell.time_s)
    arm.trajectory('group', 'arm', [(0, 0), (1, 0)], points[:2], cell.time_s)
    assert 'rejected a trajectory' in said[0]
    cell.step(75)
    assert arm.motors.goals[0] == 0.0
    cell.step(50)
    assert arm.motors.goals[0] == 0.1
    cell.step(100)
    assert arm.motors.goals[0] == 0.2, 'the last point was meant for 1.4 s and comes at 0.4 s'


def test_fingers_follow_the_linkage_of_the_motor_file() -> None:
    cell = TwinPhysics('transfer_cube', calibrations=dict.fromkeys(SIDES, INTERBOTIX))
    arm = cell.arms[ARM]
    for angle, finger in ((1.6214, 0.06244), (0.6197, 0.04288)):  # by hand from horn 27.5 mm and arm 35 mm
        list(arm.single('gripper', angle))
        cell.step(1000)
        readout = arm.read()
        # The model's fingers stop 2.5 % before open, and meet 10 % before closed.
        assert readout.position[7] == pytest.approx(finger, abs=0.11 * 0.01956)
        assert readout.position[7] == pytest.approx(xs.FOLLOWER.linkage.finger(readout.position[6]))
        assert readout.position[8] == -readout.position[7]


def test_leaders_rest_in_their_sleep_pose_without_torque(four) -> None:
    four.step(250)
    positions = four.measure('leader_right').positions
    assert positions[1:3] == pytest.approx([-1.88, 1.6], abs=0.05)
    assert four.measure('leader_right').velocities[1] == pytest.approx(0.0, abs=0.01)


def test_a_hand_moves_a_leader_and_its_motors_hold_it_then(four) -> None:
    wanted = np.array([0.4, -0.96, 1.16, 0.1, -0.3, 0.2, 0.6])
    four.pull_leader('left', dict(enumerate(wanted)))
    four.step(1000)
    arm = four.arms['leader_left']
    np.testing.assert_allclose(four.measure('leader_left').positions, wanted, atol=0.05)
    list(arm.torque_enable('group', 'all', True))
    four.pull_leader('left', {})
    four.step(250)
    np.testing.assert_allclose(four.measure('leader_left').positions, wanted, atol=0.08)
    list(arm.torque_enable('group', 'all', False))
    four.step(750)
    assert four.measure('leader_left').positions[1] < -1.5, 'let go without torque it falls'


def test_the_hand_closes_a_leaders_gripper_while_the_arm_holds(four) -> None:
    """The start gesture of ALOHA: torque on in the arm, off in the gripper, which is closed below 0 rad."""
    arm = four.arms['leader_left']
    for opening in (0.8, -0.05):
        four.pull_leader('left', {6: opening})
        four.step(500)
    assert arm.read().position[6] < 0.0


def test_leaders_do_not_change_a_bit_of_the_followers_and_the_cube(cell, four) -> None:
    for one in (cell, four):
        one.reset(7)
        for name in ('follower_left', 'follower_right'):
            one.arms[name].group('arm', [0.05, *START_JOINTS[1:6]])
        one.step(100)
    np.testing.assert_array_equal(cell.positions(), four.positions())


def test_a_cell_without_leaders_says_so(cell) -> None:
    with pytest.raises(ValueError, match='no leaders'):
        cell.pull_leader('left', {0: 0.0})


def test_a_placed_object_lies_where_it_was_put_and_the_arms_stay(cell) -> None:
    before = cell.measure(ARM).positions
    pose = np.array([0.05, 0.55, 0.02, 1.0, 0.0, 0.0, 0.0])
    np.testing.assert_allclose(cell.place(pose), pose)
    cell.step(250)
    np.testing.assert_allclose(cell.object_pose()[:3], pose[:3], atol=0.002)
    np.testing.assert_allclose(cell.measure(ARM).positions, before, atol=0.01)


@pytest.mark.parametrize(('pose', 'why'), [
    ([0, 0.5, 0.05, 1, 0, 0, 0, 1], '1 poses for 1 objects'),
    ([0, 0.5, 0.05, 2, 0, 0, 0], 'unit quaternion'),
    ([np.nan, 0.5, 0.05, 1, 0, 0, 0], 'must be finite'),
    ([3, 0.5, 0.05, 1, 0, 0, 0], r'box cannot lie at'),
    ([0, 0.5, 0.0, 1, 0, 0, 0], r'box would stand 20 mm deep')])
def test_objects_are_not_placed_where_they_cannot_lie(cell, pose, why) -> None:
    with pytest.raises(PlacingError, match=why):
        cell.place(np.array(pose, np.float64))
    np.testing.assert_allclose(cell.object_pose(), sample_object_pose('transfer_cube', 0), atol=1e-9)


def test_mode_files_of_the_package_start_the_motors_as_they_say(tmp_path) -> None:
    from fpo_ros.nodes.locate import share_path

    settings = load_modes(share_path('config/follower_left_modes.yaml'))
    assert [one.profile_velocity for one in settings] == [63] * 6 + [105]
    assert settings[6].mode == 'current_based_position' and all(one.torque for one in settings)
    wrong = tmp_path / 'modes.yaml'
    for text, why in (('groups: {arm: {operating_mode: positon}}', 'groups.arm.operating_mode'),
                      ('singles: {toe: {operating_mode: pwm}}', 'singles.toe'),
                      ('groups: {arm: {profile_velocity: fast}}', 'profile_velocity')):
        wrong.write_text(text)
        with pytest.raises(ModeFileError, match=why):
            load_modes(wrong)

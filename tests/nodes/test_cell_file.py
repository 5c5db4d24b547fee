"""The cell's file: checked key by key, laid under the graph, and calibrated against the twin over DDS."""

from __future__ import annotations

import math
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from interbotix_xs_msgs.msg import JointTrajectoryCommand  # noqa: E402
from rclpy.lifecycle import TransitionCallbackReturn  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402

from fpo_ros.hardware.calibration import check_offsets, measure_gripper, measure_joints  # noqa: E402
from fpo_ros.hardware.cell import CellError, load_cell, save_calibration  # noqa: E402
from fpo_ros.hardware.gripper import GripperCalibration  # noqa: E402
from fpo_ros.hardware.names import FOLLOWERS, LEADERS  # noqa: E402
from fpo_ros.hardware.xs import FOLLOWER  # noqa: E402
from fpo_ros.hardware.xs_client import XsClient  # noqa: E402
from fpo_ros.hardware.xs_types import XsError  # noqa: E402
from fpo_ros.msg import ControllerStatus  # noqa: E402
from fpo_ros.nodes import calibrate_cli, qos  # noqa: E402
from fpo_ros.nodes.graph import GraphError, GraphOptions, describe  # noqa: E402
from fpo_ros.nodes.locate import share_path  # noqa: E402
from fpo_ros.nodes.ros_client import RosClient  # noqa: E402
from fpo_ros.nodes.xs_transport import RosXsTransport  # noqa: E402
from fpo_ros.policy.contract import START_JOINTS  # noqa: E402
from fpo_ros.sim.twin.node import DriverTwin  # noqa: E402

pytestmark = pytest.mark.ros

ARM = 'follower_left'


@pytest.fixture(autouse=True)
def _found_soon(monkeypatch) -> None:
    """Nodes of one process find each other soon, mostly."""
    monkeypatch.setattr('fpo_ros.nodes.xs_transport.LOOK_S', 1.0)


@pytest.fixture
def file(tmp_path) -> Path:
    """A copy of the example of a stationary cell."""
    return Path(shutil.copy(share_path('config/cells/aloha_stationary.yaml'), tmp_path / 'cell.yaml'))


def test_examples_differ_in_what_a_mobile_cell_lacks() -> None:
    stationary, mobile = (load_cell(share_path(f'config/cells/aloha_{kind}.yaml')) for kind in ('stationary', 'mobile'))
    assert set(stationary.cameras) - set(mobile.cameras) == {'cam_low'}
    assert stationary.arms.keys() == mobile.arms.keys() and len(stationary.arms) == 4
    assert stationary.reference == tuple(START_JOINTS[:6])


@pytest.mark.parametrize(('before', 'after', 'why'), [
    ('limits:  ', 'limit:  ', "limit: unknown key: did you mean 'limits'"),
    ('limits:  ', 'kind: stationary\nlimits:  ', 'kind: unknown key'),
    ('follower_left: {model: aloha_vx300s,', 'follower_left: {modl: aloha_vx300s,',
     r"arms\.follower_left\.modl: unknown key: did you mean 'model'"),
    ('follower_left: {model: aloha_vx300s', 'follower_left: {model: aloha_wx250s',
     r'arms\.follower_left\.model: follower_left must be aloha_vx300s'),
    ('  leader_right: {model: aloha_wx250s, motor_configs: "", mode_configs: ""}\n', '',
     'arms: a cell has both leaders or none'),
    ('joint_speed: 1.0', 'joint_speed: 9.0', r'limits\.joint_speed: must be a number from 0\.01 to 3\.14 rad/s, got 9'),
    ('table_height: 0.0 ', 'table_height: 1.0 ', r'limits\.table_height: must be a number from -0\.5 to 0\.5 m, got 1'),
    ('park_rad: [0.0, ', 'park_rad: [', r'poses\.park_rad: must be a list of 6 numbers'),
    ('joint_speed: 1.0', 'joint_speed: fast', r"limits\.joint_speed: must be a number .* got 'fast'"),
    ('  gripper_speed: 2.0', '  griper_speed: 2.0', r'limits\.griper_speed: unknown key'),
    ('640x480x30', '640x480', r'cameras\.color_profile: must be width x height x rate'),
    ('cam_high: ""', 'cam_high: 218622270304', r'cameras\.serials\.cam_high: must be a text; put numbers in quotes'),
    ('0.0, -0.96, 1.16, 0.0, -0.3, 0.0]', '0.0, -0.96]', r'poses\.reference_rad: must be a list of 6 numbers'),
    ('0.0, -0.96, 1.16, 0.0, -0.3, 0.0]', '0.0, -0.96, .nan, 0.0, -0.3, 0.0]', r'poses\.reference_rad\[2\]: must be'),
    ('follower_left: {joint_open_rad: 1.6214', 'follower_left: {joint_open_rad: 0.6',
     r'calibration\.grippers\.follower_left: gripper calibration needs open above closed'),
    ('leader_left: {joint_open_rad: 0.8298', 'leader_left: {joint_open_rad: 4.0',
     r'calibration\.grippers\.leader_left\.joint_open_rad: must be a number from -3\.14'),
    ('    leader_left: {joint_open_rad: 0.8298, joint_closed_rad: -0.0552}\n', '',
     r'grippers\.leader_left: is missing'),
    ('follower_right: {joint_open_rad', 'follower_right: {finger_open_m: 0.05, joint_open_rad',
     r'grippers\.follower_right\.finger_open_m: unknown key'),
    ('follower_left: {model: aloha_vx300s, motor_configs: ""',
     'follower_left: {model: aloha_vx300s, motor_configs: /no',
     r'grippers\.follower_left: cannot read the motor file /no'),
    ('joint_offsets_rad: {}', 'joint_offsets_rad: {follower_left: [0, 0, 2, 0, 0, 0]}',
     r'calibration\.joint_offsets_rad\.follower_left\[2\]: must be a number from -1\.57'),
    ('joint_offsets_rad: {}', 'joint_offsets_rad: {follower_lft: [0, 0, 0, 0, 0, 0]}',
     r"joint_offsets_rad\.follower_lft: unknown key: did you mean 'follower_left'"),
    ('  joint_offsets_rad: {}', '', r'calibration\.joint_offsets_rad: is missing'),
    ('limits:  ', 'limits: [  ', 'is no YAML file')])
def test_what_is_wrong_in_a_cell_file_is_named(file, before, after, why) -> None:
    text = file.read_text()
    assert text.count(before) == 1
    file.write_text(text.replace(before, after))
    with pytest.raises(CellError, match=f'cell.yaml.*{why}'):
        load_cell(file)


def test_two_cameras_cannot_have_one_serial_number(file) -> None:
    file.write_text(file.read_text().replace('cam_high: ""', 'cam_high: "12"').replace('cam_low: ""', 'cam_low: "12"'))
    with pytest.raises(CellError, match='serial number 12 is that of another camera'):
        load_cell(file)


def test_a_cell_reaches_nodes_and_drivers(file) -> None:
    file.write_text(file.read_text().replace('cam_high: ""', 'cam_high: "218622270304"')
                    .replace('joint_speed: 1.0', 'joint_speed: 0.7')
                    .replace('table_height: 0.0 ', 'table_height: 0.03 ')
                    .replace('park_rad: [0.0, -1.62', 'park_rad: [0.0, -1.5')
                    .replace('follower_left: {joint_open_rad: 1.6214', 'follower_left: {joint_open_rad: 1.5')
                    .replace('leader_right: {joint_open_rad: 0.8298', 'leader_right: {joint_open_rad: 0.75'))
    description = describe(GraphOptions(mode='real', cell=str(file), teleop=True))
    nodes = {spec.name: spec.parameters for spec in description.nodes}
    assert nodes['arm_controller']['joint_speed'] == 0.7 and nodes['arm_controller']['table_height'] == 0.03
    assert nodes['arm_controller']['park_joints'] == '0.0, -1.5, 1.486, 0.0, -1.469, 0.0'
    for node in ('arm_controller', 'proprio_ingest'):  # each side has its own
        assert (nodes[node]['left_gripper_joint_open'], nodes[node]['right_gripper_joint_open']) == (1.5, 1.6214)
    assert (nodes['teleop']['left_leader_joint_open'], nodes['teleop']['right_leader_joint_open']) == (0.8298, 0.75)
    assert description.drivers[-1].arguments['serial_no'] == '_218622270304'
    twin = describe(GraphOptions(mode='real', use_twin=True, cell=str(file))).nodes[0].parameters
    assert twin['leaders'] is True and twin['camera_rate'] == 30.0


def test_each_arms_motor_and_mode_files_reach_its_driver_and_the_twin(file, tmp_path) -> None:
    text, modes = file.read_text(), tmp_path / 'my_modes.yaml'
    modes.write_text(share_path('config/leader_left_modes.yaml').read_text().replace('ttyDXL_leader_left', 'ttyUSB7'))
    for arm in ('follower_right', 'leader_left'):
        before = next(line for line in text.splitlines() if line.startswith(f'  {arm}: {{model'))
        after = before.replace('motor_configs: ""', f'motor_configs: {tmp_path}/{arm}.yaml')
        text = text.replace(before, after.replace('mode_configs: ""', f'mode_configs: {modes}')
                            if arm == 'leader_left' else after)
    file.write_text(text)
    motors = tmp_path / 'follower_right.yaml'
    motors.write_text('grippers: {gripper: {horn_radius: 0.022, arm_length: 0.036}}')
    with pytest.raises(CellError, match='both followers need the same gripper'):
        load_cell(file)
    motors.write_text('grippers: {gripper: {horn_radius: 0.0275, arm_length: 0.035}}\n'
                      'motors: {waist: {Min_Position_Limit: 1365, Max_Position_Limit: 2731}}')
    options = GraphOptions(mode='real', teleop=True, cell=str(file))
    drivers = {driver.namespace: driver.arguments for driver in describe(options).drivers}
    assert drivers['leader_left']['mode_configs'] == str(modes), 'which names the port'
    assert drivers['leader_right']['mode_configs'] == str(share_path('config/leader_right_modes.yaml'))
    assert [drivers[arm]['motor_configs'] for arm in (*FOLLOWERS.values(), *LEADERS.values())] == [
        '', f'{tmp_path}/follower_right.yaml', f'{tmp_path}/leader_left.yaml', '']
    controller = next(spec for spec in describe(options).nodes if spec.name == 'arm_controller').parameters
    assert controller['right_servo_limits'].startswith('1365, 2731, 841, 2867') and not controller['left_servo_limits']
    twin = describe(replace(options, use_twin=True)).nodes[0].parameters
    assert twin['leader_left_mode_configs'] == str(modes)
    motors.write_text(motors.read_text().replace('2731', '1000'))
    with pytest.raises(GraphError, match="waist's Min_Position_Limit and Max_Position_Limit are 1365 and 1000"):
        describe(options)
    motors.write_text(motors.read_text().replace('1000', '2731'))
    slow = modes.read_text().replace('profile_velocity: 63', 'profile_velocity: 40')
    modes.write_text(slow)
    with pytest.raises(GraphError, match=r'my_modes.yaml: profile_velocity of arm is 0\.96 rad/s.*lower track_speed'):
        describe(options)


def test_a_configuration_lies_over_the_cell_and_the_simulation_takes_none(file, tmp_path) -> None:
    mine = tmp_path / 'mine.yaml'
    mine.write_text('/**/arm_controller: {ros__parameters: {joint_speed: 0.4}}')
    options = GraphOptions(mode='real', use_twin=True, cell=str(file), config=str(mine))
    assert next(spec for spec in describe(options).nodes if spec.name == 'arm_controller').parameters[
        'joint_speed'] == 0.4
    with pytest.raises(GraphError, match="mode 'sim' takes no cell"):
        GraphOptions(cell=str(file))
    with pytest.raises(GraphError, match='cannot read the cell file'):
        describe(GraphOptions(mode='real', use_twin=True, cell='/nowhere.yaml'))


def test_calibrations_are_written_below_everything_else(file) -> None:
    above = file.read_text().split('calibration:\n')[0]
    measured = GripperCalibration(1.63, 0.61, FOLLOWER.linkage)
    cell = save_calibration(load_cell(file), {ARM: measured}, {ARM: (0.01, 0.0, -0.02, 0.0, 0.0, 0.0)})
    assert file.read_text().startswith(above)
    assert cell.grippers[ARM] == measured and cell.grippers['follower_right'].joint_open_rad == 1.6214
    assert save_calibration(cell, joint_offsets_rad={'leader_left': (0.0,) * 6}).joint_offsets_rad[ARM][2] == -0.02


def test_what_would_be_no_cell_is_not_written(file) -> None:
    before = file.read_text()
    with pytest.raises(CellError, match='a finger to travel'):
        save_calibration(load_cell(file), {ARM: GripperCalibration(1.66, 1.48)})
    assert file.read_text() == before and [path.name for path in file.parent.iterdir()] == ['cell.yaml']
    file.write_text(before + 'limits_again: 1\n'.replace('limits_again: 1', '# a comment'))
    save_calibration(load_cell(file), {ARM: GripperCalibration(1.62, 0.62)})
    lines = before.split('# Written by')
    file.write_text('# Written by' + lines[1] + lines[0])
    with pytest.raises(CellError, match='must be the last section'):
        save_calibration(load_cell(file), {ARM: GripperCalibration(1.62, 0.62)})


@pytest.fixture(scope='module')
def bench(ros):
    """An active twin with leaders and a client of its arms."""
    node = DriverTwin(parameter_overrides=[Parameter('bus_time_scale', value=0.1), Parameter('leaders', value=True)])
    assert node.trigger_configure() == node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    with RosClient('calibration_test') as client:
        transport = RosXsTransport(client.node, (ARM, 'leader_left'))
        for arm in (ARM, 'leader_left'):
            transport.wait_for(lambda arm=arm: XsClient(transport, arm).info().mode, f'the set-up of {arm}', 20.0)
        yield node, transport
    node.trigger_shutdown()
    node.destroy_node()


def test_a_gripper_is_measured_where_a_hand_opens_and_closes_it(bench) -> None:
    node, transport = bench
    arm, plant = XsClient(transport, 'leader_left'), node.physics

    def hand(what: str) -> None:
        assert not arm.torques()['gripper']
        wanted = 0.8 if 'open' in what else 0.0
        plant.pull_leader('left', {6: wanted})
        transport.wait_for(lambda: abs(arm.read().gripper_rad - wanted) < 0.04, what, 10.0)

    found = measure_gripper(arm, hand)
    assert found.joint_open_rad == pytest.approx(0.8, abs=0.05) and found.joint_closed_rad == pytest.approx(0, abs=0.05)
    with pytest.raises(XsError, match=r'leader_left: a finger reads .* name the motor file'):
        measure_gripper(arm, hand, FOLLOWER.linkage)
    plant.pull_leader('left', {})


def test_zeros_are_mended_in_the_motors_and_kept_in_the_file(bench, file, monkeypatch) -> None:
    """The elbow's horn sits 0.123 rad off and the waist's -0.06: what is reported differs from where the arm is."""
    node, transport = bench
    arm, cell = XsClient(transport, 'leader_left'), load_cell(file)
    arm.set_torque('arm', False)
    for joint, counts in (('elbow', 80), ('waist', -40)):
        arm.set_register(joint, 'Homing_Offset', counts)

    def hand(what: str) -> None:
        node.physics.pull_leader('left', dict(enumerate(cell.reference)))
        transport.wait_for(lambda: np.abs(node.physics.measure('leader_left').positions[:6] - cell.reference).max()
                           < 0.004, what, 10.0)
        transport.wait_for(lambda: abs(node.physics.measure('leader_left').velocities).max() < 0.01, what, 10.0)

    hand('the arm to stand in the jig')
    assert arm.read().joints[2] - cell.reference[2] == pytest.approx(80 * 2 * math.pi / 4096, abs=0.005)
    offsets = measure_joints(arm, cell.reference, hand)
    np.testing.assert_allclose(arm.read().joints, cell.reference, atol=0.01)
    np.testing.assert_allclose(offsets, np.zeros(6), atol=0.01)
    cell = save_calibration(cell, joint_offsets_rad={'leader_left': offsets})
    check_offsets(arm, cell)
    arm.set_register('elbow', 'Homing_Offset', 30)
    with pytest.raises(CellError, match='leader_left: elbow: register Homing_Offset: .* calibrate it again'):
        check_offsets(arm, cell)
    arm.set_register('elbow', 'Homing_Offset', 0)
    with pytest.raises(XsError, match='waist reads .* that is no error of its zero'):
        measure_joints(arm, (1.0, *cell.reference[1:]), hand)
    node.physics.pull_leader('left', {})


def test_an_offset_moves_where_the_servo_regulates(bench) -> None:
    node, transport = bench
    arm = XsClient(transport, ARM)
    arm.set_torque('waist', False)
    arm.set_register('waist', 'Homing_Offset', 100)
    arm.set_torque('waist', True)
    arm.reach([0.3, *arm.read().joints[1:]], 5.0, 0.02)
    assert node.physics.measure(ARM).positions[0] == pytest.approx(0.3 - 100 * 2 * math.pi / 4096, abs=0.02)
    node.physics.reset(1)
    time.sleep(0.3)
    assert node.physics.measure(ARM).positions[0] == pytest.approx(0.0, abs=0.01), 'a reset scene is the training start'
    arm.set_torque('waist', False)
    arm.set_register('waist', 'Homing_Offset', 0)


def test_the_command_writes_the_file_and_names_arms_that_are_not_there(bench, file, monkeypatch) -> None:
    node, _ = bench
    monkeypatch.setattr('fpo_ros.hardware.calibration.measure_gripper',
                        lambda arm, ask, linkage: GripperCalibration(1.5, 0.62, linkage))
    for arm, linkage in (('follower_right', FOLLOWER.linkage), ('leader_right', None)):
        calibrate_cli.gripper(file, arm, '/')
        assert load_cell(file).grippers[arm] == GripperCalibration(1.5, 0.62, linkage)
    with pytest.raises(CellError, match="has no arm 'leader_middle'"):
        calibrate_cli.gripper(file, 'leader_middle', '/')
    with pytest.raises(CellError, match="has no arm 'follower_middle'"):
        calibrate_cli.joints(file, 'follower_middle', '/')
    with pytest.raises(CellError, match='no arm is calibrated yet'):
        calibrate_cli.check(file, '/')


@pytest.mark.parametrize(('kind', 'topic', 'why'), [
    (ControllerStatus, 'controller_status', r'the arm controller runs \(/somebody\), which could move .* end it'),
    (JointTrajectoryCommand, 'follower_right/commands/joint_trajectory', r'_trajectory has a publisher \(/somebody\)')])
def test_an_arm_that_somebody_may_command_is_not_calibrated(bench, file, monkeypatch, kind, topic, why) -> None:
    node, before = bench[0], file.read_text()
    measured = []
    monkeypatch.setattr('fpo_ros.hardware.calibration.measure_gripper', lambda *args: measured.append(args))
    monkeypatch.setattr('fpo_ros.hardware.calibration.measure_joints', lambda *args: measured.append(args))
    monkeypatch.setattr('fpo_ros.nodes.xs_transport.LOOK_S', 30.0)  # a busy machine finds nodes late
    monkeypatch.setattr('fpo_ros.nodes.xs_transport._NAMED_S', 10.0)
    with RosClient('somebody') as other:
        other.node.create_publisher(kind, topic, qos.COMMAND)
        for command in (calibrate_cli.gripper, calibrate_cli.joints):
            with pytest.raises(GraphError, match=f'follower_right: .*{why}'):
                command(file, 'follower_right', '/')
    assert not measured and file.read_text() == before
    assert node.physics.arms['follower_right'].motors.torque[6], 'no motor was touched'


def test_a_controller_that_starts_while_a_person_is_asked_ends_the_calibration(bench, file, monkeypatch) -> None:
    node, before = bench[0], file.read_text()
    torque = node.physics.arms['follower_right'].motors.torque
    with RosClient('somebody') as other, RosClient('watcher') as watcher:
        def person(*args: object, **kwargs: object) -> None:
            assert not torque[6]
            other.node.create_publisher(ControllerStatus, 'controller_status', qos.STATUS)
            watcher.wait_for(lambda: watcher.node.get_publishers_info_by_topic('controller_status'), 'it', 10.0)
            time.sleep(0.5)

        monkeypatch.setattr('typer.prompt', person)
        monkeypatch.setattr('fpo_ros.nodes.xs_transport._NAMED_S', 10.0)  # a busy machine finds names late
        with pytest.raises(GraphError, match=r'the arm controller runs \(/somebody\)'):
            calibrate_cli.gripper(file, 'follower_right', '/')
    assert file.read_text() == before and torque[6], 'the torque is as before'

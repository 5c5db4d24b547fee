"""Every node walks its lifecycle repeatedly, refuses wrong parameters, and starts nothing by surprise."""

from __future__ import annotations

import dataclasses
import time

import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from rclpy.exceptions import InvalidParameterValueException  # noqa: E402
from rclpy.lifecycle import TransitionCallbackReturn  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from std_msgs.msg import Bool  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402

from fpo_ros.nodes import convert  # noqa: E402
from fpo_ros.nodes.arm_controller import ArmController  # noqa: E402
from fpo_ros.nodes.arms import Arms  # noqa: E402
from fpo_ros.nodes.camera_ingest import CameraIngest  # noqa: E402
from fpo_ros.nodes.episode_manager import EpisodeManager  # noqa: E402
from fpo_ros.nodes.gamepad import GamepadNode  # noqa: E402
from fpo_ros.nodes.graph import CONFIGS, NODES, load_config  # noqa: E402
from fpo_ros.nodes.learner import Learner  # noqa: E402
from fpo_ros.nodes.locate import share_path  # noqa: E402
from fpo_ros.nodes.operator import Operator  # noqa: E402
from fpo_ros.nodes.policy import Policy  # noqa: E402
from fpo_ros.nodes.proprio_ingest import ProprioIngest  # noqa: E402
from fpo_ros.nodes.teleop import Teleop  # noqa: E402
from fpo_ros.releases import generate_keypair  # noqa: E402
from fpo_ros.runtime.controller_config import ArmState  # noqa: E402
from fpo_ros.sim.twin.node import DriverTwin  # noqa: E402
from fpo_ros.srv import SetControllerState  # noqa: E402

pytestmark = pytest.mark.ros
CLASSES = {node.NAME: node for node in (DriverTwin, CameraIngest, ProprioIngest, ArmController, Policy,
                                         Operator, EpisodeManager, Learner, Teleop, GamepadNode, Arms)}
OK, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


def make(name: str, **values: object):
    """Return a node with these parameters."""
    return CLASSES[name](parameter_overrides=[Parameter(key, value=value) for key, value in values.items()])


@pytest.fixture
def keys(tmp_path):
    """A directory with a trusted key."""
    generate_keypair(tmp_path / 'keys')
    return str(tmp_path / 'keys')


@pytest.mark.parametrize('name', NODES)
def test_ten_rounds_through_the_lifecycle(ros, name, keys, tmp_path) -> None:
    values = {'policy': {'trusted_keys': keys}, 'episode_manager': {'record_dir': str(tmp_path / 'store')}}
    node = make(name, **values.get(name, {}))
    try:
        publishers = len(list(node.publishers))
        for _ in range(10):
            assert node.trigger_configure() == OK
            assert node.trigger_activate() == OK
            assert node.trigger_deactivate() == OK
            assert node.trigger_cleanup() == OK
        assert len(list(node.publishers)) == publishers, 'cleanup must leave no publisher behind'
        assert node.trigger_shutdown() == OK
    finally:
        node.destroy_node()


@pytest.mark.parametrize('name', NODES)
def test_active_node_shuts_down_in_order(ros, name, keys) -> None:
    node = make(name, **({'trusted_keys': keys} if name == 'policy' else {}))
    try:
        assert node.trigger_configure() == OK and node.trigger_activate() == OK
        assert node.trigger_shutdown() == OK and not node.active
    finally:
        node.destroy_node()


def test_active_controller_sends_nothing_until_a_state_is_asked_for(ros) -> None:
    node = make('arm_controller')
    try:
        node.trigger_configure()
        sent = []
        node._send = sent.append
        node.trigger_activate()
        deadline = time.monotonic() + 10.0
        while node.core.summary().ticks < 10:
            assert time.monotonic() < deadline, 'waited 10 s for ten control periods'
            time.sleep(0.02)
        assert not sent
        node.trigger_shutdown()
    finally:
        node.destroy_node()


def test_emergency_stop_pressed_while_inactive_holds_after_activation(ros) -> None:
    node = make('arm_controller')
    try:
        node.trigger_configure()
        node._on_emergency_stop(Bool(data=True))
        node.trigger_activate()
        assert node.core.state is ArmState.STOPPED
        reply = node._on_reset(Trigger.Request(), Trigger.Response())
        assert not reply.success and 'still pressed' in reply.message
        node._on_emergency_stop(Bool(data=False))
        assert node._on_reset(Trigger.Request(), Trigger.Response()).success
        node.trigger_shutdown()
    finally:
        node.destroy_node()


def test_emergency_stop_stays_latched_through_cleanup_and_configure(ros) -> None:
    node = make('arm_controller')
    try:
        node.trigger_configure()
        node._on_emergency_stop(Bool(data=True))
        node._on_emergency_stop(Bool(data=False))
        assert node.trigger_cleanup() == OK and node.trigger_configure() == OK and node.trigger_activate() == OK
        assert node.core.state is ArmState.STOPPED and node.core.reason == 'emergency stop pressed'
        assert node._on_reset(Trigger.Request(), Trigger.Response()).success
        node.trigger_shutdown()
    finally:
        node.destroy_node()


def test_fresh_controller_of_a_real_cell_is_stopped_until_its_reset(ros) -> None:
    node = make('arm_controller', start_stopped=True)
    try:
        node.trigger_configure()
        node.trigger_activate()
        reply = node._on_request(SetControllerState.Request(state=ArmState.HOMING), SetControllerState.Response())
        assert not reply.success and 'latched (just started): reset it first' in reply.message
        assert node._on_reset(Trigger.Request(), Trigger.Response()).success
        for _ in range(2):  # what was reset stays so for the life of the process
            assert node.trigger_deactivate() == OK and node.trigger_cleanup() == OK
            assert node.trigger_configure() == OK and node.trigger_activate() == OK
        assert node.core.state is ArmState.IDLE
        node.trigger_shutdown()
    finally:
        node.destroy_node()


def test_motion_asked_for_long_ago_is_refused(ros) -> None:
    """A controller that was halted for a while finds old requests in its queue."""
    node = make('arm_controller')
    try:
        node.trigger_configure()
        node.trigger_activate()
        old = convert.stamp_of(node.now_ns() - 2_000_000_000)
        request = SetControllerState.Request(state=ArmState.HOMING, stamp=old)
        reply = node._on_request(request, SetControllerState.Response())
        assert not reply.success and 'the request is 2.' in reply.message
        request.state = int(ArmState.IDLE)
        assert node._on_request(request, SetControllerState.Response()).success, 'ending a motion is never too late'
        node.trigger_shutdown()
    finally:
        node.destroy_node()


def test_silent_emergency_stop_device_stops_the_arms(ros) -> None:
    node = make('arm_controller', emergency_stop_limit=0.2)
    try:
        node.trigger_configure()
        node.trigger_activate()
        deadline = time.monotonic() + 5.0
        while node.core.state is not ArmState.STOPPED:
            assert time.monotonic() < deadline, 'waited 5 s for the emergency stop to latch'
            time.sleep(0.02)
        assert "no sign of the emergency stop's device" in node.core.reason
        node.trigger_shutdown()
    finally:
        node.destroy_node()


@pytest.mark.parametrize(('name', 'values', 'why'), [
    ('policy', {}, 'trusted_keys is empty'),
    ('camera_ingest', {'cameras': ''}, 'name at least one camera'),
    ('camera_ingest', {'cameras': 'a,a'}, 'empty or repeated'),
    ('proprio_ingest', {'cameras': 'a', 'optional_cameras': 'a,b'}, "'a,b' must be some of the cameras 'a'"),
    ('driver_twin', {'cameras': 'cam_nowhere'}, "unknown camera 'cam_nowhere'"),
    ('driver_twin', {'task': 'juggling'}, "task is 'juggling'"),
    ('arm_controller', {'execute': 30}, 'execute must be 1..horizon'),
    ('arm_controller', {'left_gripper_joint_open': -1.0}, 'needs open above closed'),
    ('learner', {'releases': '/nowhere'}, 'trusted_keys is empty'),
    ('learner', {'train_arguments': "--x 'y"}, 'train_arguments is no command line'),
    ('episode_manager', {'start_delay': 6.0}, 'must be shorter than settle_limit'),
])
def test_unfit_parameters_are_refused_at_configure_with_the_reason(ros, name, values, why) -> None:
    node = make(name, **values)
    said = []
    node._complain = lambda what, error: said.append(str(error))
    try:
        assert node.trigger_configure() == FAILURE
        assert why in said[0]
        assert node._state_machine.current_state[1] == 'unconfigured'
        node.trigger_shutdown()
    finally:
        node.destroy_node()


def test_foreign_store_is_refused_and_left_alone(ros, tmp_path) -> None:
    (tmp_path / 'zarr.json').write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    node = make('episode_manager', record_dir=str(tmp_path))
    said = []
    node._complain = lambda what, error: said.append(str(error))
    try:
        assert node.trigger_configure() == FAILURE and 'another program' in said[0]
        assert [file.name for file in tmp_path.iterdir()] == ['zarr.json']
        node.trigger_shutdown()
    finally:
        node.destroy_node()


@pytest.mark.parametrize(('name', 'parameter', 'value'), [
    ('proprio_ingest', 'rate', 0.0), ('arm_controller', 'joint_speed', 3.5),
    ('arm_controller', 'arm_clearance', 0.3), ('arm_controller', 'temperature_stop', 90.0), ('policy', 'threads', 0)])
def test_value_outside_its_range_cannot_be_declared(ros, name, parameter, value) -> None:
    with pytest.raises(InvalidParameterValueException):
        make(name, **{parameter: value})


@pytest.mark.parametrize('mode', CONFIGS)
def test_configuration_files_hold_exactly_the_declared_parameters(mode) -> None:
    config = load_config(share_path(CONFIGS[mode]))
    config.pop('cell', None)
    assert set(config) == set(NODES)
    for name, values in config.items():
        fields = {field.name: field for field in dataclasses.fields(CLASSES[name].PARAMETERS)}
        assert set(values) == set(fields), name
        for parameter, value in values.items():
            field = fields[parameter]
            assert type(value) is type(field.default), f'{name}.{parameter} must be a {type(field.default)}'
            low, high, choices = (field.metadata[key] for key in ('low', 'high', 'choices'))
            assert low is None or low <= value <= high, f'{name}.{parameter}'
            assert not choices or value in choices, f'{name}.{parameter}'


def test_defaults_in_code_are_those_of_the_simulated_cell() -> None:
    config = load_config(share_path(CONFIGS['sim']))
    differing = {f'{name}.{field.name}' for name in NODES
                 for field in dataclasses.fields(CLASSES[name].PARAMETERS)
                 if config[name][field.name] != field.default}
    # The simulated cell has no camera unless asked for, its model's forces, friction and all, are no currents, its bus
    # costs no time, and a reset of its scene moves the arms at once.
    assert differing == {'proprio_ingest.cameras', 'arm_controller.gripper_current', 'arm_controller.joint_current',
                         'arm_controller.fastest_joint', 'driver_twin.bus_time_scale'}

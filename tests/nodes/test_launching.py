"""What the launch files hand to ROS 2's launch, checked where that is not installed: its classes are stood in for."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

import fpo_ros

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from fpo_ros.nodes.graph import GraphError, GraphOptions, describe  # noqa: E402
from fpo_ros.nodes.processes import PATIENCE_S  # noqa: E402
from fpo_ros.releases import generate_keypair  # noqa: E402

pytestmark = pytest.mark.ros


def recorder(name: str) -> type:
    """Return a class that keeps what it is made with."""
    def init(self, *args: object, **kwargs: object) -> None:
        self.args, self.kwargs = args, kwargs

    return type(name, (), {'__init__': init})


NAMES = {
    'launch': ('LaunchContext', 'LaunchDescription'),
    'launch.actions': ('DeclareLaunchArgument', 'GroupAction', 'IncludeLaunchDescription', 'LogInfo', 'OpaqueFunction'),
    'launch.launch_description_sources': ('PythonLaunchDescriptionSource',),
    'launch.substitutions': ('PathJoinSubstitution',),
    'launch_ros': (),
    'launch_ros.actions': ('Node',),
    'launch_ros.parameter_descriptions': ('ParameterValue',),
    'launch_ros.substitutions': ('FindPackageShare',),
}


class LaunchConfiguration:
    """The value of a launch argument, from the context."""

    def __init__(self, name: str) -> None:
        self.name = name

    def perform(self, context: dict[str, str]) -> str:
        return context[self.name]


@pytest.fixture
def launching(monkeypatch):
    """The module, with stand-ins for ROS 2's launch."""
    for module, names in NAMES.items():
        stub = ModuleType(module)
        for name in names:
            setattr(stub, name, recorder(name))
        monkeypatch.setitem(sys.modules, module, stub)
    sys.modules['launch.substitutions'].LaunchConfiguration = LaunchConfiguration
    monkeypatch.delitem(sys.modules, 'fpo_ros.nodes.launching', raising=False)
    module = importlib.import_module('fpo_ros.nodes.launching')
    monkeypatch.setattr(module, 'check_drivers', lambda drivers: None)
    yield module
    sys.modules.pop('fpo_ros.nodes.launching', None)


@pytest.fixture
def keys(tmp_path) -> str:
    """A directory with a trusted key."""
    generate_keypair(tmp_path / 'keys')
    return str(tmp_path / 'keys')


def parts(launching, mode: str) -> tuple[dict, object]:
    """Return the declared arguments by name, and the function that starts everything."""
    entities = launching.launch_description(mode).args[0]
    return {entity.args[0]: entity.kwargs for entity in entities[:-1]}, entities[-1]


def started(launching, mode: str, **chosen: str) -> list:
    """Return the actions that a launch file starts with these arguments."""
    declared, function = parts(launching, mode)
    context = {name: argument['default_value'] for name, argument in declared.items()} | chosen
    assert set(chosen) <= set(declared)
    return function.kwargs['function'](context, *function.kwargs['args'])


def kind(action: object) -> str:
    return type(action).__name__


def plain(values: dict) -> dict:
    """Return parameters as values; texts must be wrapped, or launch would read "0123" as a number."""
    assert not any(isinstance(value, str) for value in values.values()), 'a text that launch would read as YAML'
    return {name: value.args[0] if kind(value) == 'ParameterValue' else value for name, value in values.items()}


@pytest.mark.parametrize('mode', ['sim', 'real'])
def test_arguments_have_the_documented_names_defaults_and_choices(launching, mode) -> None:
    declared, _ = parts(launching, mode)
    assert list(declared) == ['use_twin', 'policy', 'trusted_keys', 'releases', 'task', 'cameras', 'record_dir',
                              'learner', 'run_dir', 'start_policy', 'teleop', 'gamepad', 'operator', 'commands',
                              'namespace', 'cell', 'config']
    assert declared['use_twin']['default_value'] == ('true' if mode == 'sim' else 'false')
    assert declared['use_twin']['choices'] == declared['learner']['choices'] == ['true', 'false']
    assert declared['commands']['choices'] == ['', 'send', 'log_only']
    assert 'dry run' in declared['commands']['description']
    assert declared['operator']['choices'] == ['', 'true', 'false'] and declared['policy']['choices'] is None
    assert all(argument['description'] for argument in declared.values())


def test_document_names_every_launch_argument(launching) -> None:
    document = Path(fpo_ros.__file__).parents[1] / 'docs' / 'graph.md'
    if not document.is_file():
        pytest.skip('the documents lie in the checkout')
    declared, _ = parts(launching, 'real')
    paragraph = document.read_text(encoding='utf-8').split('Arguments of all three launch files:')[1].split('.')[0]
    assert set(re.findall('`([a-z_]+)`', paragraph)) == set(declared)


def test_simulation_starts_the_described_nodes_with_their_parameters(launching, keys) -> None:
    actions = started(launching, 'sim', trusted_keys=keys, cameras='cam_high', start_policy='/start')
    specs = describe(GraphOptions(trusted_keys=keys, cameras='cam_high', start_policy='/start')).nodes
    nodes = [action for action in actions if kind(action) == 'Node']
    assert [node.kwargs['name'] for node in nodes] == [spec.name for spec in specs]
    for node, spec in zip(nodes, specs, strict=True):
        assert node.kwargs['executable'] == sys.executable and node.kwargs['arguments'] == ['-m', spec.module]
        assert plain(node.kwargs['parameters'][0]) == spec.parameters | {'autostart': True}
        assert float(node.kwargs['sigterm_timeout']) == PATIENCE_S >= 25.0
    assert plain(nodes[-1].kwargs['parameters'][0])['start_policy'] == '/start'


def test_each_arm_is_included_in_a_scope_of_its_own_with_everything_said(launching, keys) -> None:
    actions = started(launching, 'real', trusted_keys=keys, cameras='none', namespace='cell')
    groups = [action for action in actions if kind(action) == 'GroupAction']
    assert len(groups) == 2 and all(group.kwargs['scoped'] is True for group in groups)
    assert 'IncludeLaunchDescription' not in map(kind, actions), 'an include without a scope reaches the next one'
    includes = [group.args[0][0] for group in groups]
    left, right = (dict(include.kwargs['launch_arguments']) for include in includes)
    assert (left['robot_name'], right['robot_name']) == ('cell/follower_left', 'cell/follower_right')
    assert left['mode_configs'].endswith('follower_left_modes.yaml')
    assert right['mode_configs'].endswith('follower_right_modes.yaml')
    assert left.keys() == right.keys() >= {'robot_model', 'motor_configs', 'load_configs', 'use_sim', 'hardware_type'}
    assert kind(left['motor_configs']) == 'PathJoinSubstitution', 'the driver package has its own motor file'


def test_cameras_get_a_profile_for_either_module_and_a_text_as_serial_number(
        launching, keys, tmp_path, monkeypatch) -> None:
    for name in ('FASTDDS_DEFAULT_PROFILES_FILE', 'FASTRTPS_DEFAULT_PROFILES_FILE', 'ROS_DISTRO'):
        monkeypatch.delenv(name, raising=False)
    mine = tmp_path / 'mine.yaml'
    mine.write_text('/**/cell: {ros__parameters: {cam_high_serial: "0123"}}')
    actions = started(launching, 'real', trusted_keys=keys, config=str(mine))
    nodes = [action for action in actions if kind(action) == 'Node']
    camera = next(node for node in nodes if node.kwargs.get('package') == 'realsense2_camera')
    values = plain(camera.kwargs['parameters'][0])
    assert values['serial_no'] == '_0123' and values['enable_depth'] is False
    assert values['depth_module.color_profile'] == values['rgb_camera.color_profile'] == '640x480x30'
    with_profile = {node.kwargs['name'] for node in nodes if node.kwargs['additional_env']}
    assert with_profile == {'camera', 'camera_ingest', 'proprio_ingest'}
    assert camera.kwargs['additional_env']['FASTDDS_DEFAULT_PROFILES_FILE'].endswith('config/fastdds.xml')


def test_a_transport_profile_of_the_user_stays(launching, keys, monkeypatch) -> None:
    monkeypatch.setenv('FASTDDS_DEFAULT_PROFILES_FILE', '/mine.xml')
    actions = started(launching, 'sim', trusted_keys=keys, cameras='cam_high')
    assert not any(action.kwargs['additional_env'] for action in actions if kind(action) == 'Node')


@pytest.mark.parametrize(('mode', 'chosen', 'why'), [
    ('sim', {'use_twin': 'false'}, 'aloha_real.launch.py'), ('sim', {'trusted_keys': ''}, 'trusted_keys:='),
    ('real', {'config': '/nowhere.yaml'}, '/nowhere.yaml')])
def test_what_cannot_work_is_refused_before_anything_starts(launching, keys, mode, chosen, why) -> None:
    with pytest.raises(GraphError, match=why):
        started(launching, mode, **{'trusted_keys': keys} | chosen)


def test_operator_stands_in_for_the_twins_judge_where_asked(launching, keys) -> None:
    actions = started(launching, 'real', trusted_keys=keys, use_twin='true', operator='true', cameras='none')
    nodes = {action.kwargs['name']: action for action in actions if kind(action) == 'Node'}
    assert plain(nodes['driver_twin'].kwargs['parameters'][0])['judge'] is False and 'operator' in nodes

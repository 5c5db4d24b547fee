"""The one description of the graph, and what is refused before anything starts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from fpo_ros.hardware.gripper import CALIBRATIONS, calibrations_of  # noqa: E402
from fpo_ros.hardware.xs import VELOCITY_UNIT_RAD_S  # noqa: E402
from fpo_ros.nodes.configuration import layered  # noqa: E402
from fpo_ros.nodes.graph import (  # noqa: E402
    GraphError,
    GraphOptions,
    check_drivers,
    check_keys,
    describe,
    of_release,
)
from fpo_ros.nodes.ros_client import domain_of_environment  # noqa: E402
from fpo_ros.nodes.up import running_graph  # noqa: E402
from fpo_ros.policy.contract import SIDES, PolicyContract  # noqa: E402
from fpo_ros.releases import generate_keypair  # noqa: E402

pytestmark = pytest.mark.ros


GRIPPER_NODES = ('driver_twin', 'proprio_ingest', 'arm_controller')


def names(options: GraphOptions) -> list[str]:
    return [spec.name for spec in describe(options).nodes]


def parameters(options: GraphOptions) -> dict[str, dict]:
    """Return node → parameters of the nodes that run."""
    return {spec.name: spec.parameters for spec in describe(options).nodes}


@pytest.fixture
def mine(tmp_path):
    """Write a configuration file and return its path."""
    def write(text: str) -> str:
        (tmp_path / 'mine.yaml').write_text(text)
        return str(tmp_path / 'mine.yaml')

    return write


def test_simulation_has_a_twin_and_no_camera_ingest_without_cameras() -> None:
    assert names(GraphOptions()) == ['driver_twin', 'proprio_ingest', 'arm_controller', 'policy',
                                     'episode_manager', 'learner']
    assert 'camera_ingest' in names(GraphOptions(cameras='cam_high'))
    assert 'learner' not in names(GraphOptions(learner=False))
    assert 'gamepad' in names(GraphOptions(gamepad=True))
    assert [driver.package for driver in describe(GraphOptions(gamepad=True)).drivers] == ['joy'], 'with the twin, too'


def test_real_cell_names_its_drivers_and_what_they_lack(monkeypatch) -> None:
    description = describe(GraphOptions(mode='real'))
    assert 'driver_twin' not in [spec.name for spec in description.nodes]
    assert [driver.namespace for driver in description.drivers] == ['follower_left', 'follower_right', 'cam_high']
    monkeypatch.setattr('fpo_ros.nodes.drivers.missing_packages', lambda drivers: sorted({x.package for x in drivers}))
    with pytest.raises(GraphError, match='interbotix_xsarm_control, realsense2_camera, which are not installed'):
        check_drivers(description.drivers)
    monkeypatch.setattr('fpo_ros.nodes.drivers.missing_packages', lambda drivers: [])
    with pytest.raises(GraphError, match='cam_high_serial'):
        check_drivers(description.drivers)


def test_mode_files_let_the_driver_take_gripper_commands_in_radians() -> None:
    for driver in describe(GraphOptions(mode='real', cameras='')).drivers:
        modes = yaml.safe_load(Path(driver.arguments['mode_configs']).read_text(encoding='utf-8'))
        assert modes['singles']['gripper']['operating_mode'] == 'current_based_position'
        assert modes['groups']['arm']['operating_mode'] == 'position'
        assert driver.namespace in modes['port']


def test_servos_never_run_at_full_speed_and_never_lag_behind_their_targets(mine) -> None:
    for driver in describe(GraphOptions(mode='real', cameras='')).drivers:
        modes = yaml.safe_load(Path(driver.arguments['mode_configs']).read_text(encoding='utf-8'))
        for part in (modes['groups']['arm'], modes['singles']['gripper']):
            assert 0 < part['profile_velocity'] * VELOCITY_UNIT_RAD_S < 0.9 * 3.14
    with pytest.raises(GraphError, match=r'profile_velocity of arm is 1\.51 rad/s.*1\.40 rad/s'):
        describe(GraphOptions(mode='real', parameters={'arm_controller': {'joint_speed': 1.4}}))
    with pytest.raises(GraphError, match=r'profile_velocity of gripper is 2\.52 rad/s.*3\.60 rad/s'):
        describe(GraphOptions(mode='real', parameters={'arm_controller': {'gripper_speed': 4.0}}))
    config = mine('/**/cell: {ros__parameters: {left_mode_configs: /nowhere.yaml}}')
    with pytest.raises(GraphError, match='cannot read the mode file /nowhere.yaml'):
        describe(GraphOptions(mode='real', config=config))


def test_cameras_get_a_profile_for_the_depth_module_and_the_rgb_module() -> None:
    arguments = describe(GraphOptions(mode='real')).drivers[-1].arguments
    assert arguments['depth_module.color_profile'] == arguments['rgb_camera.color_profile'] == '640x480x30'


def test_simulation_has_no_settings_for_real_arms() -> None:
    with pytest.raises(GraphError, match=r'aloha_real\.launch\.py'):
        GraphOptions(mode='sim', use_twin=False)
    assert GraphOptions(mode='sim', use_twin=True).twin


@pytest.mark.parametrize(('mode', 'name'), [('sim', 'gym_aloha'), ('real', 'interbotix')])
def test_twin_ingestion_and_controller_scale_grippers_alike(mode, name) -> None:
    nodes = parameters(GraphOptions(mode=mode, use_twin=True))
    for node in GRIPPER_NODES:
        assert calibrations_of(SimpleNamespace(**nodes[node])) == dict.fromkeys(SIDES, CALIBRATIONS[name]), node


def test_measured_calibration_is_entered_once(mine) -> None:
    config = mine('/**: {ros__parameters: {right_gripper_joint_open: 1.55, image_name: image_raw}}')
    nodes = parameters(GraphOptions(mode='real', use_twin=True, config=config))
    assert [nodes[name]['right_gripper_joint_open'] for name in GRIPPER_NODES] == [1.55] * 3
    assert [nodes[name]['left_gripper_joint_open'] for name in GRIPPER_NODES] == [1.6214] * 3
    assert nodes['driver_twin']['image_name'] == nodes['camera_ingest']['image_name'] == 'image_raw'


def test_a_motor_file_with_another_gripper_than_the_configured_one_is_refused(mine, tmp_path) -> None:
    motors = tmp_path / 'vx300s.yaml'
    motors.write_text('grippers: {gripper: {horn_radius: 0.022, arm_length: 0.036}}')
    cell = f'/**/cell: {{ros__parameters: {{left_motor_configs: {motors}}}}}'
    with pytest.raises(GraphError, match=r'vx300s.yaml: the gripper has horn_radius 0\.022 .* gripper_horn is 0\.0275'):
        describe(GraphOptions(mode='real', config=mine(cell)))
    both = mine(f'{cell}\n/**: {{ros__parameters: {{gripper_horn: 0.022, gripper_arm: 0.036}}}}')
    assert describe(GraphOptions(mode='real', config=both)).drivers[0].arguments['motor_configs'] == str(motors)


def test_a_motor_file_whose_servos_ignore_what_the_controller_sends_is_refused(mine, tmp_path) -> None:
    motors = tmp_path / 'vx300s.yaml'
    motors.write_text('grippers: {gripper: {horn_radius: 0.0275, arm_length: 0.035}}\n'
                      'motors: {shoulder: {Max_Position_Limit: 2700}}')
    cell = f'/**/cell: {{ros__parameters: {{left_motor_configs: {motors}}}}}'
    with pytest.raises(GraphError, match='the servo of shoulder takes goals from 841 to 2700 counts and ignores '
                       'others, but targets reach from 841 to 2867: set left_servo_limits') as refusal:
        describe(GraphOptions(mode='real', config=mine(cell)))
    limits = str(refusal.value).split('"')[1]
    told = mine(f'{cell}\n/**/arm_controller: {{ros__parameters: {{left_servo_limits: "{limits}"}}}}')
    assert describe(GraphOptions(mode='real', config=told)).drivers


def test_configuration_of_the_user_lies_over_that_of_the_mode(mine) -> None:
    config = mine('/**/policy: {ros__parameters: {noise: zeros}}')
    nodes = parameters(GraphOptions(mode='real', use_twin=True, config=config))
    assert nodes['policy']['noise'] == 'zeros' and nodes['policy']['require_promotion'] is True
    assert nodes['arm_controller']['joint_speed'] == 1.0, 'what the file lacks comes from the same mode'
    assert nodes['arm_controller'] == parameters(GraphOptions(mode='real', use_twin=True))['arm_controller']


@pytest.mark.parametrize(('text', 'why'), [
    ('/**/polcy: {ros__parameters: {noise: zeros}}', "mine.yaml: unknown node 'polcy': did you mean 'policy'"),
    ('/**/policy: {ros__parameters: {noize: zeros}}', "policy has no parameter 'noize': did you mean 'noise'"),
    ('/**/cell: {ros__parameters: {color_profil: x}}', "cell has no parameter 'color_profil': did you mean 'color_p"),
    ('/**: {ros__parameters: {gripper_hron: 0.1}}', "'gripper_hron' cannot stand under.*did you mean"),
    ('/**: {ros__parameters: {joint_speed: 3.0}}', "'joint_speed' cannot stand under '/\\*\\*', put it under its node"),
])
def test_misspelt_names_are_refused_with_what_was_meant(mine, text, why) -> None:
    with pytest.raises(GraphError, match=why):
        describe(GraphOptions(mode='real', use_twin=True, config=mine(text)))


def test_misspelt_parameter_option_is_refused() -> None:
    with pytest.raises(GraphError, match="policy has no parameter 'noize': did you mean 'noise'"):
        describe(GraphOptions(parameters={'policy': {'noize': 'zeros'}}))


def test_both_configurations_have_the_same_nodes_and_parameters() -> None:
    sim, real = layered('sim'), layered('real')
    assert {node: set(values) for node, values in sim.items()} == {node: set(values) for node, values in real.items()}


def test_operator_runs_where_no_twin_judges() -> None:
    assert 'operator' in names(GraphOptions(mode='real'))
    for options in (GraphOptions(), GraphOptions(mode='real', use_twin=True)):
        assert 'operator' not in names(options)
        assert parameters(options)['driver_twin']['judge'] is True
    rehearsal = GraphOptions(mode='real', use_twin=True, operator=True)
    assert 'operator' in names(rehearsal) and parameters(rehearsal)['driver_twin']['judge'] is False
    assert 'operator' not in names(GraphOptions(mode='real', operator=False)), 'an instrumented cell judges itself'


def test_chosen_cameras_are_those_that_policies_see() -> None:
    nodes = parameters(GraphOptions(mode='real', use_twin=True, cameras='cam_high,cam_low'))
    for name in ('driver_twin', 'camera_ingest', 'proprio_ingest', 'policy'):
        assert nodes[name]['cameras'] == 'cam_high,cam_low', name
    blind = parameters(GraphOptions(mode='real', use_twin=True, cameras=''))
    assert (blind['policy']['cameras'], blind['policy']['observation']) == ('', 'state')
    recording = parameters(GraphOptions(cameras='cam_high'))
    assert (recording['policy']['cameras'], recording['policy']['observation']) == ('', 'state')
    assert recording['proprio_ingest']['cameras'] == 'cam_high'


def test_camera_that_nobody_gives_is_refused(mine) -> None:
    contract = PolicyContract(observation='pixels', cameras=('cam_high', 'cam_low'))
    with pytest.raises(GraphError, match="policy wants camera 'cam_low', but proprio_ingest has cam_high"):
        describe(GraphOptions(contract=contract, cameras='cam_high'))
    config = mine('/**/proprio_ingest: {ros__parameters: {cameras: cam_low}}')
    with pytest.raises(GraphError, match="proprio_ingest wants camera 'cam_low', but camera_ingest has cam_high"):
        describe(GraphOptions(config=config))


@pytest.mark.parametrize(('rows', 'columns', 'twin'), [(96, 96, (72, 96)), (64, 80, (72, 96)), (224, 224, (168, 224))])
def test_twin_keeps_the_aspect_of_real_cameras_and_is_never_enlarged(rows, columns, twin) -> None:
    contract = PolicyContract(observation='pixels', cameras=('cam_high',), image_height=rows, image_width=columns)
    nodes = parameters(GraphOptions(contract=contract))
    assert (nodes['driver_twin']['image_height'], nodes['driver_twin']['image_width']) == twin
    assert (nodes['camera_ingest']['image_height'], nodes['camera_ingest']['image_width']) == (rows, columns)


def test_release_store_and_start_policy_reach_their_nodes() -> None:
    nodes = parameters(GraphOptions(releases='/store', start_policy='/start'))
    assert nodes['policy']['releases'] == nodes['learner']['releases'] == '/store'
    assert nodes['learner']['start_policy'] == '/start'


def test_missing_keys_are_named_before_anything_starts(tmp_path) -> None:
    with pytest.raises(GraphError, match=r'--trusted-keys .*trusted_keys:='):
        check_keys(describe(GraphOptions()))
    with pytest.raises(GraphError, match='no trusted keys'):
        with running_graph(GraphOptions(), sink=lambda node, line: pytest.fail('a node was started')):
            pytest.fail('a graph without keys came up')
    with pytest.raises(GraphError, match='nowhere'):
        check_keys(describe(GraphOptions(trusted_keys=str(tmp_path / 'nowhere'))))


def test_real_cell_with_twin_needs_no_driver() -> None:
    description = describe(GraphOptions(mode='real', use_twin=True))
    assert description.drivers == () and description.nodes[0].name == 'driver_twin'


def test_contract_reaches_every_node_it_concerns() -> None:
    contract = PolicyContract(observation='pixels', cameras=('cam_high', 'cam_low'), image_height=64,
                              image_width=80, horizon=30, execute=25)
    nodes = {spec.name: spec.parameters for spec in describe(GraphOptions(contract=contract)).nodes}
    for name in ('driver_twin', 'camera_ingest', 'proprio_ingest', 'policy'):
        assert nodes[name]['cameras'] == 'cam_high,cam_low', name
    assert (nodes['camera_ingest']['image_height'], nodes['policy']['image_width']) == (64, 80)
    assert (nodes['arm_controller']['horizon'], nodes['arm_controller']['execute']) == (30, 25)
    assert nodes['policy']['observation'] == 'pixels'


def test_chosen_task_reaches_every_node_that_has_one() -> None:
    for options in (GraphOptions(task='insertion'), GraphOptions(contract=PolicyContract('insertion')),
                    GraphOptions(mode='real', task='insertion')):
        tasks = {name: values['task'] for name, values in parameters(options).items() if 'task' in values}
        assert set(tasks.values()) == {'insertion'} and {'proprio_ingest', 'policy', 'episode_manager'} <= set(tasks)


def test_nodes_that_do_not_agree_about_the_task_are_refused(mine) -> None:
    config = mine('/**/policy: {ros__parameters: {task: insertion}}')
    with pytest.raises(GraphError, match="policy has task 'insertion', but driver_twin has 'transfer_cube'.*--task"):
        describe(GraphOptions(config=config))
    unused = mine('/**/operator: {ros__parameters: {task: insertion}}')
    assert 'operator' not in names(GraphOptions(config=unused)), 'a node that does not run has no say'


def test_a_users_parameter_has_the_last_word() -> None:
    options = GraphOptions(task='transfer_cube', parameters={'policy': {'noise': 'zeros'}})
    assert next(s for s in describe(options).nodes if s.name == 'policy').parameters['noise'] == 'zeros'


def test_namespace_is_part_of_every_name() -> None:
    assert {
        spec.full_name.rsplit('/', 1)[0] for spec in describe(GraphOptions(namespace='cell_1')).nodes
    } == {'/cell_1'}


@pytest.mark.parametrize(('options', 'why'), [
    ({'mode': 'imaginary'}, "unknown mode 'imaginary'"), ({'task': 'juggling'}, "unknown task 'juggling'"),
    ({'parameters': {'juggler': {}}}, "unknown node 'juggler'")])
def test_unknown_names_are_refused_with_the_known_ones(options, why) -> None:
    with pytest.raises(GraphError, match=why):
        GraphOptions(**options)


def test_unreadable_configuration_is_named(tmp_path) -> None:
    file = tmp_path / 'mine.yaml'
    with pytest.raises(GraphError, match=r'cannot read .*mine\.yaml'):
        describe(GraphOptions(config=str(file)))
    file.write_text('policy: 3')
    with pytest.raises(GraphError, match='not a ROS 2 parameter file'):
        describe(GraphOptions(config=str(file)))


def test_release_that_is_not_there_is_named(tmp_path) -> None:
    with pytest.raises(GraphError, match='no such release'):
        of_release(GraphOptions(policy=str(tmp_path / 'v000009')))


@pytest.mark.parametrize('domain', ['233', 'home', '-1'])
def test_impossible_domain_is_refused(monkeypatch, domain) -> None:
    monkeypatch.setenv('ROS_DOMAIN_ID', domain)
    with pytest.raises(GraphError, match='0 to 232'):
        domain_of_environment()


def test_node_that_cannot_start_ends_the_graph_with_its_reason(tmp_path) -> None:
    generate_keypair(tmp_path / 'keys')
    (tmp_path / 'v000001').mkdir()
    options = GraphOptions(
        policy=str(tmp_path / 'v000001'),
        trusted_keys=str(tmp_path / 'keys'),
        learner=False,
        contract=PolicyContract(),
    )
    with pytest.raises(GraphError, match=r'policy ended \(exit code 1\).*manifest'):
        with running_graph(options, sink=lambda node, line: None):
            pytest.fail('a graph with an unsigned release came up')


def test_twin_that_cannot_draw_says_so_before_anything_is_active(tmp_path, monkeypatch) -> None:
    generate_keypair(tmp_path / 'keys')
    monkeypatch.setenv('MUJOCO_GL', 'disabled')
    said: list[str] = []
    options = GraphOptions(trusted_keys=str(tmp_path / 'keys'), cameras='cam_high', learner=False)
    with pytest.raises(GraphError, match=r'driver_twin ended \(exit code 1\).*GL context.*MUJOCO_GL=disabled.*Install'):
        with running_graph(options, sink=lambda node, line: said.append(f'{node} {line}')):
            pytest.fail('a graph without GL came up')
    twin = [line for line in said if line.startswith('driver_twin')]
    assert sum('ERROR' in line for line in twin) == 1 and not any('Traceback' in line for line in twin), twin
    assert not any('active' in line for line in twin)


def test_dry_run_is_a_parameter_of_the_controller_and_refuses_what_would_move_or_store() -> None:
    dry = GraphOptions(commands='log_only')
    assert parameters(dry)['arm_controller']['commands'] == 'log_only'
    assert parameters(GraphOptions())['arm_controller']['commands'] == 'send'
    for changes, why in (({'teleop': True}, 'teleop moves the leaders'), ({'record_dir': 'x'}, 'no recordings')):
        with pytest.raises(GraphError, match=why):
            describe(replace(dry, **changes))


def test_a_torch_policy_is_told_from_a_release_that_is_not_there() -> None:
    with pytest.raises(GraphError, match='fpo_state: a torch policy, which only "fpo-ros up sim" takes'):
        of_release(GraphOptions(mode='real', policy='fpo_state'))
    with pytest.raises(GraphError, match='nowhere: no such release directory, or no release'):
        of_release(GraphOptions(mode='real', policy='nowhere'))

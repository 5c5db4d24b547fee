"""The one description of the graph, and what is refused before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from fpo_ros.nodes.graph import GraphError, GraphOptions, check_drivers, describe, of_release  # noqa: E402
from fpo_ros.nodes.ros_client import domain_of_environment  # noqa: E402
from fpo_ros.nodes.up import running_graph  # noqa: E402
from fpo_ros.policy.contract import PolicyContract  # noqa: E402
from fpo_ros.releases import generate_keypair  # noqa: E402

pytestmark = pytest.mark.ros


def names(options: GraphOptions) -> list[str]:
    return [spec.name for spec in describe(options).nodes]


def test_simulation_has_a_twin_and_no_camera_ingest_without_cameras() -> None:
    assert names(GraphOptions()) == ['driver_twin', 'proprio_ingest', 'arm_controller', 'policy',
                                     'episode_manager', 'learner']
    assert 'camera_ingest' in names(GraphOptions(cameras='cam_high'))
    assert 'learner' not in names(GraphOptions(learner=False))


def test_real_cell_names_its_drivers_and_what_they_lack(monkeypatch) -> None:
    description = describe(GraphOptions(mode='real'))
    assert 'driver_twin' not in [spec.name for spec in description.nodes]
    assert [driver.namespace for driver in description.drivers] == ['follower_left', 'follower_right', 'cam_high']
    monkeypatch.setattr('fpo_ros.nodes.graph.missing_packages', lambda d: sorted({x.package for x in d.drivers}))
    with pytest.raises(GraphError, match='interbotix_xsarm_control, realsense2_camera, which are not installed'):
        check_drivers(description)
    monkeypatch.setattr('fpo_ros.nodes.graph.missing_packages', lambda d: [])
    with pytest.raises(GraphError, match='cam_high_serial'):
        check_drivers(description)


def test_mode_files_let_the_driver_take_gripper_commands_in_radians() -> None:
    for driver in describe(GraphOptions(mode='real', cameras='')).drivers:
        modes = yaml.safe_load(Path(driver.arguments['mode_configs']).read_text(encoding='utf-8'))
        assert modes['singles']['gripper']['operating_mode'] == 'current_based_position'
        assert modes['groups']['arm']['operating_mode'] == 'position'
        assert driver.namespace in modes['port']


def test_real_cell_with_twin_needs_no_driver() -> None:
    description = describe(GraphOptions(mode='real', use_twin=True))
    assert description.drivers == () and description.nodes[0].name == 'driver_twin'


def test_contract_reaches_every_node_it_concerns() -> None:
    contract = PolicyContract(observation='pixels', cameras=('cam_high', 'cam_low'), image_height=64,
                              image_width=80, horizon=30, execute=25)
    nodes = {spec.name: spec.parameters for spec in describe(GraphOptions(contract=contract)).nodes}
    for name in ('driver_twin', 'camera_ingest', 'proprio_ingest', 'policy'):
        assert nodes[name]['cameras'] == 'cam_high,cam_low', name
    assert (nodes['camera_ingest']['image_height'], nodes['driver_twin']['image_width']) == (64, 80)
    assert (nodes['arm_controller']['horizon'], nodes['arm_controller']['execute']) == (30, 25)
    assert nodes['policy']['observation'] == 'pixels'


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
    with pytest.raises(GraphError, match='mine.yaml'):
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

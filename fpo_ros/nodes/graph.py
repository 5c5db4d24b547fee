"""The one description of the graph: which nodes run with which parameters.

The launch files and ``fpo-ros up`` both start what :func:`describe` returns, so they cannot drift apart.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from fpo_ros.hardware.names import FOLLOWERS, SIDES, camera_list
from fpo_ros.nodes.locate import share_path
from fpo_ros.policy.contract import TASKS, PolicyContract

CONFIGS = {'sim': 'config/aloha_sim.yaml', 'real': 'config/aloha_real.yaml'}
#: Nodes of the cell, in the order in which they are started.
NODES = (
    'driver_twin',
    'camera_ingest',
    'proprio_ingest',
    'arm_controller',
    'policy',
    'episode_manager',
    'learner',
)


class GraphError(RuntimeError):
    """The graph cannot be described, started or kept running; the message says why and what to do."""


@dataclass(frozen=True)
class NodeSpec:
    """One process of the graph.

    :param name: name of the node.
    :param module: Python module that runs it.
    :param namespace: namespace of the cell.
    :param parameters: every parameter and its value.
    """

    name: str
    module: str
    namespace: str
    parameters: dict[str, Any]

    @property
    def full_name(self) -> str:
        """Name with namespace, such as ``/cell/policy``."""
        return f'{self.namespace.rstrip("/")}/{self.name}'


@dataclass(frozen=True)
class DriverSpec:
    """A driver of the real cell, which ROS 2's own launch starts.

    :param package: ROS package it comes in.
    :param namespace: namespace it runs in.
    :param launch_file: launch file below the package's ``launch`` folder; empty for an executable.
    :param executable: executable of the package; empty for a launch file.
    :param arguments: launch arguments, or parameters of the executable.
    """

    package: str
    namespace: str
    launch_file: str = ''
    executable: str = ''
    arguments: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class GraphOptions:
    """What a user chooses; None leaves the value of the configuration file.

    :param mode: ``'sim'`` or ``'real'``: which configuration file.
    :param use_twin: simulated drivers instead of hardware; None: as the mode says.
    :param policy: directory of the release served first.
    :param trusted_keys: public keys releases must be signed with.
    :param releases: release store the learner announces from.
    :param task: task of the cell.
    :param cameras: camera names, comma-separated; ``''`` for none.
    :param record_dir: episode store; ``''`` to record nothing.
    :param learner: whether the learner runs.
    :param run_dir: run directory of the learner's trainer.
    :param namespace: namespace of the whole cell.
    :param contract: what policies of this cell see and send.
    :param config: another configuration file.
    :param parameters: node → parameter → value, last word.
    """

    mode: str = 'sim'
    use_twin: bool | None = None
    policy: str | None = None
    trusted_keys: str | None = None
    releases: str | None = None
    task: str | None = None
    cameras: str | None = None
    record_dir: str | None = None
    learner: bool = True
    run_dir: str | None = None
    namespace: str = '/'
    contract: PolicyContract | None = None
    config: str | None = None
    parameters: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.mode not in CONFIGS:
            raise GraphError(f"unknown mode '{self.mode}': use {' or '.join(CONFIGS)}")
        if self.task is not None and self.task not in TASKS:
            raise GraphError(f"unknown task '{self.task}': known tasks are {', '.join(TASKS)}")
        unknown = set(self.parameters) - set(NODES)
        if unknown:
            raise GraphError(f"unknown node '{sorted(unknown)[0]}': nodes are {', '.join(NODES)}")
        if not self.namespace.startswith('/'):
            object.__setattr__(self, 'namespace', '/' + self.namespace)

    @property
    def twin(self) -> bool:
        """Whether the drivers are simulated."""
        return self.mode == 'sim' if self.use_twin is None else self.use_twin


@dataclass(frozen=True)
class GraphDescription:
    """What runs.

    :param nodes: processes of this package, in starting order.
    :param drivers: drivers of the real cell; empty with the twin.
    """

    nodes: tuple[NodeSpec, ...]
    drivers: tuple[DriverSpec, ...]


def load_config(path: str | Path) -> dict[str, dict[str, Any]]:
    """Return node → parameter → value of a ROS 2 parameter file with keys such as ``/**/policy``.

    :raises GraphError: naming the file and what is wrong with it.
    """
    try:
        document = yaml.safe_load(Path(path).read_text(encoding='utf-8'))
        return {key.rsplit('/', 1)[-1]: dict(value['ros__parameters']) for key, value in document.items()}
    except OSError as error:
        raise GraphError(f'cannot read {path}: {error.strerror}') from error
    except (yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise GraphError(f'{path} is not a ROS 2 parameter file: {error!r}') from error


def describe(options: GraphOptions) -> GraphDescription:
    """Return the processes for these options.

    :raises GraphError: for a file or value that does not fit.
    """
    config = load_config(options.config or share_path(CONFIGS[options.mode]))
    cell = config.pop('cell', {})
    unknown = set(config) - set(NODES)
    if unknown:
        raise GraphError(
            f"configuration names the unknown node '{sorted(unknown)[0]}': nodes are {', '.join(NODES)}"
        )
    for name in NODES:
        config.setdefault(name, {})
    _apply(config, _chosen(options))
    _apply(config, options.parameters)
    try:
        cameras = camera_list(config['proprio_ingest'].get('cameras', ''))
    except ValueError as error:
        raise GraphError(str(error)) from error
    left_out = {'driver_twin': not options.twin, 'camera_ingest': not cameras, 'learner': not options.learner}
    nodes = tuple(NodeSpec(name, f'fpo_ros.nodes.{name}', options.namespace, config[name])
                  for name in NODES if not left_out.get(name))
    return GraphDescription(nodes, () if options.twin else _drivers(cameras, cell, options.namespace))


def _apply(config: dict[str, dict[str, Any]], changes: dict[str, dict[str, Any]]) -> None:
    for node, values in changes.items():
        config[node] |= {name: value for name, value in values.items() if value is not None}


def _chosen(options: GraphOptions) -> dict[str, dict[str, Any]]:
    """Return node → parameter → value of the user's choices; None where there is none."""
    contract = options.contract
    task = options.task or (contract.task if contract else None)
    seen = ','.join(contract.cameras) if contract else None
    cameras = seen if options.cameras is None else options.cameras
    size = {'image_height': contract.image_height, 'image_width': contract.image_width} if contract else {}
    rows = {'horizon': contract.horizon, 'execute': contract.execute} if contract else {}
    keys = {'trusted_keys': options.trusted_keys}
    return {
        'driver_twin': {'task': task, 'cameras': cameras} | size,
        'camera_ingest': {'cameras': cameras} | size,
        'proprio_ingest': {'cameras': cameras},
        'arm_controller': dict(rows),
        'policy': {'release': options.policy, 'task': task, 'cameras': seen,
                   'observation': contract.observation if contract else None} | size | rows | keys,
        'episode_manager': {'task': task, 'record_dir': options.record_dir},
        'learner': {'releases': options.releases, 'record_dir': options.record_dir,
                    'run_dir': options.run_dir} | keys,
    }


def _drivers(cameras: tuple[str, ...], cell: dict[str, Any], namespace: str) -> tuple[DriverSpec, ...]:
    """Return the Interbotix and camera drivers of the real cell."""
    prefix = namespace.strip('/')
    drivers = []
    for side in SIDES:
        name = f'{prefix}/{FOLLOWERS[side]}'.lstrip('/')
        modes = cell.get(f'{side}_mode_configs') or share_path(f'config/follower_{side}_modes.yaml')
        arguments = {'robot_model': 'aloha_vx300s', 'robot_name': name, 'base_link_frame': 'base_link',
                     'use_rviz': 'false', 'mode_configs': str(modes)}
        if cell.get(f'{side}_motor_configs'):
            arguments['motor_configs'] = str(cell[f'{side}_motor_configs'])
        drivers.append(DriverSpec('interbotix_xsarm_control', name, launch_file='xsarm_control.launch.py',
                                  arguments=arguments))
    for camera in cameras:
        arguments = {'serial_no': str(cell.get(f'{camera}_serial', '')),
                     'rgb_camera.color_profile': str(cell.get('color_profile', '640x480x30')),
                     'enable_depth': 'false', 'enable_infra1': 'false', 'enable_infra2': 'false'}
        drivers.append(DriverSpec('realsense2_camera', f'{prefix}/{camera}'.lstrip('/'),
                                  executable='realsense2_camera_node', arguments=arguments))
    return tuple(drivers)


def missing_packages(description: GraphDescription) -> list[str]:
    """Return the ROS packages of drivers that ament's index does not know, once each."""
    try:
        from ament_index_python.packages import get_packages_with_prefixes
        known = get_packages_with_prefixes()
    except (ImportError, OSError):  # no ament, or no prefix: no ROS 2 set-up is sourced
        known = {}
    return sorted({driver.package for driver in description.drivers} - set(known))


def check_drivers(description: GraphDescription) -> None:
    """Refuse to start drivers that are not installed or not identified.

    :raises GraphError: naming every missing package, or the camera without a serial number.
    """
    missing = missing_packages(description)
    if missing:
        names = ' '.join(f'ros-$ROS_DISTRO-{package.replace("_", "-")}' for package in missing)
        raise GraphError(f'the real cell needs the ROS packages {", ".join(missing)}, which are not installed: '
                         f'rosdep install --from-paths . or apt-get install {names}, or try use_twin:=true')
    for driver in description.drivers:
        if driver.arguments.get('serial_no') == '':
            camera = driver.namespace.rsplit('/', 1)[-1]
            raise GraphError(f"configuration has no serial number of camera '{camera}': set {camera}_serial "
                             "under '/**/cell' (rs-enumerate-devices lists them)")


def of_release(options: GraphOptions) -> GraphOptions:
    """Return the options with the cell contract of their release, where they name no contract.

    :raises GraphError: when the release has no readable contract.
    """
    from fpo_ros.runtime.release_files import ReleaseFiles

    if options.contract is not None or not options.policy:
        return options
    try:
        return dataclasses.replace(options, contract=ReleaseFiles(options.policy).contract())
    except ValueError as error:
        raise GraphError(str(error)) from error

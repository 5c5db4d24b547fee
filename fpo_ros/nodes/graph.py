"""The one description of the graph: which nodes run with which parameters.

The launch files and ``fpo-ros up`` both start what :func:`describe` returns, so they cannot drift apart.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fpo_ros.hardware.names import SIDES, camera_list
from fpo_ros.nodes.configuration import (
    CONFIGS,
    LOG_ONLY,
    NODES,
    Configuration,
    GraphError,
    check_names,
    lay,
    layered,
    load_config,
    near,
)
from fpo_ros.nodes.drivers import (
    DriverSpec,
    check_drivers,
    check_motor_files,
    check_profiles,
    drivers_of,
    gamepad_driver,
    mode_file,
)
from fpo_ros.nodes.streams import check_cameras, fit_streams
from fpo_ros.policies import is_policy
from fpo_ros.policy.contract import TASKS, PolicyContract

__all__ = ['CONFIGS', 'NODES', 'DriverSpec', 'GraphDescription', 'GraphError', 'GraphOptions', 'NodeSpec',
           'check_drivers', 'check_keys', 'describe', 'load_config', 'of_release']


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
class GraphOptions:
    """What a user chooses; None leaves the value of the configuration file.

    :param mode: ``'sim'`` or ``'real'``: which configuration file.
    :param use_twin: simulated drivers instead of hardware; None: as the mode says.
    :param policy: directory of the release served first.
    :param trusted_keys: public keys releases must be signed with.
    :param releases: release store of the cell, which the learner announces from.
    :param task: task of the cell.
    :param cameras: camera names, comma-separated; ``''`` for none.
    :param record_dir: episode store; ``''`` to record nothing.
    :param learner: whether the learner runs.
    :param run_dir: run directory of the learner's trainer.
    :param start_policy: directory of the torch policy a new run of the trainer starts from.
    :param teleop: whether an operator can drive the followers by the leaders.
    :param gamepad: whether a gamepad or pedal stops the arms, and speaks for the operator.
    :param operator: whether a person resets the scene and judges, instead of the twin or an instrumented cell;
        None: where there is no twin.
    :param commands: ``'send'``, or ``'log_only'`` for a dry run: everything runs, and no command leaves.
    :param namespace: namespace of the whole cell.
    :param contract: what policies of this cell see and send.
    :param cell: file of the cell, whose arms, cameras, speeds and calibration are laid over the packaged configuration.
    :param config: configuration file that is laid over the packaged one of the mode.
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
    start_policy: str | None = None
    teleop: bool = False
    gamepad: bool = False
    operator: bool | None = None
    commands: str | None = None
    namespace: str = '/'
    contract: PolicyContract | None = None
    cell: str | None = None
    config: str | None = None
    parameters: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.mode not in CONFIGS:
            raise GraphError(f"unknown mode '{self.mode}': use {' or '.join(CONFIGS)}")
        if self.task is not None and self.task not in TASKS:
            raise GraphError(f"unknown task '{self.task}': known tasks are {', '.join(TASKS)}")
        if self.mode == 'sim' and self.use_twin is False:
            raise GraphError("mode 'sim' has the settings of simulated arms, which do not fit real ones: use "
                             'aloha_real.launch.py, or fpo-ros up real')
        if self.mode == 'sim' and self.cell is not None:
            raise GraphError("mode 'sim' takes no cell: name one with aloha_real.launch.py or fpo-ros up real, with a "
                             'twin if you like')
        for node in self.parameters:
            if node not in NODES:
                raise GraphError(f"unknown node '{node}': {near(node, NODES)}")
        if not self.namespace.startswith('/'):
            object.__setattr__(self, 'namespace', '/' + self.namespace)

    @property
    def twin(self) -> bool:
        """Whether the drivers are simulated."""
        return self.mode == 'sim' if self.use_twin is None else self.use_twin

    @property
    def person(self) -> bool:
        """Whether a person resets the scene and judges."""
        return not self.twin if self.operator is None else self.operator


@dataclass(frozen=True)
class GraphDescription:
    """What runs.

    :param nodes: processes of this package, in starting order.
    :param drivers: drivers of the real cell; empty with the twin.
    """

    nodes: tuple[NodeSpec, ...]
    drivers: tuple[DriverSpec, ...]


def describe(options: GraphOptions) -> GraphDescription:
    """Return the processes for these options.

    :raises GraphError: for a file, a name or a value that does not fit.
    """
    config = layered(options.mode, options.config, options.cell)
    cell = config.pop('cell')
    check_names(options.parameters, config, 'parameters')
    lay(config, _chosen(options))
    if options.mode == 'real':
        _fit_modes((config['driver_twin'], config['arms']), cell)
        check_motor_files(cell, config['arm_controller'])
    _fit_cameras(config, options)
    lay(config, options.parameters)
    cameras = check_cameras(config, options.twin)
    topics = fit_streams(config, cell)
    policy = config['policy']
    policy['other_cameras'] = policy['other_cameras'] or ','.join(
        name for name in cameras if name not in camera_list(policy['cameras']))
    runs = {'driver_twin': options.twin, 'operator': options.person, 'camera_ingest': bool(cameras),
            'learner': options.learner, 'teleop': options.teleop, 'gamepad': options.gamepad,
            'arms': options.mode == 'real' and config['arm_controller']['commands'] == 'send'}
    _check_task({name: config[name] for name in NODES if runs.get(name, True)})
    _check_dry_run(config, options.teleop)
    nodes = tuple(NodeSpec(name, f'fpo_ros.nodes.{name}', options.namespace, config[name])
                  for name in NODES if runs.get(name, True))
    drivers = () if options.twin else drivers_of(cameras, cell, options.namespace, options.teleop, topics)
    if options.gamepad:
        drivers = (*drivers, gamepad_driver(options.namespace))
    check_profiles(drivers, config['arm_controller'], config['teleop'])
    return GraphDescription(nodes, drivers)


def _chosen(options: GraphOptions) -> Configuration:
    """Return node → parameter → value of the user's choices; None where there is none."""
    contract = options.contract
    task = options.task or (contract.task if contract else None)
    seen = ','.join(contract.cameras) if contract else None
    cameras = seen if options.cameras is None else options.cameras
    size = {'image_height': contract.image_height, 'image_width': contract.image_width} if contract else {}
    rows = {'horizon': contract.horizon, 'execute': contract.execute} if contract else {}
    store = {'trusted_keys': options.trusted_keys, 'releases': options.releases}
    return {
        'driver_twin': {'task': task, 'cameras': cameras, 'judge': not options.person,
                        'leaders': options.teleop or None},
        'operator': {'task': task},
        'camera_ingest': {'cameras': cameras} | size,
        'proprio_ingest': {'task': task, 'cameras': cameras,
                           'optional_cameras': ','.join(contract.optional_cameras) if contract else None},
        'arm_controller': {'commands': options.commands} | rows,
        'policy': {'release': options.policy, 'task': task, 'cameras': seen,
                   'observation': contract.observation if contract else None} | size | rows | store,
        'episode_manager': {'task': task, 'record_dir': options.record_dir},
        'learner': {'record_dir': options.record_dir, 'run_dir': options.run_dir,
                    'start_policy': options.start_policy} | store,
    }


def _fit_modes(nodes: tuple[dict[str, Any], ...], cell: dict[str, Any]) -> None:
    """Let the twin of a real cell, and who prepares its motors, go by the mode files that the drivers get."""
    for node in nodes:
        for side in SIDES:
            for key, leader in ((f'{side}_mode_configs', False), (f'leader_{side}_mode_configs', True)):
                if key in node:
                    node[key] = node[key] or str(mode_file(side, cell, leader))


def _fit_cameras(config: Configuration, options: GraphOptions) -> None:
    """Let what policies see follow the cameras that were chosen, and the twin's pictures be large enough."""
    policy, twin, contract = config['policy'], config['driver_twin'], options.contract
    if contract is None and options.cameras is not None:
        if not options.cameras.strip():
            policy['observation'] = 'state'  # without cameras there are no pixels to see
        policy['cameras'] = options.cameras if policy['observation'] == 'pixels' else ''
    if contract is not None:
        # The twin keeps its cameras' aspect ratio, which the contract need not have; enlarging would blur.
        scale = min(contract.image_height / twin['image_height'], contract.image_width / twin['image_width'])
        if scale > 1:
            lay(config, {'driver_twin': {name: round(twin[name] * scale) for name in ('image_height', 'image_width')}})


def _check_task(config: Configuration) -> None:
    """Refuse a cell whose nodes do not agree about its task.

    :raises GraphError: naming two that differ.
    """
    tasks = {node: values['task'] for node, values in config.items() if 'task' in values}
    first = next(iter(tasks))
    for node, task in tasks.items():
        if task != tasks[first]:
            raise GraphError(f"{node} has task '{task}', but {first} has '{tasks[first]}': name the same for every "
                             'node, or choose it for the whole cell by --task (fpo-ros up) or task:= (ros2 launch)')


def _check_dry_run(config: Configuration, teleop: bool) -> None:
    """Refuse a dry run of what moves arms all the same, or stores what no arm did.

    :raises GraphError: saying what to leave out.
    """
    if config['arm_controller']['commands'] != LOG_ONLY:
        return
    if teleop:
        raise GraphError('commands: log_only sends nothing to the followers, but teleop moves the leaders: leave '
                         'teleop out of a dry run')
    if config['episode_manager']['record_dir']:
        raise GraphError('commands: log_only moves no arm, so its episodes are no recordings: leave out record_dir')


def check_keys(description: GraphDescription) -> None:
    """Refuse to start a cell whose policy node would refuse every release.

    :raises GraphError: saying how to name the trusted keys, or what is wrong with them.
    """
    trusted = next(spec.parameters['trusted_keys'] for spec in description.nodes if spec.name == 'policy')
    if not trusted:
        raise GraphError('no trusted keys: name the public keys that releases of this cell are signed with, by '
                         '--trusted-keys (fpo-ros up) or trusted_keys:= (ros2 launch); "fpo-ros releases keygen" '
                         'makes a pair')
    try:
        from fpo_ros.releases import load_trusted_keys
    except ImportError:  # the Python of ros2 launch may lack what that takes; the policy node will look
        return
    try:
        load_trusted_keys(trusted)
    except (ValueError, OSError) as error:
        raise GraphError(str(error)) from error


def of_release(options: GraphOptions) -> GraphOptions:
    """Return the options with the cell contract of their release, where they name no contract.

    :raises GraphError: when the release has no readable contract.
    """
    if options.contract is not None or not options.policy:
        return options
    file = Path(options.policy) / 'contract.json'  # verified by the policy node; launch may lack what that takes
    try:
        contract = PolicyContract.from_dict(json.loads(file.read_text(encoding='utf-8')))
    except FileNotFoundError as error:
        what = 'no such release directory, or no release'
        if is_policy(options.policy):
            what = 'a torch policy, which only "fpo-ros up sim" takes: publish a release of it, docs/releases.md'
        raise GraphError(f'{options.policy}: {what}') from error
    except (OSError, ValueError, TypeError) as error:
        raise GraphError(f'{file}: {error}') from error
    return dataclasses.replace(options, contract=contract)

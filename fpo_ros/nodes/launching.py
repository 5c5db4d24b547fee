"""The description of the graph as actions of ROS 2's launch; imported by the launch files alone."""

from __future__ import annotations

import os
from typing import Any

from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    GroupAction,
    IncludeLaunchDescription,
    LogInfo,
    OpaqueFunction,
)
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

from fpo_ros.nodes.graph import (
    DriverSpec,
    GraphDescription,
    GraphOptions,
    NodeSpec,
    check_drivers,
    check_keys,
    describe,
    of_release,
)
from fpo_ros.nodes.locate import program
from fpo_ros.nodes.processes import PATIENCE_S
from fpo_ros.nodes.transport import profile_variables, sends_images
from fpo_ros.policy.contract import TASKS

#: Launch argument → (default, description, choices).
_ARGUMENTS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    'policy': ('', 'directory of the release served first; empty: wait for an announcement', ()),
    'trusted_keys': ('', 'file or directory of the public keys releases must be signed with', ()),
    'releases': ('', 'release store of the cell, which the learner announces from', ()),
    'task': ('', 'task of the cell; empty: as configured', ('', *TASKS)),
    'cameras': ('', 'camera names, comma-separated; "none" for none; empty: as configured', ()),
    'record_dir': ('', 'episode store; empty: as configured', ()),
    'learner': ('true', 'whether the learner runs', ('true', 'false')),
    'run_dir': ('', "run directory of the learner's trainer", ()),
    'start_policy': ('', 'directory of the torch policy a new training run of the learner starts from', ()),
    'teleop': ('false', 'whether an operator can drive the followers by the leaders', ('true', 'false')),
    'gamepad': ('false', 'whether a gamepad or pedal stops the arms and speaks for the operator', ('true', 'false')),
    'operator': ('', 'whether a person resets the scene and judges; empty: where there is no twin',
                 ('', 'true', 'false')),
    'commands': ('', 'log_only: a dry run, in which everything runs and no command leaves; send: commands go to the '
                 'arms; empty: as configured', ('', 'send', 'log_only')),
    'namespace': ('/', 'namespace of the whole cell', ()),
    'cell': ('', 'file of the cell: arms, cameras, speeds, calibration (real arms and their twin)', ()),
    'config': ('', 'configuration file laid over the one of this package', ()),
}


def launch_description(mode: str, **defaults: str) -> LaunchDescription:
    """Return the launch description of a cell.

    :param mode: ``'sim'`` or ``'real'``.
    :param defaults: launch argument → another default than usual.
    """
    arguments = {'use_twin': ('true' if mode == 'sim' else 'false', 'simulated drivers in place of hardware',
                              ('true', 'false'))} | _ARGUMENTS
    declared = [DeclareLaunchArgument(name, default_value=defaults.get(name, default), description=text,
                                      choices=list(choices) or None)
                for name, (default, text, choices) in arguments.items()]
    return LaunchDescription([*declared, OpaqueFunction(function=_start, args=[mode])])


def _start(context: LaunchContext, mode: str) -> list[Any]:
    chosen = {name: LaunchConfiguration(name).perform(context) or None for name in ('use_twin', *_ARGUMENTS)}
    for name in ('use_twin', 'learner', 'teleop', 'gamepad', 'operator'):
        chosen[name] = None if chosen[name] is None else chosen[name] == 'true'
    if chosen['cameras'] == 'none':
        chosen['cameras'] = ''
    description = describe(of_release(GraphOptions(mode=mode, **chosen)))
    check_keys(description)
    check_drivers(description.drivers)
    return [LogInfo(msg=_summary(description)), *map(_driver, description.drivers), *map(_node, description.nodes)]


def _summary(description: GraphDescription) -> str:
    drivers = ', '.join(f'{driver.package} in {driver.namespace}' for driver in description.drivers)
    return f'drivers: {drivers or "driver_twin"}; nodes: ' + ', '.join(spec.name for spec in description.nodes)


def _values(parameters: dict[str, Any]) -> dict[str, Any]:
    """Keep texts what they are: launch would read a serial number as a number, and "a: b" as a map."""
    return {name: ParameterValue(value, value_type=str) if isinstance(value, str) else value
            for name, value in parameters.items()}


def _node(spec: NodeSpec) -> Node:
    command, *arguments = program(spec.module)
    return Node(executable=command, arguments=arguments, name=spec.name, exec_name=spec.name,
                namespace=spec.namespace, parameters=[_values(spec.parameters | {'autostart': True})],
                additional_env=profile_variables(os.environ) if sends_images(spec) else {},
                output='screen', sigterm_timeout=f'{PATIENCE_S:g}', sigkill_timeout='5')


def _driver(spec: DriverSpec) -> Any:
    if not spec.launch_file:
        booleans = {'true': True, 'false': False}
        values = _values({name: booleans.get(value, value) for name, value in spec.arguments.items()})
        return Node(package=spec.package, executable=spec.executable, name=spec.name, namespace=spec.namespace,
                    parameters=[values], additional_env=profile_variables(os.environ), output='screen')
    share = FindPackageShare(spec.package)
    own = PathJoinSubstitution([share, 'config', f'{spec.arguments["robot_model"]}.yaml'])
    arguments = spec.arguments | {'motor_configs': spec.arguments['motor_configs'] or own}
    include = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(PathJoinSubstitution([share, 'launch', spec.launch_file])),
        launch_arguments=list(arguments.items()))
    # What an include sets outlives it: without a scope the second arm would take the first one's robot_description.
    return GroupAction([include], scoped=True)

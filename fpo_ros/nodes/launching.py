"""The description of the graph as actions of ROS 2's launch; imported by the launch files alone."""

from __future__ import annotations

import sys
from typing import Any

from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, LogInfo, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

from fpo_ros.nodes.graph import (
    DriverSpec,
    GraphDescription,
    GraphOptions,
    NodeSpec,
    check_drivers,
    describe,
    of_release,
)
from fpo_ros.policy.contract import TASKS
from launch import LaunchContext, LaunchDescription

#: Launch argument → (default, description, choices).
_ARGUMENTS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    'policy': ('', 'directory of the release served first; empty: wait for an announcement', ()),
    'trusted_keys': ('', 'file or directory of the public keys releases must be signed with', ()),
    'releases': ('', 'release store the learner announces from', ()),
    'task': ('', 'task of the cell; empty: as configured', ('', *TASKS)),
    'cameras': ('', 'camera names, comma-separated; "none" for none; empty: as configured', ()),
    'record_dir': ('', 'episode store; empty: as configured', ()),
    'learner': ('true', 'whether the learner runs', ('true', 'false')),
    'run_dir': ('', "run directory of the learner's trainer", ()),
    'namespace': ('/', 'namespace of the whole cell', ()),
    'config': ('', 'another configuration file; empty: the one of this package', ()),
}


def launch_description(mode: str) -> LaunchDescription:
    """Return the launch description of a cell.

    :param mode: ``'sim'`` or ``'real'``.
    """
    arguments = {'use_twin': ('true' if mode == 'sim' else 'false', 'simulated drivers in place of hardware',
                              ('true', 'false'))} | _ARGUMENTS
    declared = [DeclareLaunchArgument(name, default_value=default, description=text,
                                      choices=list(choices) or None)
                for name, (default, text, choices) in arguments.items()]
    return LaunchDescription([*declared, OpaqueFunction(function=_start, args=[mode])])


def _start(context: LaunchContext, mode: str) -> list[Any]:
    chosen = {name: LaunchConfiguration(name).perform(context) or None for name in ('use_twin', *_ARGUMENTS)}
    for name in ('use_twin', 'learner'):
        chosen[name] = chosen[name] == 'true'
    if chosen['cameras'] == 'none':
        chosen['cameras'] = ''
    options = GraphOptions(mode=mode, **chosen)
    description = describe(of_release(options))
    check_drivers(description)
    return [LogInfo(msg=_summary(description)), *map(_driver, description.drivers), *map(_node, description.nodes)]


def _summary(description: GraphDescription) -> str:
    drivers = ', '.join(f'{driver.package} in {driver.namespace}' for driver in description.drivers)
    return f'drivers: {drivers or "driver_twin"}; nodes: ' + ', '.join(spec.name for spec in description.nodes)


def _node(spec: NodeSpec) -> Node:
    # The interpreter that runs launch also runs the node: the same environment, installed by colcon or pip.
    return Node(executable=sys.executable, arguments=['-m', spec.module], name=spec.name, exec_name=spec.name,
                namespace=spec.namespace, parameters=[spec.parameters | {'autostart': True}],
                output='screen', sigterm_timeout='10')


def _driver(spec: DriverSpec) -> Any:
    if spec.launch_file:
        path = PathJoinSubstitution([FindPackageShare(spec.package), 'launch', spec.launch_file])
        return IncludeLaunchDescription(PythonLaunchDescriptionSource(path),
                                        launch_arguments=list(spec.arguments.items()))
    values = {name: {'true': True, 'false': False}.get(value, value) for name, value in spec.arguments.items()}
    return Node(package=spec.package, executable=spec.executable, name='camera', namespace=spec.namespace,
                parameters=[values], output='screen')

"""Parameter files of the graph: the packaged one of a mode, a user's own laid over it, and names that must be known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from fpo_ros.hardware.cell import CellError, graph_values, load_cell
from fpo_ros.hardware.words import near
from fpo_ros.nodes.locate import share_path

CONFIGS = {'sim': 'config/aloha_sim.yaml', 'real': 'config/aloha_real.yaml'}
#: Nodes of the cell, in the order in which they are started.
NODES = (
    'driver_twin',
    'operator',
    'camera_ingest',
    'proprio_ingest',
    'arm_controller',
    'teleop',
    'gamepad',
    'arms',
    'policy',
    'episode_manager',
    'learner',
)
#: Values of the parameter ``commands`` of ``arm_controller``: they are sent, or only logged.
SEND, LOG_ONLY = 'send', 'log_only'
_GRIPPER_NODES = ('driver_twin', 'proprio_ingest', 'arm_controller')
#: Nodes that must know where the pictures of each camera come from.
CAMERA_NODES = ('driver_twin', 'camera_ingest')
#: Parameters that stand once in a file, under ``/**``, and the nodes that have them: all must say the same.
SHARED = {
    'left_gripper_joint_open': _GRIPPER_NODES,
    'left_gripper_joint_closed': _GRIPPER_NODES,
    'right_gripper_joint_open': _GRIPPER_NODES,
    'right_gripper_joint_closed': _GRIPPER_NODES,
    'gripper_horn': _GRIPPER_NODES,
    'gripper_arm': _GRIPPER_NODES,
    'image_name': CAMERA_NODES,
    'image_topics': CAMERA_NODES,
    'image_transports': CAMERA_NODES,
}

Configuration = dict[str, dict[str, Any]]


class GraphError(RuntimeError):
    """The graph cannot be described, started or kept running; the message says why and what to do."""


def load_config(path: str | Path) -> Configuration:
    """Return node → parameter → value of a ROS 2 parameter file with keys such as ``/**/policy``.

    What stands under ``/**`` is given to every node that has it and does not say otherwise, as ROS 2 does.

    :raises GraphError: naming the file and what is wrong with it.
    """
    try:
        document = yaml.safe_load(Path(path).read_text(encoding='utf-8'))
        config = {key.rsplit('/', 1)[-1]: dict(value['ros__parameters']) for key, value in document.items()}
    except OSError as error:
        raise GraphError(f'cannot read {path}: {error.strerror}') from error
    except (yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise GraphError(f'{path} is not a ROS 2 parameter file: {error!r}') from error
    for name, value in config.pop('**', {}).items():
        if name not in SHARED:
            raise GraphError(f"{path}: '{name}' cannot stand under '/**', put it under its node: {near(name, SHARED)}")
        for node in SHARED[name]:
            config.setdefault(node, {}).setdefault(name, value)
    return config


def layered(mode: str, path: str | Path | None = None, cell: str | Path | None = None) -> Configuration:
    """Return the packaged configuration of a mode with a user's files laid over it; ``cell`` holds the drivers.

    :param path: of a file of the same form.
    :param cell: of a cell file, which lies below that.
    :raises GraphError: for a file that cannot be read, or a node or parameter that does not exist.
    """
    config = load_config(share_path(CONFIGS[mode]))
    config.setdefault('cell', load_config(share_path(CONFIGS['real']))['cell'])
    if cell:
        try:
            lay(config, graph_values(load_cell(cell)))
        except CellError as error:
            raise GraphError(str(error)) from error
    if path:
        own = load_config(path)
        check_names(own, config, str(path))
        lay(config, own)
    return config


def lay(config: Configuration, changes: Configuration) -> None:
    """Put values over those of a configuration; None leaves what is there."""
    for node, values in changes.items():
        config[node] |= {name: value for name, value in values.items() if value is not None}


def check_names(own: Configuration, known: Configuration, where: str) -> None:
    """Refuse nodes and parameters that do not exist, since ROS 2 would pass over them in silence.

    :param where: what holds them, for the error.
    :raises GraphError: naming the first one and what it may have meant.
    """
    for node, values in own.items():
        if node not in known:
            raise GraphError(f"{where}: unknown node '{node}': {near(node, known)}")
        for name in values:
            if name in known[node] or (node == 'cell' and name.endswith('_serial')):
                continue
            raise GraphError(f"{where}: {node} has no parameter '{name}': {near(name, known[node])}")

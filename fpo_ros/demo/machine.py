"""What the last stages need of the machine, tried before the first one: a picture and a ROS 2 node."""

from __future__ import annotations

import os
import re

from fpo_ros import gl
from fpo_ros.demo.directory import DemoError
from fpo_ros.demo.display import Display
from fpo_ros.policy.contract import PolicyContract, contract_for
from fpo_ros.trial import trial

# Tried in processes of their own.
_DRAW = """
import numpy as np
from fpo_ros.sim.model import load_model
from fpo_ros.sim.render import WorldRenderer
with WorldRenderer('transfer_cube', 24, 32) as renderer:
    picture = renderer.render(load_model().start_qpos(np.array([0.0, 0.5, 0.05, 1.0, 0.0, 0.0, 0.0])), 'cam_high')
if picture.min() == picture.max():
    raise SystemExit('the picture is empty')
"""
_NODE = """
from fpo_ros.nodes.client import EpisodeClient
from fpo_ros.nodes.up import running_graph
EpisodeClient(name='demo_trial').close()
"""
#: Longest trial [s].
_LIMIT_S = 60.0


def demo_contract(observation: str) -> PolicyContract:
    """Return what the policies of a demo see and command.

    :param observation: ``'state'`` or ``'pixels'``.
    :raises ContractError: for any other.
    """
    return contract_for('transfer_cube', observation)


def prepare_machine(contract: PolicyContract, display: Display) -> str:
    """Try GL and ROS 2, and choose the ROS domain. Call it before mujoco is imported, which chooses its GL then.

    :returns: why nothing can be drawn; empty where it can.
    :raises DemoError: when a stage of this demo would fail here.
    """
    prepare_ros()
    backend = gl.select_backend()
    problem = _problem(_DRAW)
    if not problem:
        return ''
    if 'MUJOCO_GL' not in problem:
        problem = f'MUJOCO_GL={backend or ""}: {problem}'
    if contract.cameras:
        raise DemoError(f'camera images need GL, which does not work here: {problem}. Install it ({gl.INSTALL}), or '
                        'choose --observation state; "fpo-ros doctor" tells more')
    display.line(f'no films in the report, since GL does not work here: {problem}. {gl.INSTALL} may help, "fpo-ros '
                 'doctor" tells more')
    # Nothing tries again, in this process and in those it starts.
    os.environ['MUJOCO_GL'] = 'disabled'
    return problem


def prepare_ros() -> None:
    """Let this process and those it starts talk on this machine alone, in one domain, unless the user chose; try it.

    Domains from 102 share their ports with short-lived connections of other programs.

    :raises DemoError: when ROS 2 does not work, or ROS_DOMAIN_ID is no domain.
    """
    os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    if not os.environ.get('ROS_DOMAIN_ID'):
        os.environ['ROS_DOMAIN_ID'] = str(1 + os.getpid() % 101)
    problem = _problem(_NODE)
    if 'ROS_DOMAIN_ID' in problem:
        raise DemoError(problem)
    if problem:
        raise DemoError(f'the graph needs ROS 2, which does not work here: {problem}. Install the extra "ros" (make '
                        'setup does), or source a distribution; "fpo-ros doctor" tells more')


def _problem(code: str) -> str:
    """Return why code fails, empty if it does not."""
    good, answer = trial(code, _LIMIT_S)
    # The cause alone: the caller says what to do.
    return '' if good else re.sub(r'^fpo_ros[.\w]*: ', '', answer).partition('. Install')[0].rstrip('.')

"""What happens to workers of the tests' cluster: Ray runs :func:`install` in each of them as it starts.

A fault is a file in the folder that ``FPO_ROS_TEST_FAULTS`` names. It is called as the first scene of the unit that it
strikes, or as the node whose worker it strikes, and contains what happens at the second decision. It strikes once.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import ray
import tiny_task

from fpo_ros.learning.scale import unit

FOLDER = 'FPO_ROS_TEST_FAULTS'


def install() -> None:
    """Let success depend on the waist, and let faults strike."""
    tiny_task.waist_reward().start()
    plain = unit.start_noise

    def start_noise(seed: int, scenes: np.ndarray, decision: int, shape: tuple[int, ...]):
        if decision == 1:
            for name in (str(scenes[0]), ray.get_runtime_context().get_node_id()):
                _strike(Path(os.environ[FOLDER]) / name)
        return plain(seed, scenes, decision, shape)

    unit.start_noise = start_noise


def _strike(fault: Path) -> None:
    struck = fault.with_suffix('.struck')
    try:
        fault.rename(struck)
    except FileNotFoundError:
        return
    kind = struck.read_text()
    if kind == 'killed':
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == 'stopped':
        os.kill(os.getpid(), signal.SIGSTOP)
    elif kind == 'node lost':
        time.sleep(3600)  # until its node goes
    else:
        raise ValueError(kind)

"""Physics that lost its way: found, reported and written down."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import mujoco
import numpy as np

#: MuJoCo's warnings about positions, velocities and accelerations that are not finite or huge.
_BAD = tuple(int(kind) for kind in (mujoco.mjtWarning.mjWARN_BADQPOS, mujoco.mjtWarning.mjWARN_BADQVEL,
                                    mujoco.mjtWarning.mjWARN_BADQACC, mujoco.mjtWarning.mjWARN_BADCTRL))
#: Physics steps kept in a dump.
DUMPED_STEPS = 50


class DivergenceWarning(UserWarning):
    """A simulated world diverged and begins anew."""


def diverged(data: mujoco.MjData) -> bool:
    """Return whether the last steps of some data went wrong."""
    return any(data.warning[kind].number for kind in _BAD)


def default_dump_directory() -> Path:
    """Return where dumps go unless told otherwise."""
    return Path(tempfile.gettempdir()) / 'fpo_ros-diverged'


def dump(directory: Path, world: int, seed: int, states: np.ndarray, controls: np.ndarray, task: str) -> Path | None:
    """Write the last states before and at the divergence as ``.npz``; warn with the path.

    :param states: (T, nstate) full physics states, ending with the diverged one.
    :param controls: (T, nu) controls that led to each.
    :returns: the file; None where it could not be written, which the warning says.
    """
    states, controls = states[-DUMPED_STEPS:], controls[-DUMPED_STEPS:]
    where: Path | None = None
    try:
        directory.mkdir(parents=True, exist_ok=True)
        number = len(list(directory.glob(f'{task}-{seed}-*.npz')))
        where = directory / f'{task}-{seed}-{number}.npz'
        np.savez(where, states=states, controls=controls, world=world, seed=seed)
        told = f'the last {len(states)} states are in {where}'
    except OSError as error:
        where, told = None, f'its last states could not be written to {directory}: {error}'
    warnings.warn(f'the physics of {task}, scene {seed}, world {world} diverged and the world begins anew; {told}',
                  DivergenceWarning, stacklevel=3)
    return where

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
#: Dumps that a directory takes.
MOST_DUMPS = 100


class DivergenceWarning(UserWarning):
    """A simulated world diverged and begins anew."""


def diverged(data: mujoco.MjData) -> bool:
    """Return whether the last steps of some data went wrong."""
    return any(data.warning[kind].number for kind in _BAD)


def sound(states: np.ndarray) -> np.ndarray:
    """Return which of (..., nstate) states MuJoCo would go on from: finite and not huge."""
    return np.isfinite(states).all(-1) & (np.abs(states) < mujoco.mjMAXVAL).all(-1)


def default_dump_directory() -> Path:
    """Return where dumps go unless told otherwise."""
    return Path(tempfile.gettempdir()) / 'fpo_ros-diverged'


def dump(directory: Path, world: int, seed: int, states: np.ndarray, controls: np.ndarray, task: str) -> Path | None:
    """Write the last states before and at the divergence as ``.npz``; warn with the path.

    A directory that holds :data:`MOST_DUMPS` takes no more: actions at random would fill a disk.

    :param states: (T, nstate) full physics states, ending with the diverged one.
    :param controls: (T, nu) controls that led to each.
    :returns: the file; None where none was written, the reason for which the warning says.
    """
    states, controls = states[-DUMPED_STEPS:], controls[-DUMPED_STEPS:]
    where: Path | None = None
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if len(list(directory.glob('*.npz'))) >= MOST_DUMPS:
            told = f'its last states are not kept, as {directory} holds {MOST_DUMPS} dumps already: clear it for more'
        else:
            number = len(list(directory.glob(f'{task}-{seed}-*.npz')))
            where = directory / f'{task}-{seed}-{number}.npz'
            np.savez(where, states=states, controls=controls, world=world, seed=seed)
            told = f'the last {len(states)} states are in {where}'
    except OSError as error:
        where, told = None, f'its last states could not be written to {directory}: {error}'
    warnings.warn(f'the physics of {task}, scene {seed}, world {world} diverged and the world begins anew; {told}',
                  DivergenceWarning, stacklevel=3)
    return where

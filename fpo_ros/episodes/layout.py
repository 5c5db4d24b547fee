"""Names, shapes and types of the arrays of an episode, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from fpo_ros.episodes.errors import EpisodeStoreError
from fpo_ros.episodes.zarr3 import DTYPES, check_name
from fpo_ros.policy.contract import ACTION_DIM, OBJECT_POSE_DIM, OBJECTS

OBJECT_POSE = 'object_pose'
#: Array name → (shape of one step, None where the task decides it; type). Joints and actions as contract.JOINT_NAMES
#: [rad, grippers 0..1]; action is the target commanded at that step; reward is what the step earned; timestamp counts
#: seconds from the first step; object_pose is position [m] and quaternion (w, x, y, z) in "world" of each object of
#: the task, in the order of contract.OBJECTS.
STANDARD = {
    'joint_positions': ((ACTION_DIM,), np.float32),
    'action': ((ACTION_DIM,), np.float32),
    'reward': ((), np.float32),
    'timestamp': ((), np.float64),
    OBJECT_POSE: (None, np.float32),
}
REQUIRED = ('joint_positions', 'action', 'reward', 'timestamp')
#: Prefix of the arrays with the frames of a camera and with the steps they belong to.
FRAMES = 'image.'
FRAME_STEPS = 'image_steps.'
_CAMERA = re.compile(r'[A-Za-z0-9_-]{1,80}')


def check_camera(name: str) -> str:
    """Return the name of a camera if it may be one.

    :raises EpisodeStoreError: otherwise.
    """
    if not isinstance(name, str) or not _CAMERA.fullmatch(name):
        raise EpisodeStoreError(f'camera name {name!r}: use letters, digits, "_" and "-"')
    return name


def check_object_pose(shape: tuple[int, ...], task: str) -> None:
    """Refuse object poses that are not those of a task's objects; of a task that is not known, any number of them.

    :param shape: of one step.
    :raises EpisodeStoreError: naming the objects.
    """
    if task in OBJECTS:
        names = OBJECTS[task]
        if shape != (OBJECT_POSE_DIM * len(names),):
            raise EpisodeStoreError(f'array {OBJECT_POSE} has rows of shape {shape}, task {task} wants '
                                    f'{(OBJECT_POSE_DIM * len(names),)}: one pose for each of {", ".join(names)}')
    elif len(shape) != 1 or not shape[0] or shape[0] % OBJECT_POSE_DIM:
        raise EpisodeStoreError(f'array {OBJECT_POSE} has rows of shape {shape}, the store wants '
                                f'{OBJECT_POSE_DIM} numbers for each object')


def check_steps(arrays: Mapping[str, np.ndarray], task: str, first: int = 0) -> dict[str, np.ndarray]:
    """Return per-step arrays (T, ...) in the types of the store.

    Numbers of :data:`STANDARD` arrays must be finite and time must not run backwards; arrays of other
    names keep their type and may hold any numbers of the types :data:`zarr3.DTYPES`.

    :param task: of the episode; decides how many object poses there are.
    :param first: step of the first row, for messages.
    :raises EpisodeStoreError: naming the array and what is wrong with it.
    """
    missing = [name for name in REQUIRED if name not in arrays]
    if missing:
        raise EpisodeStoreError(f'episode lacks the array {missing[0]}: '
                                f'every episode has {", ".join(REQUIRED)}')
    checked = {check_name(name): _check_array(name, value, task, first) for name, value in arrays.items()}
    lengths = {name: len(value) for name, value in checked.items()}
    if len(set(lengths.values())) > 1:
        raise EpisodeStoreError(f'arrays of an episode must have one row per step, got {lengths}')
    if not lengths['timestamp']:
        raise EpisodeStoreError('episode has no steps: record at least one')
    backwards = np.flatnonzero(np.diff(checked['timestamp']) < 0)
    if len(backwards):
        raise EpisodeStoreError(f'timestamp runs backwards after step {first + backwards[0]}')
    return checked


def _check_array(name: str, value: np.ndarray, task: str, first: int) -> np.ndarray:
    value = np.asarray(value)
    if name.startswith((FRAMES, FRAME_STEPS)):
        raise EpisodeStoreError(f"array name {name!r} is reserved: give camera frames as 'images'")
    if not value.ndim:
        raise EpisodeStoreError(f'array {name} must have one row per step, got a single number')
    if value.dtype.name not in DTYPES:
        raise EpisodeStoreError(f'array {name} has type {value.dtype}: use one of {", ".join(DTYPES)}')
    if name not in STANDARD:
        if 0 in value.shape[1:]:
            raise EpisodeStoreError(f'array {name} has shape {value.shape}: no axis may be empty')
        return value
    shape, dtype = STANDARD[name]
    if shape is None:
        check_object_pose(value.shape[1:], task)
    elif value.shape[1:] != shape:
        raise EpisodeStoreError(f'array {name} has rows of shape {value.shape[1:]}, the store wants {shape}')
    with np.errstate(over='ignore'):
        value = value.astype(dtype, copy=False)
    finite = np.isfinite(value)
    if not finite.all():
        row = np.argwhere(~finite)[0][0]
        raise EpisodeStoreError(f'array {name} is not finite at step {first + row}: {value[row]}')
    return value


def check_frames(camera: str, frames: np.ndarray, steps: np.ndarray,
                 total: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the frames of a camera and their steps in the types of the store.

    :param frames: (F, H, W, 3) uint8 RGB.
    :param steps: (F,) step at which each frame was the newest; strictly increasing, below ``total``.
    :raises EpisodeStoreError: naming the camera and what is wrong.
    """
    check_camera(camera)
    frames, steps = np.asarray(frames), np.asarray(steps)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape:
        raise EpisodeStoreError(f'frames of camera {camera} must be (F, H, W, 3) uint8 with F >= 1, '
                                f'got {frames.shape} {frames.dtype}')
    if steps.shape != frames.shape[:1] or steps.dtype.kind not in 'iu':
        raise EpisodeStoreError(f'camera {camera} has {len(frames)} frames, so its steps must be as many '
                                f'integers, got {steps.shape} {steps.dtype}')
    steps = steps.astype(np.int64)
    if (np.diff(steps) <= 0).any() or steps[0] < 0 or steps[-1] >= total:
        raise EpisodeStoreError(f'steps of camera {camera} must increase within 0..{total - 1}, '
                                f'got {steps[0]}..{steps[-1]}')
    return frames, steps.astype(np.int32)

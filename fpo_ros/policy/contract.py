"""What a policy sees and what it commands: one definition for simulation, recorder and robot.

The module imports numpy alone, so that the robot side runs without torch.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

ARM_JOINTS = ('waist', 'shoulder', 'elbow', 'forearm_roll', 'wrist_angle', 'wrist_rotate')
#: The two arms, in the order of every state and action vector.
SIDES = ('left', 'right')
#: Columns of every state and action vector: left arm, left gripper, right arm, right gripper.
JOINT_NAMES = tuple(
    f'{side}_{joint}' for side in SIDES for joint in (*ARM_JOINTS, 'gripper')
)
#: Columns of the two grippers (0 closed .. 1 open); every other column is an angle in rad.
GRIPPER_COLUMNS = (6, 13)
ACTION_DIM = 14
#: Position [m] and unit quaternion (w, x, y, z) of one tracked object, in the frame "world".
OBJECT_POSE_DIM = 7
CONTROL_RATE_HZ = 50.0
#: Joints at the start of an episode (gym-aloha START_ARM_POSE); its fingers stand at 0.02239 m, of 0.01844 to 0.058 m.
START_JOINTS = np.array([0.0, -0.96, 1.16, 0.0, -0.3, 0.0, (0.02239 - 0.01844) / (0.05800 - 0.01844)] * 2)
START_JOINTS.setflags(write=False)

#: Cameras of ALOHA: an observation may have them whether the policy sees them or not (openpi policies/aloha_policy.py).
CAMERAS = ('cam_high', 'cam_low', 'cam_left_wrist', 'cam_right_wrist')
OBSERVATION_KINDS = ('state', 'pixels')
#: Rows and columns of the pictures that small policies are made for: a cube of 4 cm is 7 pixels wide then.
PICTURE = (192, 256)
#: Longest prompt [tokens; bytes where the network reads those, with a begin and an end]: ten times pi0's. A chunk takes
#: the longer, and the more memory, the longer its prompt.
LONGEST_PROMPT = 512
#: Units of joints and actions inside the network: the cell's, or those of pi0's base weights (aloha.py).
UNITS = ('cell', 'pi')
#: Known tasks and the language instruction of each.
TASKS = {'transfer_cube': 'Transfer cube', 'insertion': 'Insert the peg into the socket'}
#: Tracked objects of each task, in the order of their poses.
OBJECTS = {'transfer_cube': ('cube',), 'insertion': ('peg', 'socket')}
#: Entries of a contract that are lists in JSON → type of what they hold.
_TUPLES = {'cameras': str, 'prompt_tokens': int, 'optional_cameras': str}
#: Entries that JSON text of a contract leaves out where they are empty.
_LEFT_OUT = ('optional_cameras', 'max_delay')


class ContractError(ValueError):
    """Data does not fit the policy contract; the message says which part and how."""


@dataclass(frozen=True)
class PolicyContract:
    """The interface between a policy and whatever it drives.

    :param task: key of :data:`TASKS`.
    :param prompt: the language instruction given to the model; that of :data:`TASKS` if empty.
    :param prompt_tokens: ids of the prompt as the network's tokenizer splits it; empty: its bytes (tokenizer.py).
    :param observation: ``'pixels'`` (camera images and joints) or ``'state'`` (joints and object pose).
    :param cameras: camera names, in the order the model sees them; empty for ``'state'``.
    :param optional_cameras: those of ``cameras`` that an observation may lack: they are left out of the prefix then,
        as pi0 masks them. JSON text of a contract without any has no such entry.
    :param image_height: rows of every image [pixels].
    :param image_width: columns of every image [pixels].
    :param horizon: rows of an action chunk [control periods].
    :param execute: rows executed before the next decision [control periods].
    :param control_rate_hz: rows per second.
    :param flow_steps: Euler steps from noise to a chunk.
    :param action_width: entries of an action as the network draws it: behind the joints they pad, and nothing reads
        them (pi0 has 32). 0: the joints alone.
    :param units: one of :data:`UNITS`.
    :param relative: arm joints of all rows of a chunk count from the joints of its observation, grippers do not
        (openpi training/config.py, ``use_delta_joint_actions``).
    :param max_delay: rows of the chunk before that a new one was trained to go on from, at most [control periods];
        0: the flow was not trained so, and is guided instead. JSON text has no such entry then.
    """

    task: str = 'transfer_cube'
    prompt: str = ''
    observation: str = 'state'
    cameras: tuple[str, ...] = ()
    image_height: int = 96
    image_width: int = 96
    horizon: int = 20
    execute: int = 20
    control_rate_hz: float = CONTROL_RATE_HZ
    flow_steps: int = 10
    action_width: int = 0
    units: str = 'cell'
    relative: bool = False
    prompt_tokens: tuple[int, ...] = ()
    optional_cameras: tuple[str, ...] = ()
    max_delay: int = 0

    def __post_init__(self) -> None:
        self._check_types()
        for name in _TUPLES:
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.task not in TASKS:
            raise ContractError(f"unknown task '{self.task}': known tasks are {', '.join(TASKS)}")
        object.__setattr__(self, 'prompt', self.prompt or TASKS[self.task])
        length = len(self.prompt_tokens) or len(self.prompt.encode(errors='replace')) + 2
        if length > LONGEST_PROMPT:
            raise ContractError(f'the prompt has {length} tokens, the limit is {LONGEST_PROMPT}: shorten it')
        if self.observation not in OBSERVATION_KINDS:
            raise ContractError(
                f"unknown observation '{self.observation}': use {' or '.join(OBSERVATION_KINDS)}")
        if self.units not in UNITS:
            raise ContractError(f"unknown units '{self.units}': use {' or '.join(UNITS)}")
        if (self.observation == 'pixels') != bool(self.cameras):
            raise ContractError("observation 'pixels' needs cameras, and 'state' has none: "
                                f'got {self.observation} with cameras {list(self.cameras)}')
        if self.optional_cameras and not set(self.optional_cameras) < set(self.cameras):
            raise ContractError(f'optional_cameras must be some of the cameras {list(self.cameras)} and not all, got '
                                f'{list(self.optional_cameras)}')
        if not 1 <= self.execute <= self.horizon:
            raise ContractError(f'execute must be 1..horizon ({self.horizon}), got {self.execute}')
        if not 0 <= self.max_delay < self.horizon:
            raise ContractError(f'max_delay must leave a row of the horizon ({self.horizon}), got {self.max_delay}')
        for name in ('image_height', 'image_width', 'flow_steps'):
            if getattr(self, name) < 1:
                raise ContractError(f'{name} must be at least 1, got {getattr(self, name)}')
        if self.action_width and self.action_width < ACTION_DIM:
            raise ContractError(f'action_width must be 0 or at least {ACTION_DIM}, got {self.action_width}')
        if not 0 < self.control_rate_hz < float('inf'):
            raise ContractError(f'control_rate_hz must be positive, got {self.control_rate_hz}')

    def _check_types(self) -> None:
        """Refuse what a hand-written or damaged JSON file may hold."""
        for name, value in vars(self).items():
            if name in _TUPLES:
                fits = isinstance(value, (tuple, list)) and all(type(entry) is _TUPLES[name] for entry in value)
            else:
                kinds = {'control_rate_hz': (int, float), 'relative': bool,
                         **dict.fromkeys(('task', 'prompt', 'observation', 'units'), str)}
                fits = isinstance(value, kinds.get(name, int)) and isinstance(value, bool) == (name == 'relative')
            if not fits:
                raise ContractError(f'{name} cannot be {value!r}')

    @property
    def object_dim(self) -> int:
        """Length of the poses of the task's objects together."""
        return OBJECT_POSE_DIM * len(OBJECTS[self.task])

    @property
    def state_dim(self) -> int:
        """Length of the state vector: joints, plus the object poses for ``'state'``."""
        return ACTION_DIM + (self.object_dim if self.observation == 'state' else 0)

    @property
    def action_dim(self) -> int:
        """Length of one action as the network draws it, padding included."""
        return self.action_width or ACTION_DIM

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; :meth:`from_dict` reads them back."""
        found = dataclasses.asdict(self) | {name: list(getattr(self, name)) for name in _TUPLES}
        return {name: value for name, value in found.items() if value or name not in _LEFT_OUT}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> PolicyContract:
        """Read what :meth:`to_dict` wrote.

        :raises ContractError: on a missing, unknown or invalid entry.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(data, dict):
            raise ContractError(f'contract must be a JSON object, got {type(data).__name__}')
        if set(data) | set(_LEFT_OUT) != known:
            raise ContractError(f'contract entries missing: {sorted(known - set(data) - set(_LEFT_OUT))}, '
                                f'unknown: {sorted(set(data) - known)}')
        return cls(**data)

    def to_json(self) -> str:
        """Return the contract as JSON text with sorted keys."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + '\n'

    def digest(self) -> str:
        """Return the SHA-256 of that text, in hexadecimal."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


@dataclass(frozen=True)
class Observation:
    """One observation, in the units of the cell.

    :param joint_positions: (14,) columns as :data:`JOINT_NAMES` [rad, grippers 0..1].
    :param images: camera name → (height, width, 3) uint8 RGB of the contract's size.
    :param object_pose: (7 * objects,) position [m] and quaternion (w, x, y, z) in "world" of each, or None.
    :param stamp_ns: instant of the observation [ns].
    """

    joint_positions: np.ndarray
    images: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    object_pose: np.ndarray | None = None
    stamp_ns: int = 0


def check_chunk(chunk: np.ndarray, contract: PolicyContract) -> None:
    """Refuse a chunk that is not (horizon, 14) finite numbers.

    :raises ContractError: with the first offending row and column.
    """
    expected = (contract.horizon, ACTION_DIM)
    if chunk.shape != expected:
        raise ContractError(f'action chunk has shape {chunk.shape}, the contract wants {expected}')
    bad = np.argwhere(~np.isfinite(chunk))
    if len(bad):
        row, column = bad[0]
        raise ContractError(f'action chunk is not finite: row {row}, {JOINT_NAMES[column]} is '
                            f'{chunk[row, column]} ({len(bad)} such values)')


def contract_for(task: str, observation: str, cameras: tuple[str, ...] = ('cam_high',)) -> PolicyContract:
    """Return the contract of a small policy.

    :param observation: one of :data:`OBSERVATION_KINDS`.
    :param cameras: that it sees, where it sees pixels; of :data:`PICTURE` pixels.
    :raises ContractError: for names that are not known.
    """
    if observation != 'pixels':
        return PolicyContract(task, observation=observation)
    return PolicyContract(task, observation=observation, cameras=cameras, image_height=PICTURE[0],
                          image_width=PICTURE[1])

"""Domain randomisation: ranges of what differs between cells and episodes, and what one episode draws from them.

A policy that is trained over ranges learns not to depend on the values of a single simulation (Tobin et al. 2017,
"Domain randomization for transferring deep neural networks from simulation to the real world"; Peng et al. 2018,
"Sim-to-real transfer of robotic control with dynamics randomization").
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from fpo_ros.policy.contract import ACTION_DIM, GRIPPER_COLUMNS
from fpo_ros.sim.appearance import Appearance, AppearanceError, AppearanceRanges
from fpo_ros.sim.model import TaskModel
from fpo_ros.sim.ranges import Range, check_ranges, checked_range, range_field

#: Longest delay [s].
_LONGEST_S = 1.0
_CAMERA_LATENCY = 'camera_latency_s'
_SEEDS = 2**63
#: Streams of random numbers of an episode: what one draws changes none of the others.
_PARAMETERS, _APPEARANCE, _SENSORS = range(3)


class RandomisationError(ValueError):
    """A randomisation that cannot be; the message says what is wrong, where, and what is allowed."""


@dataclass(frozen=True)
class Randomisation:
    """Lowest and highest value of what every episode draws uniformly; by default nothing changes.

    An episode draws from its scene and ``seed`` alone. Equal ends fix a value.

    :param seed: chooses other values for the same scenes.
    :param actuator_gain: factor of the position gain (kp) of each joint's servo and of each gripper's.
    :param joint_damping: viscous damping added to each of the twelve arm joints [N m s/rad].
    :param joint_friction: factor of the Coulomb friction of each joint, both fingers of a gripper alike.
    :param contact_friction: factor of the friction coefficients (sliding, torsional, rolling) of every geom: MuJoCo
        takes the larger of two that touch, so that those of the objects alone would change little.
    :param object_mass: factor of mass and inertia of each object.
    :param object_size: factor of all lengths of the objects of a scene, about their centres, all alike: the peg fits
        its socket as well as before. The mass is what ``object_mass`` says, of any size; the inertia grows with the
        square of the size.
    :param object_offset_m: added to the start position of each object along x and along y [m].
    :param object_yaw_rad: turn of each object about the vertical at its start [rad].
    :param action_latency_s: from a target that is sent to the servo that follows it [s].
    :param joint_latency_s: age of measured joints [s].
    :param camera_latency_s: age of the picture of each camera named [s].
    :param camera_drop_probability: that a frame is lost; its camera shows the one before then.
    :param joint_offset_rad: error of the zero of each of the twelve arm joints [rad]: measured minus true angle. A
        servo regulates the measured angle, so that the arm stands off its targets by as much, from the start pose on.
    :param joint_noise_rad: standard deviation of the noise of each of the twelve measured arm joints [rad].
    :param appearance: ranges of what pictures look like.
    :raises RandomisationError: for a range that is upside down, not finite or out of bounds, or a bad seed.
    """

    seed: int = 0
    actuator_gain: Range = range_field(1.0, 0.0, 10.0, above=True)
    joint_damping: Range = range_field(0.0, 0.0, 100.0)
    joint_friction: Range = range_field(1.0, 0.0, 10.0)
    contact_friction: Range = range_field(1.0, 0.0, 10.0, above=True)
    object_mass: Range = range_field(1.0, 0.0, 100.0, above=True)
    object_size: Range = range_field(1.0, 0.5, 1.5)
    object_offset_m: Range = range_field(0.0, -0.1, 0.1)
    object_yaw_rad: Range = range_field(0.0, -math.pi, math.pi)
    action_latency_s: Range = range_field(0.0, 0.0, _LONGEST_S)
    joint_latency_s: Range = range_field(0.0, 0.0, _LONGEST_S)
    camera_latency_s: Mapping[str, Range] = field(default_factory=dict)
    camera_drop_probability: Range = range_field(0.0, 0.0, 0.99)
    joint_offset_rad: Range = range_field(0.0, -0.2, 0.2)
    joint_noise_rad: Range = range_field(0.0, 0.0, 0.1)
    appearance: AppearanceRanges = field(default_factory=AppearanceRanges)

    def __post_init__(self) -> None:
        if not isinstance(self.seed, (int, np.integer)) or isinstance(self.seed, bool) or not 0 <= self.seed < _SEEDS:
            raise RandomisationError(f'seed must be a whole number, got {self.seed!r}; allowed: 0 to 2**63 - 1')
        object.__setattr__(self, 'seed', int(self.seed))
        check_ranges(self, RandomisationError)
        cameras = self.camera_latency_s
        if not isinstance(cameras, Mapping) or not all(isinstance(name, str) for name in cameras):
            raise RandomisationError(f'{_CAMERA_LATENCY} must map cameras to [lowest, highest] [s], got {cameras!r}; '
                                     f'allowed: 0 to {_LONGEST_S:g}')
        object.__setattr__(self, _CAMERA_LATENCY, {
            name: checked_range(f'{_CAMERA_LATENCY} of {name!r}', value, RandomisationError, 0.0, _LONGEST_S, False)
            for name, value in cameras.items()})
        if not isinstance(self.appearance, AppearanceRanges):
            raise RandomisationError(f'appearance must be AppearanceRanges, got {self.appearance!r}')

    @property
    def active(self) -> bool:
        """Whether anything may change."""
        return self != Randomisation(seed=self.seed)

    @classmethod
    def load(cls, path: str | Path) -> Randomisation:
        """Return the randomisation of a YAML file; see ``config/randomisation.yaml`` for one with every key.

        :raises RandomisationError: naming the file, the key and what is allowed.
        """
        try:
            document = yaml.safe_load(Path(path).read_text(encoding='utf-8'))
            return cls.from_dict({} if document is None else document)
        except OSError as error:
            raise RandomisationError(f'cannot read {path}: {error.strerror}') from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise RandomisationError(f'{path} is not YAML: {" ".join(str(error).split())}') from error
        except RandomisationError as error:
            raise RandomisationError(f'{path}: {error}') from error

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Randomisation:
        """Read what :meth:`to_dict` returns; what is left out changes nothing.

        :raises RandomisationError: for anything but a mapping, unknown names, and ranges that cannot be.
        """
        if not isinstance(values, Mapping):
            raise RandomisationError(f'a randomisation must map names to [lowest, highest], got {values!r}')
        known = [one.name for one in fields(cls)]
        unknown = [name for name in values if name not in known]
        if unknown:
            raise RandomisationError(f'unknown key {str(unknown[0])!r}; allowed: {", ".join(known)}')
        looks = values.get('appearance', {})
        try:
            ranges = looks if isinstance(looks, AppearanceRanges) else AppearanceRanges.from_dict(looks)
        except AppearanceError as error:
            raise RandomisationError(' '.join(str(error).split())) from error
        return cls(**{**values, 'appearance': ranges})

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON and YAML types."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return {**{name: list(value) if isinstance(value, tuple) else value for name, value in values.items()},
                _CAMERA_LATENCY: {name: list(value) for name, value in self.camera_latency_s.items()},
                'appearance': {one.name: list(getattr(self.appearance, one.name)) for one in fields(self.appearance)}}

    def draw(self, scene: int, model: TaskModel) -> EpisodeParameters:
        """Return what an episode in a scene draws.

        As many numbers are drawn whatever the ranges: a range that changes leaves the other values as they were.
        """
        rng, objects, cameras = self._stream(scene, _PARAMETERS), len(model.task.objects), tuple(model.robot.cameras)
        timestep = model.mj.opt.timestep

        def steps(bounds: Range) -> int:
            return round(rng.uniform(*bounds) / timestep)

        gain, friction = rng.uniform(*self.actuator_gain, ACTION_DIM), rng.uniform(*self.joint_friction, ACTION_DIM)
        damping, offset = rng.uniform(*self.joint_damping, ACTION_DIM), rng.uniform(*self.joint_offset_rad, ACTION_DIM)
        for values in (damping, offset):
            values[list(GRIPPER_COLUMNS)] = 0.0
        size = rng.uniform(*self.object_size)
        look = None
        if self.appearance.active or size != 1.0:
            look = replace(self.appearance.sample(self._stream(scene, _APPEARANCE), model), object_size=size)
        return EpisodeParameters(
            actuator_gain=gain, joint_damping=damping, joint_friction=friction, joint_offset_rad=offset,
            contact_friction=rng.uniform(*self.contact_friction), object_mass=rng.uniform(*self.object_mass, objects),
            object_size=size, object_offset_m=rng.uniform(*self.object_offset_m, (objects, 2)),
            object_yaw_rad=rng.uniform(*self.object_yaw_rad, objects), action_delay=steps(self.action_latency_s),
            joint_delay=steps(self.joint_latency_s),
            camera_delay=tuple(steps(self.camera_latency_s.get(name, (0.0, 0.0))) for name in cameras),
            camera_drop_probability=rng.uniform(*self.camera_drop_probability),
            joint_noise_rad=rng.uniform(*self.joint_noise_rad), appearance=look,
            sensor_key=tuple(self._stream(scene, _SENSORS).integers(2**63, size=2).tolist()))

    def _stream(self, scene: int, stream: int) -> np.random.Generator:
        return np.random.default_rng((int(self.seed), scene % 2**64, stream))


def randomisation_of(given: Randomisation | str | Path | None) -> Randomisation | None:
    """Return a randomisation, that of a YAML file where a path is given; None for None.

    :raises RandomisationError: for a file that cannot be one, and for anything else.
    """
    if given is None or isinstance(given, Randomisation):
        return given
    if isinstance(given, (str, Path)):
        return Randomisation.load(given)
    raise RandomisationError(f'randomisation must be a Randomisation, the path of a YAML file, or None, got {given!r}')


@dataclass(frozen=True, eq=False)
class EpisodeParameters:
    """What one episode drew, as :class:`Randomisation` describes it; delays in physics steps.

    :param actuator_gain: (14,) factors.
    :param joint_damping: (14,) added [N m s/rad], 0 for grippers.
    :param joint_friction: (14,) factors.
    :param joint_offset_rad: (14,) measured minus true angle [rad], 0 for grippers.
    :param contact_friction: factor.
    :param object_mass: (objects,) factors.
    :param object_size: factor.
    :param object_offset_m: (objects, 2) along x and y [m].
    :param object_yaw_rad: (objects,) [rad].
    :param action_delay: of targets [physics steps].
    :param joint_delay: of measured joints [physics steps].
    :param camera_delay: of each camera of the robot, in its order [physics steps].
    :param camera_drop_probability: of every frame.
    :param joint_noise_rad: standard deviation [rad].
    :param appearance: what pictures look like; None where nothing changes.
    :param sensor_key: two numbers that the noise and the losses of the episode are made from.
    """

    actuator_gain: np.ndarray
    joint_damping: np.ndarray
    joint_friction: np.ndarray
    joint_offset_rad: np.ndarray
    contact_friction: float
    object_mass: np.ndarray
    object_size: float
    object_offset_m: np.ndarray
    object_yaw_rad: np.ndarray
    action_delay: int
    joint_delay: int
    camera_delay: tuple[int, ...]
    camera_drop_probability: float
    joint_noise_rad: float
    appearance: Appearance | None
    sensor_key: tuple[int, int]

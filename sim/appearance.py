"""What simulated pictures look like, and ranges to draw it from, so that a policy learns to see past it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from fpo_ros.sim.model import TaskModel
from fpo_ros.sim.ranges import Range, check_ranges, range_field

Vector = tuple[float, float, float]


class AppearanceError(ValueError):
    """Ranges that cannot be; the message says which and what to do."""


@dataclass(frozen=True)
class AppearanceRanges:
    """Lowest and highest value of each property of the pictures; by default nothing changes.

    Every value is drawn uniformly, each axis, light, object and colour channel on its own.

    :param camera_position_m: shift of each camera that stands still along its own x (right), y (up) and z (back) [m].
    :param camera_rotation_rad: rotation of each of them about the same axes, as a rotation vector [rad].
    :param wrist_camera_position_m: shift of each camera on an arm [m]: some centimetres and it sees the inside of the
        gripper, or no gripper.
    :param wrist_camera_rotation_rad: rotation of each of them [rad].
    :param camera_fov_rad: added to the vertical field of view of each camera [rad].
    :param light_position_m: shift of each light along the world's axes [m]; a directional light shines as before.
    :param light_direction_rad: rotation of each light about the world's axes, as a rotation vector [rad].
    :param light_diffuse: factor of the brightness of each light.
    :param ambient: factor of the light that comes from everywhere.
    :param headlight: factor of the light that comes from the camera.
    :param object_colour: added to red, green and blue of each object [shares of full intensity].
    :param table_colour: the same of the table.
    :param arm_colour: the same of both arms.
    :param background: red, green and blue behind everything [0..1]; 0 to 0 leaves it as it is.
    :param noise_std: standard deviation of a sensor's noise [grey levels of 0..255].
    :param brightness: added to every pixel [grey levels of 0..255].
    :param contrast: factor of the distance of every pixel from middle grey.
    :param gamma: exponent of intensities on [0..1].
    :raises AppearanceError: for a range that is upside down, not finite or out of bounds.
    """

    camera_position_m: Range = range_field(0.0)
    camera_rotation_rad: Range = range_field(0.0, -math.pi, math.pi)
    wrist_camera_position_m: Range = range_field(0.0)
    wrist_camera_rotation_rad: Range = range_field(0.0, -math.pi, math.pi)
    camera_fov_rad: Range = range_field(0.0, -math.pi, math.pi)
    light_position_m: Range = range_field(0.0)
    light_direction_rad: Range = range_field(0.0, -math.pi, math.pi)
    light_diffuse: Range = range_field(1.0, 0.0)
    ambient: Range = range_field(1.0, 0.0)
    headlight: Range = range_field(1.0, 0.0)
    object_colour: Range = range_field(0.0, -1.0, 1.0)
    table_colour: Range = range_field(0.0, -1.0, 1.0)
    arm_colour: Range = range_field(0.0, -1.0, 1.0)
    background: Range = range_field(0.0, 0.0, 1.0)
    noise_std: Range = range_field(0.0, 0.0, 255.0)
    brightness: Range = range_field(0.0, -255.0, 255.0)
    contrast: Range = range_field(1.0, 0.0)
    gamma: Range = range_field(1.0, 0.0, above=True)

    def __post_init__(self) -> None:
        check_ranges(self, AppearanceError, 'appearance')

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> AppearanceRanges:
        """Return ranges of a mapping of names to [lowest, highest], as a configuration file holds it.

        :raises AppearanceError: for anything but a mapping, unknown names, and ranges that cannot be.
        """
        if not isinstance(values, Mapping):
            raise AppearanceError(f'appearance must map names to [lowest, highest], got {values!r}')
        known = [one.name for one in fields(cls)]
        unknown = sorted(str(name) for name in values if name not in known)
        if unknown:
            raise AppearanceError(f"unknown appearance '{unknown[0]}': known are {', '.join(known)}")
        return cls(**values)

    @property
    def active(self) -> bool:
        """Whether anything may change."""
        return self != AppearanceRanges()

    def sample(self, rng: np.random.Generator, model: TaskModel) -> Appearance:
        """Return one appearance of the pictures of a model.

        As many numbers are drawn whatever the ranges: a range that changes leaves the other values as they were.
        """
        cameras, lights, objects = model.mj.ncam, model.mj.nlight, len(model.task.objects)

        # A camera on a body that moves against the world is one of an arm's.
        moving = model.mj.body_weldid[model.mj.cam_bodyid] != 0

        def of_cameras(standing: Range, wrist: Range) -> tuple[Vector, ...]:
            low, high = np.where(moving[:, None], wrist, standing)[..., None].swapaxes(0, 1)
            return tuple(map(tuple, rng.uniform(low, high, (cameras, 3)).tolist()))

        def vectors(bounds: Range, count: int) -> tuple[Vector, ...]:
            return tuple(map(tuple, rng.uniform(*bounds, (count, 3)).tolist()))

        def numbers(bounds: Range, count: int) -> tuple[float, ...]:
            return tuple(rng.uniform(*bounds, count).tolist())

        return Appearance(
            camera_shifts_m=of_cameras(self.camera_position_m, self.wrist_camera_position_m),
            camera_turns_rad=of_cameras(self.camera_rotation_rad, self.wrist_camera_rotation_rad),
            camera_fov_rad=numbers(self.camera_fov_rad, cameras),
            light_shifts_m=vectors(self.light_position_m, lights),
            light_turns_rad=vectors(self.light_direction_rad, lights),
            light_diffuse=numbers(self.light_diffuse, lights),
            ambient=rng.uniform(*self.ambient), headlight=rng.uniform(*self.headlight),
            object_colours=vectors(self.object_colour, objects),
            table_colour=vectors(self.table_colour, 1)[0], arm_colour=vectors(self.arm_colour, 1)[0],
            background=vectors(self.background, 1)[0],
            noise_std=rng.uniform(*self.noise_std), brightness=rng.uniform(*self.brightness),
            contrast=rng.uniform(*self.contrast), gamma=rng.uniform(*self.gamma),
            noise_seed=int(rng.integers(2**63)))


@dataclass(frozen=True)
class Appearance:
    """One look of the cell: values as :class:`AppearanceRanges` describes them, those of a model in its order.

    :param camera_shifts_m: of each camera in the model [m].
    :param camera_turns_rad: rotation vector of each [rad].
    :param camera_fov_rad: of each [rad].
    :param light_shifts_m: of each light in the model [m].
    :param light_turns_rad: rotation vector of each [rad].
    :param light_diffuse: of each.
    :param object_colours: of each object of the task.
    :param noise_seed: with the number of a frame and the camera it gives that picture's noise.
    :param object_size: factor of all lengths of the objects, about their centres; of the physics, not of these ranges.
    """

    camera_shifts_m: tuple[Vector, ...]
    camera_turns_rad: tuple[Vector, ...]
    camera_fov_rad: tuple[float, ...]
    light_shifts_m: tuple[Vector, ...]
    light_turns_rad: tuple[Vector, ...]
    light_diffuse: tuple[float, ...]
    ambient: float
    headlight: float
    object_colours: tuple[Vector, ...]
    table_colour: Vector
    arm_colour: Vector
    background: Vector
    noise_std: float
    brightness: float
    contrast: float
    gamma: float
    noise_seed: int
    object_size: float = 1.0

    def check(self, model: TaskModel) -> None:
        """Refuse an appearance of another model.

        :raises AppearanceError: naming what does not fit.
        """
        for name, got, wanted in (('cameras', len(self.camera_fov_rad), model.mj.ncam),
                                  ('lights', len(self.light_diffuse), model.mj.nlight),
                                  ('objects', len(self.object_colours), len(model.task.objects))):
            if got != wanted:
                raise AppearanceError(f'the appearance has {got} {name} and {model.task.name} on {model.robot.name} '
                                      f'{wanted}: sample it with the model that is drawn')

    def of_sensor(self, picture: np.ndarray, frame: int, camera: int) -> np.ndarray:
        """Return a picture as the sensor gives it: gamma, contrast and brightness first, then noise.

        :param picture: (H, W, 3) uint8.
        :param frame: number of the frame, from 0: each has noise of its own, the same every time.
        :param camera: number of the camera in the model.
        """
        if (self.gamma, self.contrast, self.brightness, self.noise_std) == (1.0, 1.0, 0.0, 0.0):
            return picture
        levels = 255.0 * np.linspace(0.0, 1.0, 256) ** self.gamma
        levels = (levels - 127.5) * self.contrast + 127.5 + self.brightness
        seen = levels.astype(np.float32)[picture]
        if self.noise_std:
            rng = np.random.default_rng((self.noise_seed, frame, camera))
            seen += np.float32(self.noise_std) * rng.standard_normal(picture.shape, np.float32)
        return np.clip(np.rint(seen), 0, 255).astype(np.uint8)

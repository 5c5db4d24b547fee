"""One ALOHA world as a gymnasium environment, with the observations, rewards and starts of gym-aloha's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import mujoco
import numpy as np

from fpo_ros.policy.contract import CONTROL_RATE_HZ
from fpo_ros.sim import divergence
from fpo_ros.sim.actions import check_option
from fpo_ros.sim.observations import Observations, action_space_of, checked_size
from fpo_ros.sim.randomisation import EpisodeParameters, Randomisation, randomisation_of
from fpo_ros.sim.render import RenderError
from fpo_ros.sim.robots import VX300S
from fpo_ros.sim.scenes import draw_scene
from fpo_ros.sim.task import SUCCESS_STAGE
from fpo_ros.sim.world import World

_STATE = mujoco.mjtState.mjSTATE_FULLPHYSICS


class AlohaEnv(gymnasium.Env):
    """A task on two arms: absolute joint targets at 50 Hz, the staged reward 0..4 after each.

    An episode terminates with success, stage 4, and is truncated when the physics diverged; the time limit is
    gymnasium's wrapper ``TimeLimit``, which ``gymnasium.make`` adds. ``reset(seed=s)`` puts the objects where
    gym-aloha's does; ``reset()`` draws one of the training scenes.

    The info of every step holds ``is_success`` (gym-aloha's rule), ``success_strict`` (the task's stricter rule, at
    this step), ``stage`` 0..4, ``diverged`` and ``scene``, the seed that starts this episode again.

    :param task: key of ``TASKS``.
    :param obs_type: ``'state'``, ``'pixels'`` or ``'pixels_agent_pos'``; see ``Observations.of``.
    :param cameras: names, the cell's (``cam_high``) or the model's (``top``), which become the keys of the pictures;
        the overhead camera if None, by the model's name.
    :param observation_height: rows of a picture that is observed [pixels].
    :param observation_width: its columns [pixels].
    :param visualization_height: rows of a picture from :meth:`render` [pixels].
    :param visualization_width: its columns [pixels].
    :param render_mode: None or ``'rgb_array'``.
    :param fast_pictures: quick pictures, or gym-aloha's own with shadows, which take many times as long.
    :param end_on_success: False lets an episode go on behind success, as the stricter rule needs.
    :param robot: key of ``ROBOTS``.
    :param out_of_range: what happens to targets beyond a joint's range: ``'refuse'`` or ``'clip'``.
    :param randomisation: what every episode draws from its scene: a ``Randomisation``, or the path of a YAML file;
        nothing if None. Joints are then observed as they are measured (late, offset, noisy) and pictures as they
        arrive (late, lost, with the looks of the episode); the poses of objects are true.
    :raises ValueError: for an option that is not known, naming those that are.
    :raises RenderError: for an unknown camera.
    :raises RandomisationError: for a randomisation that cannot be, or does not fit the task or the robot.
    """

    metadata = {'render_modes': ['rgb_array'], 'render_fps': int(CONTROL_RATE_HZ)}

    def __init__(self, task: str = 'transfer_cube', obs_type: str = 'state', *, cameras: Sequence[str] | None = None,
                 observation_height: int = 480, observation_width: int = 640, visualization_height: int = 480,
                 visualization_width: int = 640, render_mode: str | None = None, fast_pictures: bool = False,
                 end_on_success: bool = True, robot: str = VX300S.name, out_of_range: str = 'refuse',
                 randomisation: Randomisation | str | Path | None = None) -> None:
        self.render_mode = check_render_mode(render_mode)
        self._world = World(task, robot=robot, out_of_range=check_option(out_of_range),
                            randomisation=randomisation_of(randomisation))
        model = self._world.model
        self._observations = Observations(model, obs_type, cameras, (observation_height, observation_width),
                                          fast_pictures)
        self._frame_size = checked_size((visualization_height, visualization_width))
        self._end_on_success = end_on_success
        self._scene, self._seen = 0, self._world.seen()
        self._before = np.empty(mujoco.mj_stateSize(model.mj, _STATE))
        self.observation_space, self.action_space = self._observations.space, action_space_of(model)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode.

        :param seed: scene, and seed of the scenes that further calls without one draw.
        :param options: none are known.
        :raises ValueError: for an option.
        """
        check_no_options(options)
        super().reset(seed=seed)
        self._scene = draw_scene(self.np_random) if seed is None else int(seed)
        self._world.reset(self._scene)
        return self._observe(), info_of(0, False, False, self._scene)

    def _observe(self) -> dict[str, Any]:
        self._seen = self._world.seen()
        return self._observations.of(self._world.data.qpos, self._seen)

    @property
    def drawn(self) -> EpisodeParameters | None:
        """What the episode drew; None without a randomisation."""
        return self._world.drawn

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Hold (14,) joint targets [rad, grippers 0..1] for 20 ms.

        Where the physics diverges, the observation is the one before this step, with stage 0, and the world stands
        at its start.

        :raises ActionError: for targets that are refused; nothing has moved then.
        """
        world = self._world
        world.set_targets(action)
        mujoco.mj_getState(world.mj, world.data, self._before, _STATE)
        world.step()
        if divergence.diverged(world.data):
            return self._give_up()
        stage = world.stage()
        info = info_of(stage, world.strict(), False, self._scene)
        terminated = self._end_on_success and stage == SUCCESS_STAGE
        return self._observe(), float(stage), terminated, False, info

    def _give_up(self) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        world, after = self._world, np.empty_like(self._before)
        mujoco.mj_getState(world.mj, world.data, after, _STATE)
        divergence.dump(divergence.default_dump_directory(), 0, self._scene, np.stack([self._before, after]),
                        np.tile(world.data.ctrl, (2, 1)), world.model.task.name)
        world.reset(self._scene)
        good = self._before[1:1 + world.mj.nq]
        return self._observations.of(good, self._seen), 0.0, False, True, info_of(0, False, True, self._scene)

    def render(self) -> np.ndarray:
        """Return an (H, W, 3) uint8 RGB picture of the first camera, of now and with the looks of the episode.

        :raises RenderError: without ``render_mode='rgb_array'``, or when no GL context can be made.
        """
        check_renders(self.render_mode)
        return self._observations.frame(self._world.data.qpos, self._seen, self._frame_size)

    def close(self) -> None:
        """Release the GL contexts."""
        self._observations.close()


def info_of(stage: int, strict: bool, diverged: bool, scene: int) -> dict[str, Any]:
    """Return what is told beside a step."""
    return {'is_success': stage == SUCCESS_STAGE, 'success_strict': strict, 'stage': stage, 'diverged': diverged,
            'scene': scene}


def check_render_mode(render_mode: str | None) -> str | None:
    """Return the mode.

    :raises ValueError: naming the known ones.
    """
    if render_mode not in (None, *AlohaEnv.metadata['render_modes']):
        raise ValueError(f"unknown render_mode '{render_mode}': use rgb_array, or None. A window is opened by "
                         '"fpo-ros sim view"')
    return render_mode


def check_renders(render_mode: str | None) -> None:
    """Refuse to render an environment that was made without a mode.

    :raises RenderError: saying what to do.
    """
    if render_mode is None:
        raise RenderError("render() needs an environment made with render_mode='rgb_array'")


def check_no_options(options: dict[str, Any] | None) -> None:
    """Refuse options of a reset.

    :raises ValueError: naming them.
    """
    if options:
        raise ValueError(f'reset knows no options, got {", ".join(map(str, options))}: choose a scene by its seed')

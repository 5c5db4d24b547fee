"""Many ALOHA worlds as one gymnasium vector environment, stepped natively, one action or a whole chunk at a time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from fpo_ros.sim.actions import ActionError, checked_targets
from fpo_ros.sim.batch import BatchedWorlds, ChunkOutcome
from fpo_ros.sim.gym_env import AlohaEnv, check_no_options, check_render_mode, check_renders, info_of
from fpo_ros.sim.latency import Seen
from fpo_ros.sim.observations import Observations, action_space_of, checked_size
from fpo_ros.sim.randomisation import EpisodeParameters, Randomisation, randomisation_of
from fpo_ros.sim.robots import VX300S
from fpo_ros.sim.scenes import draw_scene
from fpo_ros.sim.task import MAX_STEPS, SUCCESS_STAGE

_MODES = (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP)


class AlohaVectorEnv(VectorEnv):
    """N environments of :class:`AlohaEnv` in one, with the same numbers, step by step, bit for bit.

    An episode that ended begins anew by itself, as ``metadata['autoreset_mode']`` says: with ``NextStep``, the call
    after the one that ended it ignores the action of that world and returns its first observation and reward 0; with
    ``SameStep``, the call that ended it returns the first observation of the next episode, and the last one of the
    old in ``infos['final_obs']``, with its info in ``infos['final_info']``.

    :param num_envs: number of worlds N.
    :param task: key of ``TASKS``.
    :param max_episode_steps: time limit [control steps]; None, or -1 as ``gymnasium.make`` has it, for none.
    :param autoreset_mode: ``'NextStep'`` or ``'SameStep'``.
    :param threads: threads that step worlds; by default one per core that this process may use.

    All other parameters are those of :class:`AlohaEnv`.

    :raises ValueError: for an option that is not known, naming those that are.
    :raises RenderError: for an unknown camera.
    :raises RandomisationError: for a randomisation that cannot be, or does not fit the task or the robot.
    """

    def __init__(self, num_envs: int = 1, task: str = 'transfer_cube', obs_type: str = 'state', *,
                 max_episode_steps: int | None = MAX_STEPS, autoreset_mode: AutoresetMode | str = _MODES[0],
                 cameras: Sequence[str] | None = None, observation_height: int = 480, observation_width: int = 640,
                 visualization_height: int = 480, visualization_width: int = 640, render_mode: str | None = None,
                 fast_pictures: bool = False, end_on_success: bool = True, robot: str = VX300S.name,
                 out_of_range: str = 'refuse', threads: int | None = None,
                 randomisation: Randomisation | str | Path | None = None) -> None:
        max_episode_steps = None if max_episode_steps == -1 else max_episode_steps
        if max_episode_steps is not None and max_episode_steps < 1:
            raise ValueError(f'max_episode_steps must be at least 1, or None, got {max_episode_steps}')
        self._next_step = _checked_mode(autoreset_mode) is AutoresetMode.NEXT_STEP
        self.metadata = {**AlohaEnv.metadata, 'autoreset_mode': _MODES[not self._next_step]}
        self.render_mode, self.num_envs = check_render_mode(render_mode), num_envs
        self._worlds = BatchedWorlds(task, num_envs, threads, robot=robot, out_of_range=out_of_range,
                                     randomisation=randomisation_of(randomisation))
        model = self._worlds.model
        self._observations = Observations(model, obs_type, cameras, (observation_height, observation_width),
                                          fast_pictures)
        self._frame_size = checked_size((visualization_height, visualization_width))
        self._out_of_range, self._cap, self._end_on_success = out_of_range, max_episode_steps, end_on_success
        self.single_observation_space, self.single_action_space = self._observations.space, action_space_of(model)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._randoms: list[tuple[np.random.Generator, int]] = [seeding.np_random() for _ in range(num_envs)]
        self._scenes = np.zeros(num_envs, np.int64)
        self._elapsed = np.zeros(num_envs, np.int64)
        self._ended = np.zeros(num_envs, bool)
        self._qpos, self._seen = self._worlds.qpos.copy(), self._worlds.seen()  # as last observed

    @property
    def np_random(self) -> tuple[np.random.Generator, ...]:
        """Generators of the worlds, each as that of a single environment."""
        return tuple(generator for generator, _ in self._randoms)

    @property
    def np_random_seed(self) -> tuple[int, ...]:
        """Seeds of those generators."""
        return tuple(seed for _, seed in self._randoms)

    def reset(self, *, seed: int | Sequence[int | None] | None = None,
              options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode in every world.

        :param seed: scene of the first world, the next has the next; or one scene, or None, per world.
        :param options: none are known.
        :raises ValueError: for an option or a wrong number of seeds.
        """
        check_no_options(options)
        if seed is None or isinstance(seed, (int, np.integer)):
            seed = [None if seed is None else int(seed) + world for world in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise ValueError(f'{len(seed)} seeds for {self.num_envs} worlds: give one number, or one per world')
        for world, one in enumerate(seed):
            if one is not None:
                self._randoms[world] = seeding.np_random(int(one))
        self._begin(np.arange(self.num_envs), seed)
        nothing = np.zeros(self.num_envs, bool)
        info = info_of(np.zeros(self.num_envs, np.int64), nothing, nothing.copy(), self._scenes.copy())
        return self._observations.of(self._qpos, self._seen), _with_masks(info, ~nothing)

    def _begin(self, where: np.ndarray, seeds: Sequence[int | None] | None = None) -> None:
        """Begin episodes in some worlds: of the seeds given, else of the next scenes of their generators."""
        for row, world in enumerate(where):
            seed = None if seeds is None else seeds[row]
            self._scenes[world] = draw_scene(self._randoms[world][0]) if seed is None else int(seed)
        self._worlds.reset(self._scenes[where], where)
        self._elapsed[where], self._ended[where] = 0, False
        self._observe(where)

    def _observe(self, where: np.ndarray) -> None:
        self._qpos[where] = self._worlds.qpos[where]
        if self._seen is not None:
            self._seen[where] = self._worlds.seen(where)

    def _of(self, world: int) -> tuple[np.ndarray, Seen | None]:
        """Return (nq,) positions of a world and what its sensors showed, as last observed."""
        return self._qpos[world], None if self._seen is None else self._seen[world]

    @property
    def drawn(self) -> list[EpisodeParameters | None]:
        """What the episode of every world drew; None without a randomisation."""
        return self._worlds.drawn()

    def step(self, actions: np.ndarray) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Hold (N, 14) joint targets [rad, grippers 0..1] for 20 ms.

        :raises ActionError: for targets that are refused, those of ended worlds included; nothing has moved then.
        """
        targets = checked_targets(actions, self._worlds.model, self._out_of_range, (self.num_envs,))
        rewards, terminations, truncations, _, infos = self._run(targets[:, None])
        observation = self._observations.of(self._qpos, self._seen)
        return observation, rewards[:, 0], terminations[:, 0], truncations[:, 0], infos

    def step_chunk(self, actions: np.ndarray) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Execute (N, H, 14) joint targets, one per control step, natively: the fast way to the same results.

        An episode that ends within the chunk ends there: what is left of this world's chunk is void, with reward 0
        and neither termination nor truncation, and what is observed is the episode's last step. The world begins
        anew as after :meth:`step`: with ``NextStep``, its whole next chunk is ignored. Pictures are drawn once per
        chunk. Where the physics diverges within the chunk, its last step is the one that is truncated, and the
        observation is that before the chunk.

        :returns: the observation after the chunk, (N, H) rewards, (N, H) terminations, (N, H) truncations, and infos
            of each world's last step, among them ``steps``, the (N,) control steps that count.
        :raises ActionError: for targets that are refused, those of ended worlds included; nothing has moved then.
        """
        targets = checked_targets(actions, self._worlds.model, self._out_of_range, (self.num_envs, None))
        if not targets.shape[1]:
            raise ActionError('a chunk needs at least one row of targets')
        rewards, terminations, truncations, steps, infos = self._run(targets)
        return (self._observations.of(self._qpos, self._seen), rewards, terminations, truncations,
                {**infos, **_with_masks({'steps': steps}, np.ones(self.num_envs, bool))})

    def _run(self, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Return (N, H) rewards, terminations and truncations, (N,) steps that count, and infos."""
        count, horizon = targets.shape[:2]
        rewards, steps = np.zeros((count, horizon)), np.zeros(count, np.int64)
        terminations, truncations = np.zeros((2, count, horizon), bool)
        stage, strict, diverged = np.zeros(count, np.int64), np.zeros(count, bool), np.zeros(count, bool)
        again, running = np.flatnonzero(self._ended), np.flatnonzero(~self._ended)
        if len(running):
            ends: list[tuple[np.ndarray, ...]] = []

            def until(one: ChunkOutcome) -> np.ndarray:
                ends.append(self._ends(one, self._elapsed[running]))
                return ends[0][0] + 1

            outcome = self._worlds.step(targets[running], running, until)
            last, terminated, truncated, lost = ends[0]
            rows = np.arange(len(running))
            rewards[running] = np.where(np.arange(horizon) <= last[:, None], outcome.stage, 0)
            terminations[running, last], truncations[running, last] = terminated, truncated
            steps[running], self._ended[running], diverged[running] = last + 1, terminated | truncated, lost
            stage[running], strict[running] = outcome.stage[rows, last], outcome.strict[rows, last]
            # What diverging physics leaves is no state to show.
            self._observe(running[~lost])
        self._elapsed += steps
        self._begin(again)
        info, infos = info_of(stage, strict, diverged, self._scenes.copy()), {}
        if not self._next_step and self._ended.any():
            infos = self._end(info)
        return rewards, terminations, truncations, steps, {**infos, **_with_masks(info, np.ones(count, bool))}

    def _ends(self, outcome: ChunkOutcome, elapsed: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return the (M,) last step that counts, and whether there the episode terminates, is truncated, diverged.

        :param elapsed: (M,) control steps of the episodes before the chunk.
        """
        horizon = outcome.stage.shape[1]
        hit = (outcome.stage == SUCCESS_STAGE) & self._end_on_success
        success = np.where(hit.any(1), hit.argmax(1), horizon)
        cap = np.full(len(elapsed), horizon) if self._cap is None else self._cap - 1 - elapsed
        end = np.minimum(success, cap)
        last = np.minimum(end, horizon - 1)
        lost = outcome.failed <= last  # else the episode ended before
        return last, success == last, (cap == last) | lost, lost

    def _end(self, info: dict[str, np.ndarray]) -> dict[str, Any]:
        """Return the final observations and infos of ended episodes; begin the next, in ``info`` too."""
        ended = self._ended.copy()
        final_obs = np.full(self.num_envs, None, dtype=object)
        for world in np.flatnonzero(ended):
            final_obs[world] = self._observations.of(*self._of(world))
        final = {name: np.where(ended, values, np.zeros_like(values)) for name, values in info.items()}
        self._begin(np.flatnonzero(ended))
        for name, first in info_of(0, False, False, self._scenes).items():
            info[name] = np.where(ended, first, info[name])
        return _with_masks({'final_obs': final_obs, 'final_info': _with_masks(final, ended)}, ended)

    def render(self) -> tuple[np.ndarray, ...]:
        """Return an (H, W, 3) uint8 RGB picture of the first camera of every world.

        :raises RenderError: without ``render_mode='rgb_array'``, or when no GL context can be made.
        """
        check_renders(self.render_mode)
        return tuple(self._observations.frame(*self._of(world), self._frame_size) for world in range(self.num_envs))

    def close_extras(self, **_: Any) -> None:
        """Stop the threads and release the GL contexts."""
        self._worlds.close()
        self._observations.close()


def _with_masks(info: dict[str, Any], where: np.ndarray) -> dict[str, Any]:
    """Return infos as gymnasium's vector environments do: beside every entry, in which worlds it holds."""
    return {**info, **{f'_{name}': where.copy() for name in info}}


def _checked_mode(mode: AutoresetMode | str) -> AutoresetMode:
    known = {each.value: each for each in _MODES}
    if mode not in (*known, *known.values()):
        raise ValueError(f"unknown autoreset_mode '{mode}': use {' or '.join(known)}")
    return known.get(mode, mode)

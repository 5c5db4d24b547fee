"""A world in MuJoCo's own window, in real time: look around, stop, pull at things with the mouse."""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

from fpo_ros.policy.contract import CONTROL_RATE_HZ
from fpo_ros.sim.actors import Actor, DivergedError, episode
from fpo_ros.sim.task import SUCCESS_STAGE
from fpo_ros.sim.world import World

#: Control steps that an episode goes on after success, for the eyes.
LINGER = 50


class NoDisplayError(RuntimeError):
    """No window can be opened; the message says why and what to do."""

    def __init__(self, reason: str) -> None:
        super().__init__(f'no window can be opened: {reason}. On a desktop it can; elsewhere write a film: '
                         '"fpo-ros sim film --out film.mp4"')


def open_window(world: World) -> Any:
    """Return MuJoCo's passive viewer of a world.

    :raises NoDisplayError: where there is no display.
    """
    if sys.platform == 'linux' and not (os.environ.get('DISPLAY') or os.environ.get('WAYLAND_DISPLAY')):
        raise NoDisplayError('neither DISPLAY nor WAYLAND_DISPLAY is set')
    import glfw
    import mujoco.viewer

    # The viewer starts GLFW in a thread of its own, and would wait for ever for one that failed.
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        works = glfw.init()
    if not works:
        raise NoDisplayError('; '.join(str(warning.message) for warning in said) or 'GLFW does not start')
    glfw.terminate()
    return mujoco.viewer.launch_passive(world.mj, world.data, show_left_ui=False, show_right_ui=False)


def view(world: World, actor: Actor, scene: int, say: Callable[[str], None], *, max_steps: int | None,
         window: Callable[[World], Any] = open_window, clock: Callable[[], float] = time.monotonic,
         sleep: Callable[[float], None] = time.sleep) -> None:
    """Show episodes of one scene after another, in real time, until the window is closed.

    :param scene: seed of the first.
    :param say: told in a line how each ended.
    :param max_steps: time limit of an episode [control steps]; None for none.
    :param clock: seconds that only grow [s].
    :raises NoDisplayError: where there is no display.
    """
    with window(world) as shown:
        while shown.is_running():
            with shown.lock():
                world.reset(scene)
            end = _play(world, actor, shown, max_steps, clock, sleep)
            if shown.is_running():
                say(f'scene {scene}: {end}')
            scene += 1


def _play(world: World, actor: Actor, shown: Any, max_steps: int | None, clock: Callable[[], float],
          sleep: Callable[[float], None]) -> str:
    """Show one episode and return in words how it ended."""
    steps, best, due = episode(world, actor, max_steps, LINGER), 0, clock()
    won: int | None = None
    while shown.is_running():
        try:
            with shown.lock():
                done = next(steps, None)
        except DivergedError as error:
            return str(error)
        if done is None:
            break
        step, stage = done
        shown.sync()
        best = max(best, stage)
        won = step if won is None and stage == SUCCESS_STAGE else won
        due += 1 / CONTROL_RATE_HZ
        sleep(max(0.0, due - clock()))
    return f'no success, stage {best} of {SUCCESS_STAGE}' if won is None else f'success at control step {won}'

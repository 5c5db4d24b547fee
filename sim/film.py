"""An episode as a film, where no window can be opened."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from fpo_ros.films import encode
from fpo_ros.policy.contract import CONTROL_RATE_HZ
from fpo_ros.sim.actors import Actor, episode
from fpo_ros.sim.render import WorldRenderer
from fpo_ros.sim.task import SUCCESS_STAGE
from fpo_ros.sim.world import World

#: Control steps between two frames: 25 of them are a second.
EVERY = 2
#: Control steps that an episode goes on after success, for the eyes.
LINGER = 50


@dataclass
class Film:
    """What was filmed.

    :param data: MP4.
    :param frames: their number.
    :param success_step: control step of the first success, from 1; None without.
    :param best_stage: highest staged reward 0..4.
    """

    data: bytes
    frames: int = 0
    success_step: int | None = None
    best_stage: int = 0


def film(world: World, actor: Actor, renderer: WorldRenderer, camera: str, max_steps: int,
         progress: Callable[[int], None] = lambda _: None) -> Film:
    """Film one episode of a world that was just reset.

    Frames of a randomised world have the looks of its episode, but are neither late nor lost.

    :param camera: one of the robot's ``cameras``.
    :param max_steps: time limit [control steps].
    :param progress: told the control steps done.
    :raises RenderError: for an unknown camera.
    :raises DivergedError: when the physics goes wrong.
    """
    made, look = Film(b''), world.drawn.appearance if world.drawn else None

    def frames() -> Iterator[np.ndarray]:
        for step, stage in episode(world, actor, max_steps, LINGER):
            made.best_stage = max(made.best_stage, stage)
            if stage == SUCCESS_STAGE and made.success_step is None:
                made.success_step = step
            progress(step)
            if step % EVERY == 1:
                made.frames += 1
                yield renderer.render(world.data.qpos, camera, look, step)

    made.data = encode(frames(), CONTROL_RATE_HZ / EVERY)
    return made

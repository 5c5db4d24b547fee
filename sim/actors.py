"""Who moves the arms of a world that a person watches: nobody, the scripted expert, or a policy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np

from fpo_ros.policy.contract import ContractError, PolicyContract
from fpo_ros.policy.limits import JointLimits
from fpo_ros.sim import divergence
from fpo_ros.sim.render import BatchRenderer
from fpo_ros.sim.robots import VX300S
from fpo_ros.sim.task import REST_STEPS, SUCCESS_STAGE
from fpo_ros.sim.world import World

#: World at the start of an episode → (14,) joint targets, one per control step, without end.
Actor = Callable[[World], Iterator[np.ndarray]]


class DivergedError(RuntimeError):
    """The physics of a world went wrong."""


def hold(world: World) -> Iterator[np.ndarray]:
    """Stay at the start."""
    while True:
        yield world.targets


def expert_of(task: str) -> Actor:
    """Return the scripted expert of a task, without errors of its own.

    :raises UnknownTaskError: if there is no such task.
    """
    from fpo_ros.sim.expert import expert_for  # with inverse kinematics, which nobody else needs

    scripted = expert_for(task)

    def play(world: World) -> Iterator[np.ndarray]:
        robot = world.model.robot.name
        if robot != VX300S.name:
            raise ValueError(f'the scripted expert does not know the arms of {robot}: use {VX300S.name}')
        yield from scripted.plan(world.object_pose(), np.random.default_rng(0), 0.0)
        yield from hold(world)

    return play


def policy_of(directory: Path, task: str, seed: int = 0) -> Actor:
    """Return a trained policy that decides, and sees pictures, as often as its contract says.

    It decides first when the objects have come to rest, as in training.

    :param directory: of the policy.
    :param seed: of the noise its chunks start from.
    :raises ContractError: for a directory without a policy, or one of another task.
    :raises NotFiniteError: in the episode, for actions that are not finite.
    """
    import torch

    from fpo_ros.policy.checkpoint import FlowPolicy
    from fpo_ros.policy.finite import check_finite

    policy = FlowPolicy.load(directory)
    contract, limits = policy.contract, JointLimits()
    if contract.task != task:
        raise ContractError(f'{directory} is a policy of {contract.task}, not of {task}: use --task {contract.task}')
    generator = torch.Generator().manual_seed(seed)

    def play(world: World) -> Iterator[np.ndarray]:
        yield from [world.targets] * REST_STEPS
        with _renderer(contract, world.model.robot.name) as renderer:
            while True:
                pose = world.object_pose()[None] if contract.observation == 'state' else None
                joints, pictures = _seen_in(world, renderer)
                with torch.no_grad():
                    prefix = policy.prefix(pictures)
                noise = torch.randn(1, contract.horizon, contract.action_dim, generator=generator)
                chunk = policy.act(policy.states(joints, pose), prefix, noise)
                check_finite({'actions': chunk}, str(directory), 'the policy is damaged, use another one')
                yield from limits.apply(world.targets, policy.to_raw(chunk, joints)[0, :contract.execute],
                                        1 / contract.control_rate_hz)

    return play


def _seen_in(world: World, renderer: BatchRenderer | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Return (1, 14) measured joints and (1, cameras, H, W, 3) pictures, None without a renderer."""
    seen = world.seen()
    if seen is None:
        return world.joints()[None], renderer.render_all(world.data.qpos[None]) if renderer else None
    return seen.joints[None], renderer.render_seen(seen[None]) if renderer else None


def _renderer(contract: PolicyContract, robot: str) -> AbstractContextManager[BatchRenderer | None]:
    if not contract.cameras:
        return nullcontext()
    return BatchRenderer(contract.task, contract.cameras, contract.image_height, contract.image_width, robot=robot)


def episode(world: World, actor: Actor, max_steps: int | None, linger: int = 0) -> Iterator[tuple[int, int]]:
    """Step a world that was just reset; yield the control step, from 1, and the stage 0..4 after it.

    :param max_steps: time limit [control steps]; None for none.
    :param linger: control steps to go on after the first success.
    :raises DivergedError: when the physics goes wrong.
    """
    ends = max_steps
    succeeded = False
    for step, targets in enumerate(actor(world), 1):
        world.set_targets(targets)
        world.step()
        if divergence.diverged(world.data):
            raise DivergedError(f'the physics of {world.model.task.name} diverged at control step {step}')
        stage = world.stage()
        yield step, stage
        if stage == SUCCESS_STAGE and not succeeded:
            succeeded = True
            ends = step + linger if ends is None else min(ends, step + linger)
        if ends is not None and step >= ends:
            return

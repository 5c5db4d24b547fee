"""Whole episodes of a policy in batched simulation, kept as decisions."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fpo_ros.policy.checkpoint import DEFAULT_SAMPLING, FlowPolicy
from fpo_ros.policy.contract import ACTION_DIM, PolicyContract
from fpo_ros.policy.finite import check_finite
from fpo_ros.policy.flow import Sampling
from fpo_ros.policy.limits import JointLimits
from fpo_ros.sim.batch import BatchedWorlds
from fpo_ros.sim.render import BatchRenderer
from fpo_ros.sim.task import MAX_STEPS, REST_STEPS, SUCCESS_STAGE

#: Control steps in a row that the stricter rule must hold.
STRICT_STEPS = 10
#: What is rewarded: success by gym-aloha's rule, or by the stricter one for STRICT_STEPS.
REWARDS = ('gym', 'strict')


def privileged_dim(contract: PolicyContract) -> int:
    """Return the length of the privileged state: joints, object poses, elapsed share of the cap."""
    return ACTION_DIM + contract.object_dim + 1


def renderer_of(contract: PolicyContract) -> AbstractContextManager:
    """Return a renderer of a contract's cameras, or an empty context where it has none."""
    if not contract.cameras:
        return nullcontext()
    return BatchRenderer(contract.task, contract.cameras, contract.image_height, contract.image_width)


def cap_of(max_steps: int | None) -> int:
    """Return the cap of an episode [control steps], gym-aloha's where none is given.

    :raises ValueError: for fewer than leave a policy anything to do.
    """
    if max_steps is not None and max_steps <= REST_STEPS:
        raise ValueError(f'an episode of at most {max_steps} control steps cannot be: in the first {REST_STEPS} the '
                         f'objects come to rest, use {REST_STEPS + 1} or more')
    return MAX_STEPS if max_steps is None else max_steps


def check_reward(reward: str) -> None:
    """Refuse what is not rewarded.

    :raises ValueError: naming the known ones.
    """
    if reward not in REWARDS:
        raise ValueError(f"unknown reward '{reward}': use {' or '.join(REWARDS)}")


@dataclass
class Rollout:
    """Episodes of one policy; N episodes of at most K decisions, padded.

    :param states: (N, K, state_dim) normalised states at each decision.
    :param privileged: (N, K, privileged_dim) joints, object poses and elapsed share of the cap, for the critic.
    :param prefix_kv: (layers, 2, N * K or 1, kv_heads, n_prefix, head_dim) prefix of each decision.
    :param chunks: (N, K, H, action_dim) normalised chunks, as drawn from the flow.
    :param paths: (N, K, S, H, action_dim) what each was drawn through; see :class:`fpo_ros.policy.checkpoint.Drawn`.
    :param valid: (N, K) bool, the decision was taken before the reward.
    :param success: (N,) bool, gym-aloha's rule.
    :param strict: (N,) bool, the task's stricter rule for STRICT_STEPS control steps in a row.
    :param rewarded: (N,) bool, one of the two.
    :param diverged: (N,) bool, the physics failed, which ended the episode; it may have succeeded before.
    :param max_stage: (N,) int8.
    :param steps: (N,) control steps until the reward, the end of the chunk in which the physics failed, or the cap.
    :param gym_return: (N,) sum of gym-aloha's rewards, 0 to 4 per control step, until its success.
    """

    states: Tensor
    privileged: np.ndarray
    prefix_kv: Tensor
    chunks: Tensor
    paths: Tensor
    valid: np.ndarray
    success: np.ndarray
    strict: np.ndarray
    rewarded: np.ndarray
    diverged: np.ndarray
    max_stage: np.ndarray
    steps: np.ndarray
    gym_return: np.ndarray

    @property
    def control_steps(self) -> int:
        """Control steps simulated in all episodes together."""
        return int(self.steps.sum())


def collect(policy: FlowPolicy, worlds: BatchedWorlds, seeds: np.ndarray,
            start_noise: Callable[[int], Tensor], *, sampling: Sampling = DEFAULT_SAMPLING,
            injected_noise: Callable[[int], Tensor] | None = None, renderer: BatchRenderer | None = None,
            noise_scale: float = 1.0, reward: str = 'gym', continue_to_strict: bool = False,
            max_steps: int | None = None) -> Rollout:
    """Run one episode per seed, all side by side. The policy decides first when the objects have come to rest.

    :param seeds: (N,) scene seeds, at most ``worlds.worlds``.
    :param start_noise: returns the (N, H, action_dim) start noise of a decision's flows.
    :param sampling: how chunks are drawn.
    :param injected_noise: returns the (N, steps, H, action_dim) noise of a decision, where the sampling injects it.
    :param renderer: for a contract with cameras.
    :param noise_scale: 1 samples from N(0, I), 0 starts every flow at zero.
    :param reward: one of :data:`REWARDS`.
    :param continue_to_strict: go on after the first success until the stricter rule is decided.
    :param max_steps: cap [control steps]; that of gym-aloha if None.
    :raises ValueError: for an unknown reward.
    :raises NotFiniteError: for actions that are not finite; the worlds are left as they were.
    """
    check_reward(reward)
    contract, limits = policy.contract, JointLimits()
    cap = cap_of(max_steps)
    decisions = -(-(cap - REST_STEPS) // contract.execute)
    count, horizon = len(seeds), contract.horizon
    worlds.reset(seeds, np.arange(count))
    states = torch.zeros(count, decisions, contract.state_dim)
    privileged = np.zeros((count, decisions, privileged_dim(contract)), np.float32)
    chunks = torch.zeros(count, decisions, horizon, contract.action_dim)
    paths: Tensor | None = None
    valid = np.zeros((count, decisions), bool)
    success, strict = np.zeros(count, bool), np.zeros(count, bool)
    diverged = worlds.rest(np.arange(count)).diverged.copy()
    rewarded = success if reward == 'gym' else strict
    max_stage, steps = np.zeros(count, np.int8), np.full(count, REST_STEPS)
    held, gym_return = np.zeros(count, np.int64), np.zeros(count)
    shared_prefix = policy.prefix(None).detach() if not contract.cameras else None
    prefixes: Tensor | None = None
    running = np.arange(count)

    def look(decision: int, where: np.ndarray) -> tuple[Tensor, np.ndarray]:
        joints, pose = worlds.joints()[where], worlds.object_pose()[where]
        # The policy is given joints as they are measured, the critic what is true.
        measured = worlds.observed_joints(where)
        seen = policy.states(measured, pose if contract.observation == 'state' else None)
        states[where, decision] = seen
        elapsed = np.full((len(where), 1), decision / decisions)
        privileged[where, decision] = np.concatenate([joints, pose, elapsed], 1)
        return seen, measured

    for decision in range(decisions):
        seen, measured = look(decision, running)
        if contract.cameras:
            shown = worlds.seen(running)
            pictures = renderer.render_all(worlds.qpos[running]) if shown is None else renderer.render_seen(shown)
            with torch.no_grad():
                prefix = policy.prefix(pictures)
            if prefixes is None:
                shape = list(prefix.shape)
                shape[2] = count * decisions
                prefixes = torch.zeros(shape)
            prefixes[:, :, running * decisions + decision] = prefix
        else:
            prefix = shared_prefix
        # Drawn for all: the noise of an episode does not depend on which others have ended.
        noise = noise_scale * start_noise(decision)[running]
        injected = None if injected_noise is None else injected_noise(decision)[running]
        draw = policy.draw(seen, prefix, noise, injected, sampling)
        drawn = draw.chunks
        if paths is None:
            paths = torch.zeros(count, decisions, *draw.path.shape[1:])
        paths[running, decision] = draw.path
        check_finite({'actions': drawn}, f'decision {decision + 1} of {decisions} in {len(running)} episodes',
                     'the policy is damaged, use another one or an earlier checkpoint')
        fresh = ~rewarded[running]
        chunks[running, decision] = drawn
        valid[running, decision] = fresh
        length = min(contract.execute, cap - REST_STEPS - decision * contract.execute)
        targets = limits.apply(worlds.last_target[running], policy.to_raw(drawn, measured)[:, :length],
                               1 / contract.control_rate_hz)
        outcome = worlds.step(targets, running)
        hit, held_enough = outcome.stage == SUCCESS_STAGE, np.zeros((len(running), length), bool)
        for step in range(length):
            held[running] = np.where(outcome.strict[:, step], held[running] + 1, 0)
            held_enough[:, step] = held[running] >= STRICT_STEPS
        met = hit if reward == 'gym' else held_enough
        steps[running] += np.where(fresh, np.where(met.any(1), met.argmax(1) + 1, length), 0)
        counted = (np.cumsum(hit, 1) - hit == 0) & ~success[running, None]
        gym_return[running] += (outcome.stage * counted).sum(1)
        success[running] |= hit.any(1)
        strict[running] |= held_enough.any(1)
        max_stage[running] = np.maximum(max_stage[running], outcome.stage.max(1))
        diverged[running] |= outcome.diverged
        ended = strict[running] if continue_to_strict else rewarded[running]
        running = running[~(ended | diverged[running])]
        if not len(running):
            break
    return Rollout(states, privileged, shared_prefix if prefixes is None else prefixes, chunks, paths, valid,
                   success, strict, rewarded.copy(), diverged, max_stage, steps, gym_return)

"""Success and smoothness of a policy in simulation when its chunks come late, by the rule that joins them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch

from fpo_ros.learning.rollout import STRICT_STEPS, renderer_of
from fpo_ros.policy.aloha import ARM_COLUMNS
from fpo_ros.policy.checkpoint import FlowPolicy
from fpo_ros.policy.continued import sample_continued
from fpo_ros.policy.contract import ContractError
from fpo_ros.policy.guided import sample_guided
from fpo_ros.policy.limits import JointLimits
from fpo_ros.policy.realtime import decided_rows, entry_mask, padded
from fpo_ros.releases.wilson import wilson_interval
from fpo_ros.runtime.timeline import Joining, Timeline
from fpo_ros.sim.batch import BatchedWorlds
from fpo_ros.sim.render import BatchRenderer
from fpo_ros.sim.scenes import Scenes, scene_seeds
from fpo_ros.sim.task import MAX_STEPS, REST_STEPS, SUCCESS_STAGE

#: What is compared: the ways of a timeline, and the newest chunk without guidance towards the one before.
METHODS = ('synchronous', 'ensemble', 'newest', 'realtime')
#: The same as 'realtime' by a flow that was trained to go on, of policies that were.
TRAINED = 'trained'
#: Delays from an observation to the chunk that answers it [ms].
DELAYS_MS = (0, 60, 120, 200, 300)
_JOINING = {'synchronous': Joining.AFTER, 'ensemble': Joining.ENSEMBLE}
#: Up to this delay [ms] real-time chunking is promised to lose no more than so many points of success.
KEPT_UNTIL_MS, LOST_POINTS = 120, 5
#: Control periods behind a seam whose jerk is counted.
_BEHIND = 3


@dataclass(frozen=True)
class Cell:
    """A method at a delay.

    :param method: one of :data:`METHODS`.
    :param delay: from an observation to its chunk [control periods].
    :param executed: rows executed between two observations; 0 where the chunk is too short to bridge the delay.
    """

    method: str
    delay: int
    executed: int


def methods_of(policy: FlowPolicy) -> tuple[str, ...]:
    """Return what can be compared of a policy."""
    return (*METHODS, TRAINED) if policy.contract.max_delay else METHODS


def cell_of(method: str, delay: int, horizon: int, execute: int) -> Cell:
    """Return how often a method observes at a delay.

    Synchronous execution plays ``execute`` rows; ensembling observes whenever the chunk before is there, as the policy
    node does, which computes one at a time; what goes on from an old chunk observes after max(d, execute / 2) rows,
    where that leaves d of them (arXiv 2506.07339, section IV: d <= s <= H-d).

    :raises ValueError: for an unknown method.
    """
    if method not in (*METHODS, TRAINED):
        raise ValueError(f"unknown method '{method}': use {', '.join((*METHODS, TRAINED))}")
    if method == 'synchronous':
        return Cell(method, delay, execute)
    if method == 'ensemble':
        return Cell(method, delay, max(delay, 1) if delay < horizon else 0)
    executed = max(delay, min(execute, horizon) // 2, 1)
    return Cell(method, delay, executed if executed <= horizon - delay else 0)


def run(policy: FlowPolicy, cell: Cell, episodes: int, seed: int = 0, batch: int = 100, threads: int | None = None,
        progress: Callable[[int], None] | None = None) -> dict:
    """Return success and jerk of one cell on held-out scenes.

    :param progress: called with the episodes done.
    :raises ContractError: for a policy whose start noise an actor steers: guidance knows no actor; and for one that
        was not trained to go on, where it shall.
    """
    if cell.method == TRAINED and not policy.contract.max_delay:
        raise ContractError("the policy was not trained to go on from a chunk: leave out 'trained', or train one with "
                            'fpo-ros train sft --max-delay')
    if policy.model.latent_actor is not None:
        raise ContractError('the policy has an actor over its start noise, which guidance does not know: use another')
    found = {'method': cell.method, 'delay_ms': round(1e3 * cell.delay / policy.contract.control_rate_hz),
             'executed': cell.executed, 'episodes': episodes}
    if not cell.executed or (cell.method == TRAINED and cell.delay > policy.contract.max_delay):
        return found | {'bridged': False}
    scenes, parts = scene_seeds(Scenes.EVALUATION, seed, episodes), []
    with renderer_of(policy.contract) as renderer:
        for start in range(0, episodes, batch):
            some = scenes[start:start + batch]
            with BatchedWorlds(policy.contract.task, len(some), threads=threads) as worlds:
                parts.append(_Episodes(policy, cell, worlds, renderer, some).play())
            if progress:
                progress(start + len(some))
    success, strict, jerks, seams = (np.concatenate(part) for part in zip(*parts, strict=True))
    low, high = wilson_interval(int(success.sum()), episodes)
    return found | {
        'bridged': True, 'successes': int(success.sum()), 'success_rate': float(success.mean()), 'wilson_low': low,
        'wilson_high': high, 'success_strict_rate': float(strict.mean()),
        'jerk_rms': float(np.sqrt(np.mean(jerks))),
        # Where no chunk followed another there is no seam.
        'seam_jerk_rms': float(np.sqrt(np.mean(seams))) if len(seams) else None}


class _Episodes:
    """Episodes side by side; all observe in the same periods, for the delay is the same."""

    def __init__(self, policy: FlowPolicy, cell: Cell, worlds: BatchedWorlds, renderer: BatchRenderer | None,
                 scenes: np.ndarray) -> None:
        self.policy, self.cell, self.worlds, self.renderer = policy, cell, worlds, renderer
        self.where = np.arange(len(scenes))
        worlds.reset(np.array(scenes), self.where)
        self.diverged = worlds.rest(self.where).diverged.copy()
        self.joining, self.timeline = _JOINING.get(cell.method, Joining.REALTIME), Timeline()
        self.noise = torch.Generator().manual_seed(int(scenes[0]))
        self.limits, self.period = JointLimits(), 1 / policy.contract.control_rate_hz
        self.commands, self.seams = [worlds.last_target[self.where].copy()], []
        self.held = np.zeros(len(scenes), np.int64)
        self.success, self.strict = np.zeros(len(scenes), bool), np.zeros(len(scenes), bool)

    def play(self) -> tuple[np.ndarray, ...]:
        """Return (N,) successes, (N,) strict ones, and squared jerks [(rad/s^3)^2] of episodes, and behind seams."""
        now, end, cell = 0, MAX_STEPS - REST_STEPS, self.cell
        coming: list[tuple[int, int, np.ndarray]] = []
        observe = 0

        def arrive() -> None:
            while coming and coming[0][0] == now:
                _, observed, chunk = coming.pop(0)
                after = self.joining is Joining.AFTER
                rows = chunk[:, :self.policy.contract.execute] if after else chunk
                if self.timeline.offer(rows, now if after else observed, now, self.joining):
                    self.seams.append(now)

        while now < end:
            arrive()  # what is here is what the next chunk goes on from
            if now == observe:
                coming.append((now + cell.delay, now, self._chunk(now)))
                # The next one is asked for when this one was played, or after so many periods.
                observe = now + cell.executed + (cell.delay if cell.method == 'synchronous' else 0)
                arrive()  # without a delay, at once
            until = min([end, observe, *(arrival for arrival, _, _ in coming)])
            self._move(now, until)
            now = until
        path = np.stack(self.commands, 1)[..., ARM_COLUMNS]
        squared = (np.diff(path, 3, axis=1) / self.period ** 3) ** 2
        # Command k is that of period k - 1, and its jerk is entry k - 3.
        behind = np.unique(np.array([seam + 1 - 3 + step for seam in self.seams[1:] for step in range(_BEHIND)], int))
        behind = behind[(behind >= 0) & (behind < squared.shape[1])]
        return self.success, self.strict, squared.mean((1, 2)), squared[:, behind].reshape(-1)

    def _chunk(self, now: int) -> np.ndarray:
        """Return the (N, H, 14) chunk that answers what is seen now."""
        policy, contract, worlds = self.policy, self.policy.contract, self.worlds
        joints = worlds.observed_joints(self.where)
        pose = worlds.object_pose()[self.where] if contract.observation == 'state' else None
        pictures = None if self.renderer is None else self.renderer.render_all(worlds.qpos[self.where])
        with torch.no_grad():
            states, prefix = policy.states(joints, pose), policy.prefix(pictures)
        noise = torch.randn(len(joints), contract.horizon, contract.action_dim, generator=self.noise)
        old = self.timeline.leftover(now) if self.cell.method in ('realtime', TRAINED) else None
        if old is None:
            return policy.to_raw(policy.act(states, prefix, noise), joints)
        with torch.no_grad():
            cache = policy.model.with_state(states, prefix)
        decided = policy.known_chunks(padded(old, contract.horizon).astype(np.float32), joints)
        left, delay = old.shape[-2], self.cell.delay
        if self.cell.method == TRAINED:
            held = torch.as_tensor(decided_rows(left, delay, contract.horizon, policy.model.config.steps_per_token))
            held = held.expand(len(joints), -1)
            drawn = sample_continued(policy.model, noise, contract.flow_steps, cache, decided, held)
            return policy.to_raw(drawn, joints)
        mask = torch.as_tensor(entry_mask(left, delay, contract.horizon, contract.action_dim)).expand_as(noise)
        drawn = sample_guided(lambda x, time: policy.model.denoise(x, time, cache), noise, contract.flow_steps, decided,
                              mask)
        return policy.to_raw(drawn, joints)

    def _move(self, now: int, until: int) -> None:
        """Command the periods from ``now`` to ``until``; what has no target repeats the last one."""
        last, rows = self.commands[-1], []
        for period in range(now, until):
            target = self.timeline.target(period)
            rows.append(last if target is None else target)
            last = rows[-1]
        commanded = self.limits.apply(self.commands[-1], np.stack(rows, 1), self.period)
        self.commands += list(np.moveaxis(commanded, 1, 0))
        outcome = self.worlds.step(commanded, self.where)
        self.diverged |= outcome.diverged
        for step in range(until - now):
            self.held = np.where(outcome.strict[:, step], self.held + 1, 0)
            self.strict |= (self.held >= STRICT_STEPS) & ~self.diverged
        self.success |= (outcome.stage == SUCCESS_STAGE).any(1) & ~self.diverged


def measure(policy: FlowPolicy, episodes: int, delays_ms: Iterable[float] = DELAYS_MS,
            methods: Iterable[str] | None = None, seed: int = 0, threads: int | None = None,
            report: Callable[[dict], None] | None = None) -> list[dict]:
    """Return the figures of all methods at all delays.

    :param methods: those of :func:`methods_of` if None.
    :raises ValueError: for a negative delay or an unknown method.
    """
    contract, found = policy.contract, []
    methods = methods_of(policy) if methods is None else tuple(methods)
    for delay_ms in delays_ms:
        if delay_ms < 0:
            raise ValueError(f'a delay of {delay_ms:g} ms cannot be: use 0 or more')
        delay = round(delay_ms * 1e-3 * contract.control_rate_hz)
        for method in methods:
            one = run(policy, cell_of(method, delay, contract.horizon, contract.execute), episodes, seed,
                      threads=threads)
            found.append(one)
            if report:
                report(one)
    return found


def broken_promises(found: list[dict]) -> list[str]:
    """Return where real-time chunking falls short of what docs/benchmarks.md promises.

    :raises ValueError: without figures of it at no delay, and at some delay that the promise covers.
    """
    short, rows = [], {(one['method'], one['delay_ms']): one for one in found}
    methods = [method for method in ('realtime', TRAINED) if any(name == method for name, _ in rows)]
    late = {method: [delay for name, delay in rows if name == method and 0 < delay <= KEPT_UNTIL_MS]
            for method in methods}
    if not methods or not all(late[method] and (method, 0) in rows for method in methods):
        raise ValueError(f'--check compares real-time chunking at delays up to {KEPT_UNTIL_MS} ms with no delay: let '
                         f'--methods hold realtime, and --delays 0 and one up to {KEPT_UNTIL_MS}')
    for method in methods:
        base = rows[method, 0]
        for delay in late[method]:
            one = rows[method, delay]
            if not (base['bridged'] and one['bridged']):
                short.append(f'{method} at {delay if base["bridged"] else 0} ms: the chunks do not bridge the delay')
            elif one['success_rate'] < base['success_rate'] - LOST_POINTS / 100 - 1e-9:
                short.append(f'{method} at {delay} ms: {one["success_rate"]:.1%} succeeded, without delay '
                             f'{base["success_rate"]:.1%}; promised are at most {LOST_POINTS} points less')
    return short


def in_words(one: dict) -> str:
    """Return the figures of a method at a delay as a line."""
    name = f'{one["delay_ms"]} ms, {one["method"]}'
    if not one['bridged']:
        return f'{name}: its chunks are too short to bridge the delay'
    return (f'{name}: {one["success_rate"]:.1%} ({one["wilson_low"]:.1%} to {one["wilson_high"]:.1%}) of '
            f'{one["episodes"]} scenes, {one["success_strict_rate"]:.1%} by the strict rule; jerk '
            f'{one["jerk_rms"]:,.0f} rad/s^3, {one["seam_jerk_rms"] or float("nan"):,.0f} behind a seam')

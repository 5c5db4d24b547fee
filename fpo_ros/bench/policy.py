"""Time of one chunk of an exported policy, beside torch, beside no cache, in the policy node and while policies change.

What is compared takes turns, one thread each, so that a busy machine disturbs all alike: first the ways to compute a
chunk, then session and node.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fpo_ros.bench.policy_node import REST_S, NoNode, open_node
from fpo_ros.bench.recomputing import Recomputing
from fpo_ros.bench.swaps import measure_swaps
from fpo_ros.policy.checkpoint import FlowPolicy
from fpo_ros.policy.config import preset
from fpo_ros.policy.contract import START_JOINTS, ContractError, Observation, PolicyContract
from fpo_ros.policy.normalisation import NormStats
from fpo_ros.policy.pi0 import Pi0
from fpo_ros.releases import Release, ReleaseStore, generate_keypair, load_trusted_keys
from fpo_ros.runtime.export import export
from fpo_ros.runtime.graphs import check_provider
from fpo_ros.runtime.session import PolicySession
from fpo_ros.runtime.swap import PolicySlot
from fpo_ros.sim.task import sample_object_pose

#: What each variant sees here: the demo's states, and one picture of pi0's size.
VARIANTS = {'pi0_tiny': PolicyContract(),
            'pi0_small': PolicyContract(observation='pixels', cameras=('cam_high',), image_height=224,
                                        image_width=224)}
#: Rounds of each variant, of which every fifth has the slow turn without a cache; and changes of the policy.
SAMPLES, SWAPS = {'pi0_tiny': 300, 'pi0_small': 60}, {'pi0_tiny': 20, 'pi0_small': 5}
_SLOW_EVERY = 5
#: Largest difference between chunks that are called the same [rad, grippers 0..1].
_SAME = 1e-4


def untrained(contract: PolicyContract, variant: str = 'pi0_tiny') -> FlowPolicy:
    """Return a policy with weights at random: they change no duration."""
    return FlowPolicy(Pi0(preset(variant), contract), stats_of(contract))


def stats_of(contract: PolicyContract) -> NormStats:
    """Return statistics of chunks about the start pose."""
    return NormStats(np.zeros(contract.state_dim), np.ones(contract.state_dim), START_JOINTS, np.full(14, 0.1))


def observation_of(contract: PolicyContract) -> Observation:
    """Return arms at the start pose, with pictures of noise or the objects of a scene."""
    rng, shape = np.random.default_rng(0), (contract.image_height, contract.image_width, 3)
    images = {name: rng.integers(0, 256, shape, np.uint8) for name in contract.cameras}
    pose = None if images else sample_object_pose(contract.task, 0)
    return Observation(START_JOINTS, images, pose)


def measure(variant: str, samples: int | None = None, provider: str = 'cpu', swaps: int | None = None,
            report: Callable[[str], None] = print) -> dict[str, Any]:
    """Return the figures of ``fpo-ros bench policy``; see docs/benchmarks.md for what each is.

    :param variant: key of :data:`VARIANTS`.
    :param samples: rounds; as :data:`SAMPLES` says if None.
    :param provider: what runs the exported graphs; torch runs on the CPU.
    :param swaps: changes of the policy; as :data:`SWAPS` says if None.
    :param report: is told what is done, and why a figure is None.
    :raises ContractError: for an unknown variant.
    :raises fpo_ros.runtime.providers.PolicyError: for a provider that is not there.
    :raises RuntimeError: when two of those compared do not compute the same.
    """
    if variant not in VARIANTS:
        raise ContractError(f"unknown variant '{variant}': use {' or '.join(VARIANTS)}")
    check_provider(provider)
    samples, swaps, contract = samples or SAMPLES[variant], swaps or SWAPS[variant], VARIANTS[variant]
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory(prefix='fpo_ros-bench-') as directory:
            report(f'exporting an untrained {variant}')
            policy, root = untrained(contract, variant), Path(directory)
            releases = released(policy, root)
            report(f'{samples} rounds')
            found = _rounds(policy, releases[0], root, samples, provider, report)
            report(f'{swaps} changes of the policy')
            slot = PolicySlot(contract, load_trusted_keys(root / 'keys'), provider, admit=None)
            with contextlib.closing(slot):
                found |= measure_swaps(slot, releases, observation_of(contract), swaps)
    finally:
        torch.set_num_threads(before)
    return {'variant': variant, **found}


def broken_promises(found: dict[str, Any]) -> list[str]:
    """Return which ratios fall short of what docs/benchmarks.md promises of a variant."""
    least = {'pi0_tiny': 2.5, 'pi0_small': 1.5}[found['variant']]
    short = []
    if found['speedup_over_torch'] < least:
        short.append(f'{found["speedup_over_torch"]:.2f} times as fast as torch, promised are {least}')
    if found['variant'] == 'pi0_small' and found['no_cache_p50_ms'] < 4 * found['p50_ms']:
        short.append(f'the cached prefix makes chunks {found["no_cache_p50_ms"] / found["p50_ms"]:.2f} times as fast, '
                     'promised are 4')
    if found['node_p50_ms'] is not None:
        allowed = 1.15 * found['session_beside_node_p50_ms'] + 1
        if found['node_p50_ms'] > allowed:
            short.append(f'a chunk takes {found["node_p50_ms"]:.2f} ms through the node, promised are {allowed:.2f}')
        if found['node_p99_ms'] > 2 * found['node_p50_ms']:
            short.append(f'one in a hundred chunks takes {found["node_p99_ms"]:.2f} ms through the node, promised is '
                         f'twice the median, {found["node_p50_ms"]:.2f}')
    gap, without = found['max_tick_gap_ms'], found['max_tick_gap_without_swaps_ms']
    if gap > 1.2 * without:
        short.append(f'the longest gap of the control loop is {gap:.1f} ms while policies change, promised are 1.2 '
                     f'times the {without:.1f} without')
    return short


def in_words(found: dict[str, Any]) -> list[str]:
    """Return the figures as lines to read."""
    p50 = found['p50_ms']
    lines = [f'{found["variant"]} on {found["provider"]}: {p50:.2f} ms a chunk (p99 {found["p99_ms"]:.2f})',
             f'torch {found["torch_eager_p50_ms"]:.2f} ms, {found["speedup_over_torch"]:.2f} times as long; without '
             f'the cached prefix {found["no_cache_p50_ms"]:.2f} ms, {found["no_cache_p50_ms"] / p50:.2f} times as long']
    if found['node_p50_ms'] is not None:
        lines.append(f'through the policy node {found["node_p50_ms"]:.2f} ms, {found["node_overhead"]:.1%} more than '
                     f'{found["session_beside_node_p50_ms"]:.2f} in turns with it (p99 {found["node_p99_ms"]:.2f})')
    return [*lines, f'new weights answer after {found["swap_ms"]:.0f} ms; longest gap of a control loop '
            f'{found["max_tick_gap_ms"]:.1f} ms meanwhile, {found["max_tick_gap_without_swaps_ms"]:.1f} ms otherwise']


def released(policy: FlowPolicy, root: Path, copies: int = 2) -> list[Release]:
    """Export a policy and publish it so often: checking looks at all of a release, whatever serves."""
    keys, staging = generate_keypair(root / 'keys'), root / 'staging'
    staging.mkdir()
    export(policy, staging)
    (staging / 'contract.json').unlink()
    store = ReleaseStore(root / 'store')
    return [store.publish(staging, contract=policy.contract, metrics={}, parent=None, private_key=keys.private_path,
                          created='2026-01-01T00:00:00Z') for _ in range(copies)]


def _rounds(policy: FlowPolicy, release: Release, root: Path, samples: int, provider: str,
            report: Callable[[str], None]) -> dict[str, Any]:
    """Time a chunk of each in turns."""
    contract, rng = policy.contract, np.random.default_rng(0)
    observation, session = observation_of(contract), PolicySession.load(release, provider)
    turns: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        'torch': eager(policy, observation), 'session': lambda noise: session.infer(observation, noise),
        'no cache': Recomputing(policy, root, session.provider).infer_of(observation)}
    durations: dict[str, list[float]] = {name: [] for name in turns}
    for index in range(samples + 1):
        noise = rng.standard_normal((contract.horizon, contract.action_dim), np.float32)
        chunks = [_timed(durations[name], turn, noise) for name, turn in turns.items()
                  if name != 'no cache' or index % _SLOW_EVERY == 0]
        if any(not np.allclose(chunk, chunks[0], atol=_SAME) for chunk in chunks[1:]):
            raise RuntimeError('what is compared did not compute the same chunk: the comparison means nothing')
    ms = {name: np.array(some[1:]) * 1e3 for name, some in durations.items()}  # the first round warms up
    p50 = {name: float(np.median(some)) for name, some in ms.items()}
    return {'provider': session.provider, 'p50_ms': p50['session'], 'p99_ms': float(np.percentile(ms['session'], 99)),
            'torch_eager_p50_ms': p50['torch'], 'speedup_over_torch': p50['torch'] / p50['session'],
            'no_cache_p50_ms': p50['no cache'], 'samples': samples,
            **_beside_node(release, root, session, observation, samples, report)}


def _beside_node(release: Release, root: Path, session: PolicySession, observation: Observation, samples: int,
                 report: Callable[[str], None]) -> dict[str, float | None]:
    """Time the policy node and the bare session in turns, and nothing else: a cell runs no torch between two chunks."""
    contract, rng = session.contract, np.random.default_rng(1)
    alone: list[float] = []
    through: list[float] = []
    with _node(release, root, contract, session.provider, report) as ask:
        if ask is None:
            return dict.fromkeys(('session_beside_node_p50_ms', 'node_p50_ms', 'node_p99_ms', 'node_overhead'))
        for _ in range(samples + 1):
            noise = rng.standard_normal((contract.horizon, contract.action_dim), np.float32)
            _timed(alone, lambda noise: session.infer(observation, noise), noise)
            through.append(ask(observation))
    bare, node = float(np.median(alone[1:])) * 1e3, float(np.median(through[1:])) * 1e3
    return {'session_beside_node_p50_ms': bare, 'node_p50_ms': node,
            'node_p99_ms': float(np.percentile(through[1:], 99)) * 1e3, 'node_overhead': (node - bare) / bare}


@contextlib.contextmanager
def _node(release: Release, root: Path, contract: PolicyContract, provider: str,
          report: Callable[[str], None]) -> Iterator[Callable[[Observation], float] | None]:
    """Give what asks the policy node for a chunk; None, said why, where there is no ROS."""
    with contextlib.ExitStack() as stack:
        try:
            ask = stack.enter_context(open_node(release.path, root / 'keys', contract, provider, root))
        except NoNode as error:
            report(f'node_p50_ms, node_p99_ms and node_overhead are null: {error}')
            ask = None
        yield ask


def eager(policy: FlowPolicy, observation: Observation) -> Callable[[np.ndarray], np.ndarray]:
    """Return what makes a chunk of noise in torch; the prefix of a prompt alone is computed once, as a session does."""
    names = policy.contract.cameras
    images = np.stack([[observation.images[name] for name in names]]) if names else None
    pose = None if observation.object_pose is None else observation.object_pose[None]
    joints = observation.joint_positions[None]
    with torch.no_grad():
        known = policy.prefix(images)

    @torch.no_grad()
    def infer(noise: np.ndarray) -> np.ndarray:
        prefix = policy.prefix(images) if names else known
        chunk = policy.act(policy.states(joints, pose), prefix, torch.as_tensor(noise)[None])
        return policy.to_raw(chunk, joints)[0]

    return infer


def _timed(durations: list[float], work: Callable[[np.ndarray], np.ndarray], noise: np.ndarray) -> np.ndarray:
    time.sleep(REST_S)  # none goes on with the caches of the one before
    started = time.perf_counter()
    result = work(noise)
    durations.append(time.perf_counter() - started)
    return result

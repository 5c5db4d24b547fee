"""Time of an iteration of fine-tuning and its parts, and what the cached prefix spares an update."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from fpo_ros.bench.policy import untrained
from fpo_ros.bench.simulation import TASK, Progress, cores
from fpo_ros.learning.config import FPOConfig
from fpo_ros.learning.decisions import Decisions, flatten
from fpo_ros.learning.fpo import FPO
from fpo_ros.learning.imitation import Imitation
from fpo_ros.learning.rollout import renderer_of
from fpo_ros.learning.scale import Collected, EpisodeOptions, Local, Pool, collect_episodes, open_pool
from fpo_ros.learning.scale.unit import BlockPolicy
from fpo_ros.learning.trained_flow import TrainedFlow
from fpo_ros.learning.update import Batch, FlowPolicyOptimization
from fpo_ros.options import contract_of
from fpo_ros.policy.checkpoint import FlowPolicy
from fpo_ros.policy.contract import PolicyContract
from fpo_ros.sim.batch import BatchedWorlds
from fpo_ros.sim.render import BatchRenderer
from fpo_ros.sim.task import MAX_STEPS, REST_STEPS

#: Largest distance between what two updates changed of the weights, as a share of the change.
_SAME = 0.01


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    :param episodes: episodes per iteration, ascending; an iteration of each is timed.
    :param max_steps: cap of an episode [control steps].
    :param decisions: decisions of the update whose throughput is measured, an episode each.
    :param rounds: updates of each kind.
    """

    episodes: tuple[int, ...] = (16, 32, 64, 128)
    max_steps: int = MAX_STEPS
    decisions: int = 256
    rounds: int = 2


FULL = Sizes()
#: Parts of a rollout: what is called for each; of the physics what is native, without what goes in and comes out.
_PARTS = {'physics_s': (BatchedWorlds, '_roll'), 'pictures_s': (BatchRenderer, 'render_all'),
          'prefix_s': (FlowPolicy, 'prefix'), 'flow_s': (BlockPolicy, 'draw')}


@contextmanager
def timed(calls: dict[str, tuple[type, str]]) -> Iterator[dict[str, float]]:
    """Time methods within the block; none of them calls another.

    :param calls: name → class and method.
    :returns: name → time spent in it so far [s].
    """
    spent = dict.fromkeys(calls, 0.0)

    def timing(name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            begun = time.perf_counter()
            try:
                return plain(*arguments, **options)
            finally:
                spent[name] += time.perf_counter() - begun
        return call

    patches = [patch.object(owner, method, timing(name, getattr(owner, method)))
               for name, (owner, method) in calls.items()]
    for one in patches:
        one.start()
    try:
        yield spent
    finally:
        for one in patches:
            one.stop()


class TimedPool:
    """Collects as another pool, timing the parts, and rewards every other episode.

    An untrained policy is never rewarded, and where nothing is, FPO takes no step: so who is rewarded is made up.

    :param pool: collects in this process.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        #: Times of the newest collection [s].
        self.spent: dict[str, float] = {}

    def collect(self, policy: FlowPolicy, scenes: np.ndarray, options: EpisodeOptions | None = None,
                progress: Callable[[int], None] | None = None) -> Collected:
        """Run one episode per scene; see :func:`fpo_ros.learning.scale.collect_episodes`."""
        with timed(_PARTS) as self.spent:
            begun = time.perf_counter()
            collected = self._pool.collect(policy, scenes, options, progress)
            self.spent['collect_s'] = time.perf_counter() - begun
        return replace(collected, rollout=replace(collected.rollout, rewarded=np.arange(len(scenes)) % 2 == 0))


def seeded(contract: PolicyContract) -> FlowPolicy:
    """Return an untrained ``pi0_tiny``, always the same one; the global random state is left alone."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        return untrained(contract)


def iterations(contract: PolicyContract, sizes: Sizes, progress: Progress) -> list[dict[str, float]]:
    """Time one iteration of every size, with the settings of training but for warm-up and early stop.

    :returns: for each size ``iteration_s`` and its parts ``rollout_s`` (without prefixes), ``prefix_s`` and
        ``update_s``; ``physics_s``, ``pictures_s`` and ``flow_s`` of the rollout; and ``share_not_physics`` of rollout
        and prefixes together.
    """
    policy, rows = seeded(contract), []
    with open_pool(Local()) as pool:
        # Makes worlds and renderer for the most episodes.
        pool.collect(policy, np.arange(sizes.episodes[-1]), EpisodeOptions(max_steps=REST_STEPS + contract.execute))
        timing = TimedPool(pool)
        _iterate(policy, sizes.episodes[0], sizes, timing)  # warms up
        for count in sizes.episodes:
            rows.append(_iterate(policy, count, sizes, timing))
            progress('{episodes:.0f} episodes: an iteration takes {iteration_s:.1f} s (rollout {rollout_s:.1f}, prefix '
                     '{prefix_s:.1f}, update {update_s:.1f}); {share_not_physics:.0%} of collecting is not physics'
                     .format(**rows[-1]))
    return rows


def _iterate(policy: FlowPolicy, episodes: int, sizes: Sizes, pool: TimedPool) -> dict[str, float]:
    # Without warm-up the first iteration updates; without early stop it takes every epoch.
    learner = FPO(policy, FPOConfig(episodes=episodes, max_steps=sizes.max_steps, warmup=0, drift_stop=None))
    begun = time.perf_counter()
    learner.run_iteration(pool)
    whole, spent = time.perf_counter() - begun, pool.spent
    return {'episodes': episodes, 'control_steps': learner.control_steps, 'iteration_s': whole,
            'rollout_s': spent['collect_s'] - spent['prefix_s'], 'prefix_s': spent['prefix_s'],
            'update_s': whole - spent['collect_s'], 'physics_s': spent['physics_s'],
            'pictures_s': spent['pictures_s'], 'flow_s': spent['flow_s'],
            'share_not_physics': 1 - spent['physics_s'] / spent['collect_s']}


class Recomputed(Decisions):
    """Decisions whose prefix is computed from pictures wherever it is asked for.

    The prefix is frozen, so it is computed without gradients here, too.

    :param cached: the same decisions.
    :param policy: whose prefix.
    :param images: (M, cameras, H, W, 3) uint8, what was seen.
    :param times: how often that of each decision is computed: once, or for each of its pairs.
    """

    def __init__(self, cached: Decisions, policy: FlowPolicy, images: np.ndarray, times: int) -> None:
        super().__init__(**vars(cached))
        self._policy, self._images, self._times = policy, images, times

    def prefix(self, rows: Tensor) -> Tensor:
        """Return the prefix of some decisions."""
        every = rows.repeat_interleave(self._times)
        with torch.no_grad():
            return self._policy.prefix(self._images[every.numpy()])[:, :, ::self._times]


def throughput(contract: PolicyContract, sizes: Sizes) -> dict[str, float]:
    """Return chunk-samples per second of FPO's update: decisions times pairs times epochs over its time.

    With the cached prefix; with the prefix of each decision computed anew in every minibatch; and with that of each
    pair computed anew, where nothing at all is shared. The three take turns.

    :param contract: of a policy that sees pixels.
    :raises RuntimeError: when the three did not change the weights alike.
    """
    policy, scenes = seeded(contract), np.arange(sizes.decisions)
    rollout = collect_episodes(policy, scenes, options=EpisodeOptions(max_steps=REST_STEPS + contract.execute)).rollout
    with BatchedWorlds(contract.task, len(scenes)) as worlds, renderer_of(contract) as renderer:
        worlds.reset(scenes)
        worlds.rest()
        images = renderer.render_all(worlds.qpos)
    cached, config = flatten(rollout, rollout.valid), FPOConfig(bc_coefficient=0.0, drift_stop=None)
    advantage = torch.randn(len(cached), generator=torch.Generator().manual_seed(0))
    kinds = {'cached': cached, 'recomputed': Recomputed(cached, policy, images, 1),
             'uncached': Recomputed(cached, policy, images, config.pairs)}
    spent, changes = dict.fromkeys(kinds, 0.0), {}
    for _ in range(sizes.rounds):
        for kind, decisions in kinds.items():
            batch = Batch(decisions, advantage, rollout, np.zeros(rollout.valid.shape), prefer=True,
                          where='the benchmark', advice='see what differs from training', rate=config.learning_rate)
            spent[kind], changes[kind] = _updated(policy, batch, config, spent[kind])
    for kind in ('recomputed', 'uncached'):
        difference = torch.linalg.vector_norm(changes[kind] - changes['cached'])
        if not difference <= _SAME * torch.linalg.vector_norm(changes['cached']):
            raise RuntimeError('the updates with and without the cached prefix did not change the weights alike: the '
                               'comparison means nothing')
    samples = sizes.rounds * len(cached) * config.pairs * config.epochs
    return {f'{kind}_chunk_samples_per_s': samples / spent[kind] for kind in kinds}


def _updated(policy: FlowPolicy, batch: Batch, config: FPOConfig, spent: float) -> tuple[float, Tensor]:
    """Update a copy of a policy; return the time with that of this update [s], and what it changed of the weights."""
    trained = FlowPolicy(copy.deepcopy(policy.model), policy.stats)
    flow = TrainedFlow(trained, config, torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam(flow.parameters, lr=config.learning_rate)
    update = FlowPolicyOptimization(flow, config, Imitation(flow, config, None), optimizer)
    before = torch.nn.utils.parameters_to_vector(flow.parameters).detach()
    begun = time.perf_counter()
    update.run(batch)
    spent += time.perf_counter() - begun
    return spent, torch.nn.utils.parameters_to_vector(flow.parameters).detach() - before


def measure(observation: str, sizes: Sizes, progress: Progress) -> dict[str, Any]:
    """Measure iterations of a policy that sees states or pixels, and the update of one that sees pixels.

    :param observation: of the iterations.
    :param progress: called with what begins and what was found.
    :returns: the figures of the largest iteration, of the update, and under ``iterations`` those of every size.
    """
    progress(f'iterations of an untrained pi0_tiny that sees {observation}')
    rows = iterations(contract_of(TASK, observation, None), sizes, progress)
    pixels = contract_of(TASK, 'pixels', None)
    progress(f'updates of one that sees {" ".join(pixels.cameras)}, {pixels.image_height}x{pixels.image_width}, with '
             'and without the cached prefix')
    found = {'observation': observation, 'cores': cores(), 'torch_threads': torch.get_num_threads(), **rows[-1],
             **throughput(pixels, sizes), 'iterations': rows}
    for name, ours, baseline in RATIOS:
        found[name] = found[ours] / found[baseline]
        found[f'{name}_reaches_{AIM}'] = found[name] >= AIM
    return found


#: Ratios: name, ours, baseline.
RATIOS = (
    ('speed_up_over_recomputed_prefix', 'cached_chunk_samples_per_s', 'recomputed_chunk_samples_per_s'),
    ('speed_up_over_nothing_cached', 'cached_chunk_samples_per_s', 'uncached_chunk_samples_per_s'))
#: What both ratios aim at; each says whether it gets there.
AIM = 5
#: What each ratio must reach on two cores.
PROMISES = {'speed_up_over_recomputed_prefix': 2, 'speed_up_over_nothing_cached': 5}
#: Largest share of collecting that is not physics, for a policy that sees states.
LARGEST_SHARE = 0.35


def broken_promises(found: dict[str, Any]) -> list[str]:
    """Return what the figures fall short of."""
    short = [f'{name} is {found[name]:.2f}, promised {least:g}' for name, least in PROMISES.items()
             if found[name] < least]
    share = found['share_not_physics']
    if found['observation'] == 'state' and share > LARGEST_SHARE:
        short.append(f'{share:.0%} of collecting is not physics, promised at most {LARGEST_SHARE:.0%}')
    return short

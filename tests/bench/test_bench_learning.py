"""``fpo-ros bench learn``: an iteration of FPO in parts, and updates with and without the cached prefix."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from fpo_ros.bench import learning
from fpo_ros.bench.cli import app
from fpo_ros.bench.learning import Recomputed, Sizes, TimedPool, timed
from fpo_ros.learning.decisions import Decisions
from fpo_ros.learning.scale import EpisodeOptions, Local, open_pool
from fpo_ros.options import contract_of
from fpo_ros.policy.checkpoint import FlowPolicy
from fpo_ros.sim.batch import BatchedWorlds

#: Two decisions per episode.
SMALL = Sizes(episodes=(2, 4), max_steps=40, decisions=6, rounds=1)
STATE, PIXELS = (contract_of('transfer_cube', observation, None) for observation in ('state', 'pixels'))


class Slow:
    """What is timed."""

    def work(self, fail: bool = False) -> int:
        if fail:
            raise ValueError('no')
        return 7


def test_what_is_timed_works_as_before_and_is_left_alone_afterwards(monkeypatch):
    plain, now = Slow.work, iter([10.0, 12.0, 20.0, 25.0])
    monkeypatch.setattr(learning.time, 'perf_counter', lambda: next(now))
    with timed({'it': (Slow, 'work')}) as spent:
        assert Slow().work() == 7 and spent == {'it': 2.0}
        with pytest.raises(ValueError, match='no'):
            Slow().work(fail=True)
    assert spent == {'it': 7.0} and Slow.work is plain


def test_every_other_episode_is_rewarded_and_nothing_else_is_changed():
    policy, options = learning.seeded(STATE), EpisodeOptions(max_steps=40)
    with open_pool(Local()) as pool:
        plain = pool.collect(policy, np.arange(3), options).rollout
        timing = TimedPool(pool)
        found = timing.collect(policy, np.arange(3), options).rollout
    assert found.rewarded.tolist() == [True, False, True] and not plain.rewarded.any()
    assert torch.equal(found.chunks, plain.chunks) and (found.steps == plain.steps).all()
    parts = [timing.spent[name] for name in ('physics_s', 'prefix_s', 'flow_s')]
    assert min(parts) > 0 and sum(parts) < timing.spent['collect_s'] and timing.spent['pictures_s'] == 0


def test_physics_is_what_is_native_alone():
    policy, options = learning.seeded(STATE), EpisodeOptions(max_steps=40)
    with open_pool(Local()) as pool:
        timing = TimedPool(pool)
        with timed({'all_s': (BatchedWorlds, 'step')}) as spent:
            timing.collect(policy, np.arange(2), options)
    assert 0 < timing.spent['physics_s'] < spent['all_s']


@pytest.mark.parametrize('contract', [STATE, PIXELS], ids=['state', 'pixels'])
def test_the_parts_of_an_iteration_are_the_iteration(contract):
    rows = learning.iterations(contract, SMALL, lambda line: None)
    assert [(row['episodes'], row['control_steps']) for row in rows] == [(2, 80), (4, 160)]
    for row in rows:
        assert row['rollout_s'] + row['prefix_s'] + row['update_s'] == pytest.approx(row['iteration_s'])
        assert min(row['rollout_s'], row['prefix_s'], row['update_s'], row['physics_s'], row['flow_s']) > 0
        assert (row['pictures_s'] > 0) == bool(contract.cameras)
        assert row['share_not_physics'] == pytest.approx(
            1 - row['physics_s'] / (row['rollout_s'] + row['prefix_s']))


def test_the_iterations_that_are_timed_train_the_policy(monkeypatch):
    policy = learning.seeded(STATE)
    before = policy.digest()
    monkeypatch.setattr(learning, 'seeded', lambda contract: policy)
    learning.iterations(STATE, SMALL, lambda line: None)
    assert policy.digest() != before


def test_the_policy_is_always_the_same_and_the_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    assert learning.seeded(STATE).digest() == learning.seeded(STATE).digest()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize('times', [1, 4])
def test_what_is_not_cached_is_computed_where_it_is_asked_for(times, monkeypatch):
    policy, rng = learning.seeded(PIXELS), np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 1, PIXELS.image_height, PIXELS.image_width, 3), np.uint8)
    with torch.no_grad():
        prefix = policy.prefix(images)
    states, chunks = torch.zeros(5, PIXELS.state_dim), torch.zeros(5, PIXELS.horizon, 14)
    cached = Decisions(states, prefix, chunks, chunks[:, None])
    seen, plain = [], policy.prefix
    monkeypatch.setattr(policy, 'prefix', lambda some: (seen.append(len(some)), plain(some))[1])
    rows = torch.tensor([3, 0, 3])
    found = Recomputed(cached, policy, images, times).prefix(rows)
    torch.testing.assert_close(found, cached.prefix(rows), atol=1e-5, rtol=1e-5)
    assert seen == [3 * times] and not found.requires_grad


def test_updates_that_do_something_else_are_not_compared(monkeypatch):
    plain = Recomputed.prefix
    monkeypatch.setattr(Recomputed, 'prefix', lambda *arguments: plain(*arguments).flip(2))
    with pytest.raises(RuntimeError, match='did not change the weights alike'):
        learning.throughput(PIXELS, SMALL)


def test_promises_that_are_broken_are_named():
    found = dict.fromkeys(learning.PROMISES, 1e9) | {'observation': 'state', 'share_not_physics': 0.2}
    assert learning.broken_promises(found) == []
    found |= {'share_not_physics': 0.41, 'speed_up_over_nothing_cached': 4.5}
    assert learning.broken_promises(found) == ['speed_up_over_nothing_cached is 4.50, promised 5',
                                               '41% of collecting is not physics, promised at most 35%']
    found |= {'observation': 'pixels', 'speed_up_over_nothing_cached': 5.5}
    assert learning.broken_promises(found) == [], 'pictures and prefixes are no physics either'


def test_the_command_prints_every_figure_and_draws_growth(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(learning, 'FULL', SMALL)
    plot = tmp_path / 'new' / 'growth.svg'
    app(['learn', '--json', '--growth', str(plot)], standalone_mode=False)
    said = capsys.readouterr()
    found = json.loads(said.out.splitlines()[-1])
    assert found['observation'] == 'state' and found['cores'] >= 1 and len(found['iterations']) == 2
    assert found['iteration_s'] == found['iterations'][-1]['iteration_s']
    for name, ours, baseline in learning.RATIOS:
        assert found[name] == pytest.approx(found[ours] / found[baseline])
        assert found[f'{name}_reaches_5'] == (found[name] >= 5)
    assert '<svg' in plot.read_text()
    assert 'cam_high, 192x256' in said.err and 'speed up over recomputed prefix' in said.err


def test_a_plot_of_an_unknown_kind_is_refused_before_anything_is_measured(monkeypatch):
    monkeypatch.delattr(learning, 'measure')
    with pytest.raises(ValueError, match='growth.docx is no name of a picture'):
        app(['learn', '--growth', 'growth.docx'], standalone_mode=False)


def test_a_broken_promise_fails_the_command_when_asked(monkeypatch, capsys):
    figures = {'cached_chunk_samples_per_s': 40.0, 'recomputed_chunk_samples_per_s': 10.0,
               'uncached_chunk_samples_per_s': 10.0, 'speed_up_over_recomputed_prefix': 4.0,
               'speed_up_over_nothing_cached': 4.0, 'observation': 'state', 'share_not_physics': 0.3}
    monkeypatch.setattr(learning, 'measure', lambda *arguments: figures)
    app(['learn'], standalone_mode=False)
    with pytest.raises(RuntimeError, match='speed_up_over_nothing_cached is 4.00, promised 5'):
        app(['learn', '--check'], standalone_mode=False)


def test_prefixes_are_timed_where_every_policy_computes_them():
    """A policy that computes blocks of rows must not bring a way of its own that the timer does not see."""
    with timed({'prefix_s': (FlowPolicy, 'prefix')}) as spent, open_pool(Local()) as pool:
        pool.collect(learning.seeded(PIXELS), np.arange(1), EpisodeOptions(max_steps=20))
    assert spent['prefix_s'] > 0

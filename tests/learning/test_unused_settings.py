"""Settings that nothing of what is learned would depend on are refused, and no others."""

from __future__ import annotations

import re

import pytest

from fpo_ros.learning.config import ALGORITHMS, FPOConfig
from fpo_ros.learning.settings import SettingsError, load_settings, with_settings
from fpo_ros.learning.unused_settings import UNUSED, default_of

#: Another value than the default, of every setting that some algorithm has no use for.
OTHER = {
    'temperature': 1.0, 'pairs': 2, 'narrow_steps': 9, 'narrow_learning_rate': 1e-3, 'spread_floor': 0.0,
    'drift_stop': 0.5, 'decay': 'none', 'epochs': 8, 'minibatch': 128, 'microbatch': 32, 'lam': 0.9,
    'advantage_floor': 0.0, 'bc_coefficient': 1.0, 'bc_weighting': 'surplus', 'bc_history': 9, 'bc_batch': 64,
    'bc_pairs': 2, 'sampling.noise_range': [1.0, 1.0], 'critic.kind': 'ensemble', 'critic.inputs': 'observation',
    'critic.members': 2, 'critic.baseline': 'stored', 'critic.polyak': 0.01, 'critic.learning_rate': 1e-4,
    'critic.steps': 9, 'critic.history': 9, 'objective.ratio': 'averaged', 'objective.trust_region': 'ppo',
    'objective.kappa': 5.0, 'objective.kappa_unit': 'flow_loss', 'objective.clip': 0.3, 'objective.log_ratio_clip': 2.0,
    'objective.loss_clip': 4.0, 'objective.beta': 0.2, 'objective.step_decay': 0.9,
    'objective.dimension_weights': [1.0] * 13 + [2.0],
}


def with_one(algorithm: str, name: str) -> FPOConfig:
    """Return settings in which nothing but the algorithm and one other setting differs from the defaults."""
    group, _, own = name.rpartition('.')
    value = {own: OTHER[name]} if group else OTHER[name]
    return with_settings(FPOConfig(), {'algorithm': algorithm, group or own: value})


@pytest.mark.parametrize(('algorithm', 'name'), [
    (algorithm, name) for algorithm, names in UNUSED.items() for name in names])
def test_a_setting_that_an_algorithm_has_no_use_for_is_refused_by_name(algorithm, name):
    with pytest.raises(ValueError, match=f'^{algorithm} has no use for {re.escape(name)}: leave it out$'):
        with_one(algorithm, name)


@pytest.mark.parametrize('algorithm', ALGORITHMS)
def test_an_algorithm_takes_the_defaults_and_what_it_has_a_use_for(algorithm):
    plain, others = FPOConfig(algorithm=algorithm), {'narrow_learning_rate', 'objective.beta', 'critic.members',
                                                     'critic.baseline', 'critic.polyak'}
    for name in OTHER.keys() - others - set(UNUSED[algorithm]):
        assert with_one(algorithm, name) != plain


@pytest.mark.parametrize(('given', 'name', 'needed'), [
    ({'narrow_learning_rate': 1e-3}, 'narrow_learning_rate', {'narrow_steps': 9}),
    ({'bc_coefficient': 0.0, 'bc_batch': 64}, 'bc_batch', {'bc_coefficient': 0.1}),
    ({'bc_coefficient': 0.0, 'bc_history': 9}, 'bc_history', {'bc_coefficient': 0.1}),
    ({'objective': {'beta': 0.2}}, 'objective.beta', {'objective': {'beta': 0.2, 'ratio': 'standardised'}}),
    ({'critic': {'members': 2}}, 'critic.members', {'critic': {'members': 2, 'kind': 'ensemble'}}),
    ({'critic': {'polyak': 0.01}}, 'critic.polyak', {'algorithm': 'dsrl'}),
    ({'sampling': {'beyond_size': 0.1}}, 'sampling.beyond_size', {'sampling': {'beyond_size': 0.1, 'beyond': 2}})])
def test_a_setting_that_another_one_switches_off_is_refused_by_name(given, name, needed):
    with pytest.raises(ValueError, match=f'^without .* there is no use for {re.escape(name)}: leave it out$'):
        with_settings(FPOConfig(), given)
    group, _, own = name.rpartition('.')
    found = with_settings(FPOConfig(), given | needed)
    assert getattr(getattr(found, group) if group else found, own) != default_of(FPOConfig, name)


def test_a_file_may_hold_what_an_option_beside_it_has_a_use_for(tmp_path):
    path = tmp_path / 'mine.yaml'
    path.write_text('temperature: 1.0\n')
    assert load_settings(path, {'algorithm': 'awr'}) == {'temperature': 1.0}
    for beside in (None, {'episodes': 5}):
        with pytest.raises(SettingsError, match='mine.yaml: fpo has no use for temperature: leave it out'):
            load_settings(path, beside)

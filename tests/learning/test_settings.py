"""Settings of fine-tuning: defaults, files of them, and what is refused."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fpo_ros.learning.config import CriticConfig, FPOConfig, config_from_dict
from fpo_ros.learning.objective import ObjectiveConfig
from fpo_ros.learning.settings import SettingsError, load_settings, with_settings
from fpo_ros.learning.unused_settings import UNUSED
from fpo_ros.policy.flow import Sampling
from fpo_ros.sim.appearance import AppearanceRanges
from fpo_ros.sim.randomisation import Randomisation

SHIPPED = Path(__file__).parents[2] / 'config' / 'fpo.yaml'


def plain(config: FPOConfig) -> dict:
    """Return settings as JSON types, without what a file of settings cannot hold."""
    data = json.loads(json.dumps(asdict(config)))
    data.pop('randomisation')
    return data


def written(folder: Path, text: str) -> Path:
    path = folder / 'mine.yaml'
    path.write_text(text, encoding='utf-8')
    return path


def test_the_file_that_is_shipped_shows_every_setting_with_its_default():
    shown = yaml.safe_load(SHIPPED.read_text())
    defaults = plain(FPOConfig())
    assert shown == defaults
    for group in ('critic', 'objective', 'sampling'):
        assert list(shown[group]) == list(defaults[group]), 'in the order of the code'


def test_the_file_that_is_shipped_changes_nothing():
    given = load_settings(SHIPPED)
    assert with_settings(FPOConfig(), given) == FPOConfig()


def test_a_file_without_settings_changes_nothing(tmp_path):
    assert load_settings(written(tmp_path, '# nothing yet\n')) == {}


def test_what_a_file_leaves_out_stays_as_it_is(tmp_path):
    given = load_settings(written(tmp_path, 'episodes: 7\ncritic: {steps: 9}\nobjective: {loss_clip: 4.0}\n'))
    before = replace(FPOConfig(), epochs=3, critic=CriticConfig(history=8, steps=1))
    assert with_settings(before, given) == replace(
        before, episodes=7, critic=CriticConfig(history=8, steps=9), objective=ObjectiveConfig(loss_clip=4.0))


def test_whole_numbers_lists_and_null_are_taken_where_they_fit(tmp_path):
    given = load_settings(written(tmp_path, 'gamma: 1\ndrift_stop: null\nsampling: {noise_range: [0, 1], steps: 3}\n'))
    config = with_settings(FPOConfig(), given)
    assert config.gamma == 1 and config.drift_stop is None
    assert config.sampling == Sampling(steps=3, noise_range=(0, 1))


@pytest.mark.parametrize(('text', 'words'), [
    ('episode: 5', "unknown setting 'episode'"),
    ('randomisation: {}', "unknown setting 'randomisation'"),
    ('7: 5', "unknown setting '7'"),
    ('critic: {membres: 3}', "unknown setting 'critic.membres': known are kind"),
    ('objective: {Kappa: 3}', "unknown setting 'objective.Kappa'"),
    ('sampling: {stepps: 3}', "unknown setting 'sampling.stepps'"),
    ('episodes: many', "episodes must be int, got 'many'"),
    ('episodes: 1.5', 'episodes must be int, got 1.5'),
    ('episodes: true', 'episodes must be int, got True'),
    ('episodes: null', 'episodes must be int, got None'),
    ('learning_rate: fast', "learning_rate must be float, got 'fast'"),
    ('gamma: [0.9]', r'gamma must be float, got \[0.9\]'),
    ('reward: 3', 'reward must be str, got 3'),
    ('restore_drop: much', "restore_drop must be float or None, got 'much'"),
    ('critic: {steps: 2.5}', 'critic.steps must be int, got 2.5'),
    ('objective: {loss_clip: no}', 'objective.loss_clip must be float or None, got False'),
    ('sampling: {steps: [1]}', 'sampling.steps must be int or None'),
    ('sampling: {noise_range: 5}', 'sampling.noise_range must be a list of numbers, got 5'),
    ('sampling: {noise_range: [a, b]}', 'sampling.noise_range must be a list of numbers'),
    ('sampling: {noise_range: null}', 'sampling.noise_range must be a list of numbers'),
    ('objective: {dimension_weights: [1, true]}', 'objective.dimension_weights must be a list of numbers'),
    ('critic: 5', 'critic must hold settings by name, got 5'),
    ('critic:', 'critic must hold settings by name, got None'),
    ('sampling: [1]', r'sampling must hold settings by name, got \[1\]'),
    ('algorithm: magic', "unknown algorithm 'magic': use fpo"),
    ('placement: table', "unknown placement 'table': use expert, lora or latent"),
    ('reward: gold', "unknown reward 'gold'"),
    ('critic: {kind: art}', "unknown critic 'art': use value or ensemble"),
    ('critic: {inputs: none}', "unknown input of a critic 'none'"),
    ('critic: {baseline: old}', "unknown baseline of a critic 'old'"),
    ('critic: {polyak: 0}', 'polyak of the critic must lie in'),
    ('critic: {members: 0}', 'members of the critic must be at least 1, got 0'),
    ('objective: {clip: -1}', 'clip must be positive, got -1'),
    ('objective: {ratio: odd}', "unknown ratio 'odd'"),
    ('sampling: {steps: 0}', 'a flow of 0 steps cannot be'),
    ('sampling: {beyond: -1}', '-1 steps of 0.02 beyond'),
    ('sampling: {noise_range: [2, 1]}', 'noise_range must be a lowest and a highest factor'),
    ('sampling: {noise_range: [1, 1, 1]}', 'noise_range must be a lowest and a highest factor'),
    ('sampling: {noise_std: [[0.1]]}', 'noise_std must hold rows of 14 deviations'),
    ('average: 1.0', r'average must lie in \[0, 1\), got 1.0'),
    ('perturbation: -0.1', 'perturbation must not be negative, got -0.1'),
    ('{placement: latent, perturbation: 0.1}', 'a latent is not perturbed'),
    ('lora_rank: 4', 'lora_rank 4 needs placement lora'),
    ('{placement: lora, lora_rank: 0}', 'lora_rank 0 needs placement lora, and must be at least 1'),
    ('{placement: lora, algorithm: dsrl}', 'dsrl trains an actor over latents: leave placement out'),
    ('epochs: 0', 'epochs must be at least 1, got 0'),
    ('minibatch: 0', 'minibatch must be at least 1, got 0'),
    ('microbatch: -1', 'microbatch must be at least 1, got -1'),
    ('pairs: 0', 'pairs must be at least 1, got 0'),
    ('bc_batch: 0', 'bc_batch must be at least 1, got 0'),
    ('bc_pairs: 0', 'bc_pairs must be at least 1, got 0'),
    ('narrow_steps: -1', 'narrow_steps must not be negative, got -1'),
    ('narrow_learning_rate: 0', 'narrow_learning_rate must be positive, got 0'),
    ('narrow_steps: 9\nbc_coefficient: 0', 'one of the two is off, so leave narrow_steps out'),
    ('narrow_steps: 9\npatience: null', 'one of the two is off, so leave narrow_steps out'),
    ('narrow_steps: 9\nalgorithm: filtered_bc', 'filtered_bc has no use for narrow_steps: leave it out'),
    ('narrow_steps: 9\nalgorithm: ppo', 'ppo has no use for narrow_steps: leave it out'),
    ('bc_history: 0', 'bc_history must be at least 1, got 0'),
    ('warmup: -1', 'warmup must not be negative, got -1'),
    ('bc_coefficient: -0.3', 'bc_coefficient must not be negative, got -0.3'),
    ('learning_rate: -0.1', 'learning_rate must not be negative, got -0.1'),
    ('critic: {learning_rate: -0.1}', 'learning_rate of the critic must be positive, got -0.1'),
    ('temperature: 0.0', 'temperature must be positive, got 0.0'),
    ('temperature: .nan', 'temperature must be positive, got nan'),
    ('max_grad_norm: 0', 'max_grad_norm must be positive, got 0'),
    ('gamma: 1.5', r'gamma must lie in \[0, 1\], got 1.5'),
    ('lam: -0.5', r'lam must lie in \[0, 1\], got -0.5'),
    ('{algorithm: filtered_bc, bc_coefficient: 0}', 'filtered_bc only imitates: bc_coefficient must be positive'),
    ('[1, 2]', 'must hold settings by name, not list'),
    ('episodes', 'must hold settings by name, not str'),
    ('a: [', 'is not YAML'),
    ('a: 1\n b: 2\n', 'is not YAML'),
])
def test_what_cannot_be_is_one_error_that_names_the_file_and_the_setting(tmp_path, text, words):
    path = written(tmp_path, text)
    with pytest.raises(SettingsError, match=words) as caught:
        load_settings(path)
    assert str(caught.value).startswith(str(path)) and '\n' not in str(caught.value)


@pytest.mark.parametrize(('make', 'words'), [
    (lambda path: None, 'No such file'), (lambda path: path.mkdir(), 'Is a directory'),
    (lambda path: path.write_bytes(b'\xff\xfe\x00 episodes'), 'is not YAML')])
def test_a_file_that_cannot_be_read_is_one_error_that_names_it(tmp_path, make, words):
    path = tmp_path / 'mine.yaml'
    make(path)
    with pytest.raises(SettingsError, match=words) as caught:
        load_settings(path)
    assert str(path) in str(caught.value) and '\n' not in str(caught.value)


POSITIVE, COUNTS = st.floats(1e-4, 50), st.integers(1, 500)
SHARES = st.floats(0, 0.99)
RANGES = st.tuples(st.floats(0, 1), st.floats(1, 2))
CRITIC = dict(inputs=st.sampled_from(['privileged', 'observation']), learning_rate=POSITIVE, steps=COUNTS,
              history=COUNTS)
CRITICS = st.builds(CriticConfig, **CRITIC) | st.builds(
    CriticConfig, kind=st.just('ensemble'), members=COUNTS, baseline=st.sampled_from(['fresh', 'stored']),
    polyak=st.floats(0.001, 1), **CRITIC)
WEIGHTS = dict(step_decay=POSITIVE,
               dimension_weights=st.just(()) | st.lists(POSITIVE, min_size=14, max_size=14).map(tuple))
OBJECTIVE = dict(trust_region=st.sampled_from(['aspo', 'ppo', 'none']), kappa=POSITIVE, clip=POSITIVE,
                 log_ratio_clip=POSITIVE, loss_clip=st.none() | POSITIVE, **WEIGHTS)
OBJECTIVES = st.builds(ObjectiveConfig, ratio=st.sampled_from(['per_sample', 'averaged']), **OBJECTIVE) | st.builds(
    ObjectiveConfig, ratio=st.just('standardised'), beta=POSITIVE, **OBJECTIVE)
SAMPLING = dict(steps=st.none() | st.integers(1, 20), noise_range=RANGES,
                noise_std=st.integers(0, 2).map(lambda rows: ((0.05,) * 14,) * rows))
SAMPLINGS = st.builds(Sampling, **SAMPLING) | st.builds(
    Sampling, beyond=st.integers(1, 5), beyond_size=POSITIVE, **SAMPLING)
MADE = dict(
    episodes=COUNTS, max_steps=COUNTS,
    reward=st.sampled_from(['gym', 'strict']), pairs=COUNTS, epochs=COUNTS, minibatch=COUNTS, microbatch=COUNTS,
    learning_rate=POSITIVE, decay=st.sampled_from(['linear', 'none']), gamma=SHARES, lam=SHARES, critic=CRITICS,
    warmup=st.integers(0, 9), bc_coefficient=POSITIVE, drift_stop=st.none() | POSITIVE,
    smoothing=COUNTS, bc_history=COUNTS, bc_batch=COUNTS, bc_pairs=COUNTS, max_grad_norm=POSITIVE,
    average=SHARES, restore_drop=st.none() | POSITIVE, temperature=POSITIVE, perturbation=SHARES, sampling=SAMPLINGS,
    objective=OBJECTIVES, randomisation=st.sampled_from([
        None, Randomisation(), Randomisation(object_mass=(0.5, 2.0), camera_latency_s={'top': (0.0, 0.1)},
                                             appearance=AppearanceRanges(noise_std=(1.0, 4.0)))]))


def made(algorithm: str, **more: st.SearchStrategy) -> st.SearchStrategy:
    """Return settings of an algorithm, as far as it has use for them."""
    return st.builds(FPOConfig, algorithm=st.just(algorithm), **{
        name: values for name, values in (MADE | more).items() if name not in UNUSED[algorithm]})


WEIGHED = st.builds(ObjectiveConfig, **WEIGHTS)
CONFIGS = (made('fpo') | made('fpo', narrow_steps=COUNTS, narrow_learning_rate=POSITIVE)
           | made('awr', objective=WEIGHED) | made('filtered_bc', objective=WEIGHED, critic=st.just(CriticConfig())))


@given(CONFIGS)
def test_settings_come_back_from_json_as_they_were(config):
    assert config_from_dict(json.loads(json.dumps(asdict(config)))) == config


@given(CONFIGS)
def test_whatever_can_be_set_can_be_written_into_a_file(config):
    config = replace(config, randomisation=None)
    text = yaml.safe_dump(plain(config))
    assert with_settings(FPOConfig(), yaml.safe_load(text)) == config


@pytest.mark.parametrize('change', [
    lambda d: d.pop('critic'), lambda d: d['critic'].update(colour=1), lambda d: d.update(colour=1),
    lambda d: d['sampling'].update(steps=-1), lambda d: d.update(randomisation={'colour': 1}),
    lambda d: d.update(objective=None)])
def test_settings_that_are_damaged_are_refused(change):
    data = asdict(FPOConfig())
    change(data)
    with pytest.raises((KeyError, TypeError, ValueError)):
        config_from_dict(data)


def test_perturbation_adds_noise_after_the_last_step_alone():
    config = FPOConfig(perturbation=0.2)
    sampling = config.training_sampling(4)
    assert sampling.noise_std == ((0.0,) * 14,) * 3 + ((0.2,) * 14,)
    assert replace(sampling, noise_std=()) == config.sampling
    two = replace(config, sampling=Sampling(steps=2, noise_range=(0.0, 1.0))).training_sampling(4)
    assert two == Sampling(steps=2, noise_range=(0.0, 1.0), noise_std=((0.0,) * 14, (0.2,) * 14))


def test_without_perturbation_chunks_are_drawn_as_the_settings_say():
    sampling = Sampling(beyond=2)
    assert FPOConfig(sampling=sampling).training_sampling(4) is sampling


def test_noise_that_is_asked_for_twice_is_refused():
    config = FPOConfig(perturbation=0.1, sampling=Sampling(noise_std=((0.1,) * 14,) * 4))
    with pytest.raises(ValueError, match='perturbation and noise_std both add noise'):
        config.training_sampling(4)

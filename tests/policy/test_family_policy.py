"""Whole checkpoints of openpi and LeRobot: configuration, statistics, prompt, and what is refused of them."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import torch
from safetensors.numpy import load_file, save_file
from test_families import CONFIG

from fpo_ros import cli
from fpo_ros.policy.adapted import merged, with_adapters
from fpo_ros.policy.checkpoint import FlowPolicy
from fpo_ros.policy.config import PRESETS, LoraConfig, preset
from fpo_ros.policy.contract import JOINT_NAMES, ContractError, PolicyContract
from fpo_ros.policy.families import FamilyError
from fpo_ros.policy.family_config import config_of
from fpo_ros.policy.family_policy import read_policy, write_policy
from fpo_ros.policy.normalisation import NormStats
from fpo_ros.policy.paligemma import PUBLISHED_SIZE, TokenizerError, paligemma_tokens
from fpo_ros.policy.pi0 import Pi0
from fpo_ros.policy.pretrained import write_pretrained
from fpo_ros.policy.statistics import StatisticsError, read_openpi
from fpo_ros.policy.tokenizer import tokens_of

MODEL = replace(CONFIG, state_width=32, vocabulary_size=300)
PROMPT = 'Fold the towel'
#: Of ``lerobot/pi0``, shortened (LeRobot policies/pi0/configuration_pi0.py of 2025-08).
OLD_CONFIG = {'type': 'pi0', 'n_obs_steps': 1, 'chunk_size': 50, 'n_action_steps': 50, 'max_state_dim': 32,
              'max_action_dim': 32, 'resize_imgs_with_padding': [224, 224], 'empty_cameras': 0,
              'adapt_to_pi_aloha': False, 'tokenizer_max_length': 48, 'proj_width': 1024, 'num_steps': 10}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Let a small network have the published one's name."""
    monkeypatch.setattr('fpo_ros.policy.family_config.preset', lambda name: MODEL)


@pytest.fixture(scope='module')
def tokenizer(tmp_path_factory):
    return trained(tmp_path_factory.mktemp('tokenizer'))


def trained(directory, **settings):
    """Train a small tokenizer with PaliGemma's special ids and a newline of its own."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(['Transfer cube', 'Fold the towel', 'Insert the peg into the socket'] * 20),
        model_writer=model, hard_vocab_limit=False, minloglevel=2, normalization_rule_name='identity',
        **{'pad_id': 0, 'eos_id': 1, 'bos_id': 2, 'unk_id': 3, 'vocab_size': 60, 'user_defined_symbols': ['\n']}
        | settings)
    path = directory / 'tokenizer.model'
    path.write_bytes(model.getvalue())
    return path


def policy(units: str, tokenizer, **contract) -> FlowPolicy:
    entries = {'observation': 'pixels', 'cameras': ('cam_high', 'cam_left_wrist'), 'image_height': 16,
               'image_width': 24, 'horizon': 30, 'execute': 25, 'action_width': 32, 'units': units, 'prompt': PROMPT,
               'prompt_tokens': paligemma_tokens(PROMPT, tokenizer, 300), **contract}
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    stats = NormStats(rng.normal(size=14), rng.uniform(0.1, 1, 14), rng.normal(size=14), rng.uniform(0.1, 1, 14))
    return FlowPolicy(Pi0(MODEL, PolicyContract(**entries)).eval(), stats)


def given(ours: FlowPolicy, family: str) -> dict:
    """Return what a checkpoint of a family does not say."""
    contract = ours.contract
    if family == 'lerobot':
        return {'prompt': PROMPT}
    return {'prompt': PROMPT, 'cameras': contract.cameras, 'image_height': 16, 'image_width': 24}


@pytest.mark.parametrize(('family', 'units', 'relative'), [
    ('openpi', 'pi', False), ('lerobot', 'cell', False), ('lerobot', 'cell', True)])
def test_a_policy_that_was_written_is_read_as_it_was(tmp_path, tokenizer, family, units, relative):
    ours = policy(units, tokenizer, relative=relative)
    write_policy(ours, tmp_path, family)
    read = read_policy(tmp_path, tokenizer, model=MODEL, **given(ours, family))
    assert read.contract == ours.contract
    for name in vars(ours.stats):
        np.testing.assert_allclose(getattr(read.stats, name), getattr(ours.stats, name), rtol=1e-6)
    for name, value in ours.model.state_dict().items():
        assert torch.equal(read.model.state_dict()[name], value), name
    assert torch.equal(read.tokens, ours.tokens) and read.tokens[0, 0] == 2


def test_openpi_adds_its_epsilon_to_deviations_in_both_directions(tmp_path):
    entry = {'mean': [0.5] * 32, 'std': [0.25] * 32, 'q01': [0.0] * 32, 'q99': [1.0] * 32}
    (tmp_path / 'norm_stats.json').write_text(json.dumps({'norm_stats': {'state': entry, 'actions': entry}}))
    stats = read_openpi(tmp_path, PolicyContract(observation='pixels', cameras=('cam_high',)))
    assert len(stats.state_mean) == len(stats.action_mean) == 14, 'what pads is cut off'
    np.testing.assert_allclose(stats.normalise_state(np.ones(14)), 0.5 / 0.250001, rtol=1e-6)
    np.testing.assert_allclose(stats.unnormalise_action(np.ones(14)), 0.750001, rtol=1e-6)


def spoilt(path, **entries):
    data = json.loads(path.read_text())
    path.write_text(json.dumps(data | entries))


@pytest.mark.parametrize(('spoil', 'match'), [
    (lambda at: (at / 'config.json').unlink(), 'config.json is no configuration of pi0'),
    (lambda at: (at / 'config.json').write_text('{'), 'no configuration of pi0'),
    (lambda at: (at / 'config.json').write_text('[1]'), 'no configuration of pi0'),
    (lambda at: spoilt(at / 'config.json', type='pi05'), "of a 'pi05'"),
    (lambda at: spoilt(at / 'config.json', use_peft=True), 'merge the adapters first'),
    (lambda at: spoilt(at / 'config.json', max_period=8.0), 'max_period is 8.0'),
    (lambda at: spoilt(at / 'config.json', tokenizer_max_length=None), 'tokenizer_max_length is None'),
    (lambda at: spoilt(at / 'config.json', tokenizer_max_length=4), 'the policy was trained with 4 at most'),
    (lambda at: (at / 'config.json').write_text(json.dumps(OLD_CONFIG)),
     'config.json was written by LeRobot before September 2025.* use lerobot/pi0_base'),
    (lambda at: spoilt(at / 'config.json', normalization_mapping={'STATE': 'QUANTILES'}), 'mean and deviation alone'),
    (lambda at: spoilt(at / 'config.json', use_relative_actions=True, action_feature_names=None),
     r'\[\] of 0 absolute'),
    (lambda at: spoilt(at / 'config.json', use_relative_actions=True, relative_exclude_joints=['waist']),
     r'columns \[0, 7\] of 14'),
    (lambda at: (at / 'policy_preprocessor.json').unlink(), 'policy_preprocessor.json is no processor'),
    (lambda at: spoilt(at / 'policy_preprocessor.json', steps=[]), 'pass observation.state through as it is'),
    (lambda at: cut(at / 'policy_postprocessor_step_0_unnormalizer_processor.safetensors'), 'cannot be read'),
    (lambda at: cut(at / 'model.safetensors'), 'cut short'),
    (lambda at: without(at, 'action.std'), 'holds no action.std'),
    (lambda at: without(at, 'action.std', np.full(14, np.nan, np.float32)), 'not finite'),
    (lambda at: without(at, 'action.std', np.ones(7, np.float32)), 'another robot'),
    (lambda at: without(at, 'action.std', np.where(np.arange(14) == 3, 0, 1).astype(np.float32)),
     'hardly moved in left_forearm_roll'),
])
def test_an_unfit_checkpoint_is_refused_by_what_is_wrong(tmp_path, tokenizer, spoil, match):
    ours = policy('cell', tokenizer)
    write_policy(ours, tmp_path, 'lerobot')
    spoil(tmp_path)
    with pytest.raises(ContractError, match=match):
        read_policy(tmp_path, tokenizer, model=MODEL, **given(ours, 'lerobot'))


def cut(path):
    path.write_bytes(path.read_bytes()[:100])


def without(directory, name, value=None):
    path = directory / 'policy_postprocessor_step_0_unnormalizer_processor.safetensors'
    tensors = load_file(path)
    del tensors[name]
    save_file(tensors | ({} if value is None else {name: value}), path)


def test_still_columns_are_floored_when_asked_for(tmp_path, tokenizer):
    ours = policy('cell', tokenizer)
    write_policy(ours, tmp_path, 'lerobot')
    without(tmp_path, 'action.std', np.zeros(14, np.float32))
    read = read_policy(tmp_path, tokenizer, model=MODEL, least_std=0.01, **given(ours, 'lerobot'))
    np.testing.assert_allclose(read.stats.action_std, 0.01, rtol=1e-6)


def test_statistics_of_several_robots_or_none_are_not_guessed_at(tmp_path, tokenizer):
    ours = policy('pi', tokenizer)
    write_policy(ours, tmp_path, 'openpi')
    other = tmp_path / 'assets' / 'droid'
    other.mkdir()
    chosen = tmp_path / 'assets' / 'trossen' / 'norm_stats.json'
    (other / 'norm_stats.json').write_bytes(chosen.read_bytes())
    with pytest.raises(StatisticsError, match='several robots, droid, trossen'):
        read_policy(tmp_path, tokenizer, model=MODEL, **given(ours, 'openpi'))
    assert read_policy(tmp_path, tokenizer, model=MODEL, statistics=chosen, **given(ours, 'openpi'))
    for path in (chosen, other / 'norm_stats.json'):
        path.unlink()
    with pytest.raises(StatisticsError, match='without statistics cannot be used'):
        read_policy(tmp_path, tokenizer, model=MODEL, **given(ours, 'openpi'))


@pytest.mark.parametrize(('cameras', 'match'), [
    (None, 'does not say which cameras'), (('cam_high',), None)])
def test_an_openpi_checkpoint_is_told_its_cameras(tmp_path, tokenizer, cameras, match):
    ours = policy('pi', tokenizer)
    write_policy(ours, tmp_path, 'openpi')
    entries = {**given(ours, 'openpi'), 'cameras': cameras}
    if match:
        with pytest.raises(ContractError, match=match):
            read_policy(tmp_path, tokenizer, model=MODEL, **entries)
    else:
        assert read_policy(tmp_path, tokenizer, model=MODEL, **entries).contract.cameras == cameras


def test_other_cameras_than_the_checkpoints_are_refused(tmp_path, tokenizer):
    ours = policy('cell', tokenizer)
    write_policy(ours, tmp_path, 'lerobot')
    with pytest.raises(ContractError, match='cam_high, cam_left_wrist in this order'):
        read_policy(tmp_path, tokenizer, model=MODEL, prompt=PROMPT, cameras=('cam_left_wrist', 'cam_high'))


@pytest.mark.parametrize(('units', 'family'), [('cell', 'openpi'), ('pi', 'lerobot')])
def test_a_policy_is_not_written_for_programs_that_give_it_other_units(tmp_path, tokenizer, units, family):
    with pytest.raises(FamilyError, match='units'):
        write_policy(policy(units, tokenizer), tmp_path / 'new', family)
    assert not (tmp_path / 'new').exists()


def test_only_sizes_that_have_a_name_are_written(tmp_path, tokenizer, monkeypatch):
    whole = policy('cell', tokenizer)
    monkeypatch.undo()
    with pytest.raises(FamilyError, match='layers of 16 and 12 numbers is none .* gemma_2b and gemma_300m can'):
        write_policy(whole, tmp_path / 'new', 'lerobot')
    for other in (replace(preset('pi0'), vision=replace(preset('pi0').vision, depth=26)), preset('pi0_small')):
        with pytest.raises(FamilyError, match='none that openpi or LeRobot build'):
            config_of(other, whole.contract, 'lerobot')
    variants = {'paligemma_variant': 'gemma_2b', 'action_expert_variant': 'gemma_300m'}
    padded = replace(preset('pi0'), state_width=0, expert_lora=LoraConfig(4, 4.0))
    for model in (preset('pi0'), padded):
        assert config_of(model, whole.contract, 'lerobot').items() >= variants.items()
    assert not (tmp_path / 'new').exists()


@pytest.mark.parametrize(('family', 'units'), [('openpi', 'pi'), ('lerobot', 'cell')])
def test_a_policy_that_reads_bytes_is_not_written_for_programs_that_give_it_tokens(tmp_path, tokenizer, monkeypatch,
                                                                                   family, units):
    bytewise = replace(MODEL, vocabulary_size=259)
    monkeypatch.setattr('fpo_ros.policy.family_config.preset', lambda name: bytewise)
    ours = policy(units, tokenizer)
    reads = FlowPolicy(Pi0(bytewise, replace(ours.contract, prompt_tokens=())), ours.stats)
    with pytest.raises(FamilyError, match='reads the bytes of its prompt'):
        write_policy(reads, tmp_path / 'new', family)
    assert not (tmp_path / 'new').exists()


@pytest.mark.parametrize('tokens', [(), (2, 300)])
def test_a_policy_whose_network_does_not_know_its_prompt_is_refused(tmp_path, tokenizer, tokens):
    ours = policy('cell', tokenizer)
    words = 'prompt token 300, and the network knows 0 to 299' if tokens else 'no prompt_tokens, and a network of 300'
    with pytest.raises(ContractError, match=words):
        FlowPolicy(Pi0(MODEL, replace(ours.contract, prompt_tokens=tokens)), ours.stats)
    ours.save(tmp_path)
    document = json.loads((tmp_path / 'policy.json').read_text())
    document['contract']['prompt_tokens'] = list(tokens)
    (tmp_path / 'policy.json').write_text(json.dumps(document))
    with pytest.raises(ContractError, match=f'policy.json: not a readable policy: .*{words}'):
        FlowPolicy.load(tmp_path)


def test_adapters_are_merged_into_the_files_of_a_family(tmp_path, tokenizer):
    ours = with_adapters(policy('cell', tokenizer), ('language', 'expert'), rank=2)
    write_policy(ours, tmp_path, 'lerobot')
    assert not json.loads((tmp_path / 'config.json').read_text()).get('use_peft')
    read = read_policy(tmp_path, tokenizer, **given(ours, 'lerobot'))
    wanted = merged(ours).model.state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in read.model.state_dict().items())


def test_with_the_published_vocabulary_a_newline_is_108(tmp_path):
    before = [f'<{index}>' for index in range(104)]  # behind four special pieces
    settings = {'vocab_size': 164, 'add_dummy_prefix': False}  # as Gemma's, which puts no blank in front
    published = trained(tmp_path, user_defined_symbols=[*before, '\n'], **settings)
    assert paligemma_tokens('Fold', published, PUBLISHED_SIZE)[-1] == 108
    other = trained(tmp_path, user_defined_symbols=[*before[1:], '\n'], **settings)
    assert paligemma_tokens('Fold', other, 300)[-1] == 107
    with pytest.raises(TokenizerError, match=r'newline is \[107\], and pi0 was trained with \[108\]'):
        paligemma_tokens('Fold', other, PUBLISHED_SIZE)
    assert preset('pi0').vocabulary_size == PUBLISHED_SIZE


def test_the_example_of_the_documentation_runs(tmp_path, tokenizer, monkeypatch):
    text = (Path(__file__).parents[2] / 'docs' / 'pi0.md').read_text(encoding='utf-8')
    example = text.split('```python\n')[1].split('```')[0]
    monkeypatch.chdir(tmp_path)
    small = replace(MODEL, vision=replace(MODEL.vision, patch_size=56))
    monkeypatch.setitem(PRESETS, 'pi0', small)
    contract = PolicyContract(observation='pixels', cameras=('cam_high', 'cam_left_wrist', 'cam_right_wrist'),
                              image_height=224, image_width=224, horizon=50, execute=25, action_width=32)
    Path('pi0_base').mkdir()
    write_pretrained(Pi0(small, contract), Path('pi0_base/model.safetensors'), 'openpi')
    Path('paligemma_tokenizer.model').write_bytes(tokenizer.read_bytes())
    found = {}
    exec(compile(example, 'docs/pi0.md', 'exec'), found)  # noqa: S102
    assert found['model'].computes_in == torch.bfloat16 and Path('model.safetensors').exists()
    assert found['policy'].tokens.tolist() == [list(paligemma_tokens(found['contract'].prompt, tokenizer, 300))]


def test_unknown_sizes_are_named(tmp_path, tokenizer):
    write_policy(policy('pi', tokenizer), tmp_path, 'openpi')
    spoilt(tmp_path / 'config.json', paligemma_variant='gemma_7b')
    with pytest.raises(FamilyError, match='gemma_7b and gemma_300m, which are not known'):
        read_policy(tmp_path, tokenizer, prompt=PROMPT)


def test_empty_cameras_of_lerobot_are_left_out(tmp_path, tokenizer):
    ours = policy('cell', tokenizer)
    write_policy(ours, tmp_path, 'lerobot')
    features = json.loads((tmp_path / 'config.json').read_text())['input_features']
    empty = {'observation.images.empty_camera_0': {'type': 'VISUAL', 'shape': [3, 16, 24]}}
    spoilt(tmp_path / 'config.json', input_features=features | empty)
    assert read_policy(tmp_path, tokenizer, model=MODEL, prompt=PROMPT).contract.cameras == ours.contract.cameras


def test_relative_actions_of_lerobot_name_their_columns(tmp_path, tokenizer):
    write_policy(policy('cell', tokenizer, relative=True), tmp_path, 'lerobot')
    steps = json.loads((tmp_path / 'policy_preprocessor.json').read_text())['steps']
    relative = next(step for step in steps if step['registry_name'] == 'relative_actions_processor')
    assert relative['config'] == {'enabled': True, 'exclude_joints': ['gripper'], 'action_names': list(JOINT_NAMES)}


def test_prompts_are_cleaned_begun_and_ended_as_openpi_does(tokenizer):
    processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.read_bytes())
    found = paligemma_tokens('  Fold_the\ntowel ', tokenizer, 300)
    assert found == (2, *processor.encode('Fold the towel'), *processor.encode('\n'))
    assert found == paligemma_tokens('Fold the towel', tokenizer, 300)
    contract = PolicyContract(prompt='Fold the towel', prompt_tokens=found)
    assert PolicyContract.from_dict(json.loads(contract.to_json())) == contract
    assert tokens_of(contract).tolist() == list(found) and tokens_of(contract).dtype == np.int64


def test_a_tokenizer_that_disagrees_is_refused(tmp_path, tokenizer):
    with pytest.raises(TokenizerError, match='the network knows 20'):
        paligemma_tokens('Fold', tokenizer, 20)
    other = trained(tmp_path, pad_id=3, unk_id=0)
    with pytest.raises(TokenizerError, match=r'ends and begins with \(3, 1, 2\)'):
        paligemma_tokens('Fold', other, 300)
    other.write_bytes(tokenizer.read_bytes()[:50])
    with pytest.raises(TokenizerError, match='copy paligemma_tokenizer.model again'):
        paligemma_tokens('Fold', other, 300)
    with pytest.raises(TokenizerError, match='cannot be read'):
        paligemma_tokens('Fold', tmp_path / 'none', 300)


def test_a_long_prompt_is_refused_rather_than_cut(tokenizer):
    with pytest.raises(TokenizerError, match='tokens, and the policy was trained with 48 at most'):
        paligemma_tokens('towel ' * 30, tokenizer, 300)


@pytest.mark.parametrize('value', [['a'], [True], 'ab', [1.5]])
def test_prompt_tokens_are_whole_numbers(value):
    with pytest.raises(ContractError, match='prompt_tokens cannot be'):
        PolicyContract(prompt_tokens=value)


def test_the_command_line_reads_and_writes_checkpoints(tmp_path, tokenizer, capsys):
    ours = policy('cell', tokenizer)
    ours.save(make(tmp_path / 'ours'))

    def main(words):
        with pytest.raises(SystemExit) as end:
            cli.main(words)
        return end.value.code

    assert main(['pi0', 'write', str(tmp_path / 'ours'), '--out', str(tmp_path / 'theirs'), '--family', 'lerobot']) == 0
    command = ['pi0', 'read', str(tmp_path / 'theirs'), '--tokenizer', str(tokenizer), '--prompt', PROMPT, '--out']
    assert main([*command, str(tmp_path / 'again')]) == 0
    assert FlowPolicy.load(tmp_path / 'again').contract == ours.contract
    assert 'cam_high, cam_left_wrist, chunks of 30' in capsys.readouterr().out
    assert main([*command, str(tmp_path / 'half'), '--dtype', 'bfloat16', '--relative', '--execute', '10']) == 0
    half = FlowPolicy.load(tmp_path / 'half')
    assert half.contract == replace(ours.contract, relative=True, execute=10)
    assert half.model.language_layers[0].q_proj.weight.dtype == torch.bfloat16
    assert main([*command, str(tmp_path / 'no'), '--dtype', 'int8']) == 1
    assert "unknown type 'int8'" in capsys.readouterr().err


def make(directory):
    directory.mkdir()
    return directory

"""Whole checkpoints of openpi and LeRobot: cameras by other names, and prompts of other lengths."""

from __future__ import annotations

import json

import pytest
import torch
from test_family_policy import MODEL, PROMPT, given, policy, spoilt, trained

from fpo_ros import cli
from fpo_ros.policy.checkpoint import FlowPolicy
from fpo_ros.policy.contract import LONGEST_PROMPT, ContractError, PolicyContract
from fpo_ros.policy.families import FamilyError
from fpo_ros.policy.family_config import camera_choice
from fpo_ros.policy.family_policy import read_policy, write_policy
from fpo_ros.policy.paligemma import TokenizerError, paligemma_tokens

#: Pictures of LeRobot's pi0_base, and the cameras of an ALOHA cell that show the same.
BASE = ('base_0_rgb', 'left_wrist_0_rgb', 'right_wrist_0_rgb')
CELL = ('cam_high', 'cam_left_wrist', 'cam_right_wrist')
BOUND = 'cam_high=base_0_rgb,cam_left_wrist=left_wrist_0_rgb,cam_right_wrist=right_wrist_0_rgb'
#: More tokens than pi0 was trained with.
LONG = ' '.join(['Fold the towel'] * 20)


@pytest.fixture(autouse=True)
def small_network(monkeypatch):
    """Let a small network have the published one's name."""
    monkeypatch.setattr('fpo_ros.policy.family_config.preset', lambda name: MODEL)


@pytest.fixture(scope='module')
def tokenizer_file(tmp_path_factory):
    return trained(tmp_path_factory.mktemp('tokenizer'))


@pytest.fixture
def base(tmp_path, tokenizer_file):
    """A checkpoint with the pictures of pi0_base, and the policy that was written as it."""
    ours = policy('cell', tokenizer_file, cameras=BASE)
    write_policy(ours, tmp_path / 'base', 'lerobot')
    return tmp_path / 'base', ours


@pytest.mark.parametrize('order', [(0, 1, 2), (2, 0, 1)])
def test_cameras_bound_to_the_checkpoints_pictures_stand_in_their_place(base, tokenizer_file, order):
    directory, ours = base
    cameras = camera_choice(', '.join(BOUND.split(',')[index] for index in order))
    read = read_policy(directory, tokenizer_file, model=MODEL, prompt=PROMPT, cameras=cameras,
                       optional_cameras=('cam_left_wrist',))
    assert read.contract.cameras == CELL and read.contract.optional_cameras == ('cam_left_wrist',)
    images = torch.rand(1, 3, 3, 16, 24) * 2 - 1
    with torch.no_grad():
        assert torch.equal(read.model.prefix(read.tokens, images), ours.model.prefix(ours.tokens, images))


def test_a_bound_policy_is_written_with_its_own_cameras_in_the_same_order(base, tokenizer_file, tmp_path):
    read = read_policy(base[0], tokenizer_file, model=MODEL, prompt=PROMPT, cameras=camera_choice(BOUND))
    write_policy(read, tmp_path / 'again', 'lerobot')
    again = read_policy(tmp_path / 'again', tokenizer_file, model=MODEL, prompt=PROMPT)
    assert again.contract == read.contract
    steps = json.loads((tmp_path / 'again' / 'policy_preprocessor.json').read_text())['steps']
    assert steps[0]['config']['rename_map'] == {}, 'a robot with these cameras needs none'


def test_a_camera_that_has_the_pictures_name_may_stand_alone_beside_bound_ones(base, tokenizer_file):
    words = 'cam_high=base_0_rgb,left_wrist_0_rgb,cam_right_wrist=right_wrist_0_rgb'
    read = read_policy(base[0], tokenizer_file, model=MODEL, prompt=PROMPT, cameras=camera_choice(words))
    assert read.contract.cameras == ('cam_high', 'left_wrist_0_rgb', 'cam_right_wrist')


@pytest.mark.parametrize(('words', 'why'), [
    (','.join(CELL), 'leave cameras out, or bind yours to those, such as cam_high=base_0_rgb'),
    (BOUND.replace('=base_0', '=top_0'), "'cam_high' is bound to 'top_0_rgb', and the checkpoint sees base_0_rgb"),
    (BOUND.replace('=left', '=right'), "'cam_left_wrist' and 'cam_right_wrist' are both bound to 'right_"),
    (BOUND.replace('cam_left', 'cam_right'), "camera 'cam_right_wrist' is given twice"),
    (BOUND.rpartition(',')[0], 'no camera is bound to right_wrist_0_rgb: bind one to each'),
    ('cam_high=base_0_rgb,wrist', "camera 'wrist' is bound to 'wrist', and the checkpoint sees base_0_rgb"),
    ('cam_high,cam_high', "camera 'cam_high' is given twice"),
    ('cam_high,', "'' is no camera: write each as cam_high, or as cam_high=base_0_rgb"),
    ('cam_high=', "'cam_high=' is no camera"), ('=base_0_rgb', "'=base_0_rgb' is no camera"),
    ('a=b=c', "'a=b=c' is no camera")])
def test_cameras_that_are_not_bound_one_to_one_are_refused_by_name(base, tokenizer_file, words, why):
    with pytest.raises(ContractError, match=why):
        read_policy(base[0], tokenizer_file, model=MODEL, prompt=PROMPT, cameras=camera_choice(words))


def test_nothing_can_be_bound_to_a_checkpoint_that_does_not_say_what_it_sees(tmp_path, tokenizer_file):
    ours = policy('pi', tokenizer_file)
    write_policy(ours, tmp_path, 'openpi')
    with pytest.raises(ContractError, match='none can be bound to its pictures: name yours alone, in the order base'):
        read_policy(tmp_path, tokenizer_file, model=MODEL, **{**given(ours, 'openpi'), 'cameras': {'a': 'base_0_rgb'}})


def test_the_command_line_binds_cameras(base, tokenizer_file, tmp_path, capsys):
    def main(*words):
        with pytest.raises(SystemExit) as end:
            cli.main(['pi0', 'read', str(base[0]), '--tokenizer', str(tokenizer_file), '--prompt', PROMPT, *words])
        return end.value.code

    assert main('--out', str(tmp_path / 'policy'), '--cameras', BOUND) == 0
    assert FlowPolicy.load(tmp_path / 'policy').contract.cameras == CELL
    assert ', '.join(CELL) in capsys.readouterr().out
    assert main('--out', str(tmp_path / 'none'), '--cameras', f'{BOUND},cam_low=base_0_rgb') == 1
    assert "cameras 'cam_high' and 'cam_low' are both bound to 'base_0_rgb'" in capsys.readouterr().err
    assert not (tmp_path / 'none').exists()


def test_lerobots_own_limit_of_prompts_is_followed_and_written(tmp_path, tokenizer_file):
    count = len(paligemma_tokens(LONG, tokenizer_file, 300, 1000))
    assert count > 48
    write_policy(policy('cell', tokenizer_file), tmp_path / 'a', 'lerobot')
    with pytest.raises(TokenizerError, match=f'has {count} tokens, and the policy was trained with 48 at most'):
        read_policy(tmp_path / 'a', tokenizer_file, model=MODEL, prompt=LONG)
    spoilt(tmp_path / 'a' / 'config.json', tokenizer_max_length=count)
    read = read_policy(tmp_path / 'a', tokenizer_file, model=MODEL, prompt=LONG)
    assert len(read.contract.prompt_tokens) == count
    write_policy(read, tmp_path / 'b', 'lerobot')
    assert json.loads((tmp_path / 'b' / 'config.json').read_text())['tokenizer_max_length'] == count
    steps = json.loads((tmp_path / 'b' / 'policy_preprocessor.json').read_text())['steps']
    assert [step['config']['max_length'] for step in steps if 'max_length' in step['config']] == [count]
    assert read_policy(tmp_path / 'b', tokenizer_file, model=MODEL, prompt=LONG).contract == read.contract
    spoilt(tmp_path / 'a' / 'config.json', tokenizer_max_length=count - 1)
    with pytest.raises(TokenizerError, match=f'trained with {count - 1} at most'):
        read_policy(tmp_path / 'a', tokenizer_file, model=MODEL, prompt=LONG)


def test_a_prompt_that_openpis_programs_would_cut_is_not_written_for_them(tmp_path, tokenizer_file):
    ours = policy('pi', tokenizer_file, prompt=LONG, prompt_tokens=paligemma_tokens(LONG, tokenizer_file, 300, 1000))
    with pytest.raises(FamilyError, match="openpi's programs cut it after 48: shorten it"):
        write_policy(ours, tmp_path / 'new', 'openpi')
    assert not (tmp_path / 'new').exists()


def test_a_contract_bounds_the_length_of_its_prompt(tokenizer_file):
    most = LONGEST_PROMPT - 2  # bytes, between a begin and an end
    assert PolicyContract(prompt='a' * most).prompt and PolicyContract(prompt_tokens=(1,) * LONGEST_PROMPT)
    for words in ({'prompt': 'a' * (most + 1)}, {'prompt': 'é' * (most // 2 + 1)}, {'prompt_tokens': (1,) * 5000}):
        with pytest.raises(ContractError, match=f'the prompt has [0-9]+ tokens, the limit is {LONGEST_PROMPT}'):
            PolicyContract(**words)
    assert PolicyContract(prompt='a' * 5000, prompt_tokens=(1, 2)), 'what the network reads counts'

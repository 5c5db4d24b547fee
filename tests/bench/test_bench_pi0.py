"""``fpo-ros bench pi0``, at a small size."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from fpo_ros.bench import pi0, random_checkpoint
from fpo_ros.bench.cli import app
from fpo_ros.policy.config import PRESETS
from fpo_ros.policy.contract import ContractError
from fpo_ros.policy.pi0 import Pi0
from fpo_ros.policy.pretrained import read_pretrained
from fpo_ros.policy.tokenizer import checked_tokens


@pytest.mark.timeout(300)  # four processes that import torch one after the other
def test_a_checkpoint_is_written_read_sampled_exported_and_run(tmp_path):
    done = CliRunner().invoke(app, ['pi0', '--preset', 'pi0_tiny', '--directory', str(tmp_path), '--export', 'float16',
                                    '--json'])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout.splitlines()[-1])
    assert found['file_bytes'] > 2 * found['parameters'] > 0
    assert found['prefix_tokens'] == 3 * 36 + 20
    assert found['chunk_s'] == pytest.approx(found['prefix_s'] + found['state_s'] + 10 * found['step_s'])
    assert found['peak_over_file'] == found['peak_bytes'] / found['file_bytes']
    assert found['precision'] == 'float16' and found['vector_difference'] < 1e-2 and found['onnx_chunk_s'] > 0
    assert not list(tmp_path.iterdir()), 'nothing is left'


@pytest.mark.parametrize('name', PRESETS)
def test_every_preset_has_a_checkpoint(name):
    config, contract = random_checkpoint.sizes_of(name)
    with torch.device('meta'):
        assert Pi0(config, contract).contract.action_dim == 32
    checked_tokens(contract, config.vocabulary_size)


def test_the_random_checkpoint_is_one_of_openpi_in_half_precision_the_same_each_time(tmp_path):
    config, contract = random_checkpoint.sizes_of('pi0_tiny')
    for name in ('a', 'b'):
        assert random_checkpoint.write_random(tmp_path / name, config, contract) == (tmp_path / name).stat().st_size
    assert (tmp_path / 'a').read_bytes() == (tmp_path / 'b').read_bytes()
    assert {value.dtype for value in load_file(tmp_path / 'a').values()} == {torch.bfloat16}
    model = read_pretrained(tmp_path / 'a', config, contract)
    assert model.computes_in == torch.bfloat16 and model.expert_layers[0].q_proj.weight.std() > 0


def test_no_room_and_a_failed_process_are_one_clear_error(tmp_path, monkeypatch):
    with pytest.raises(RuntimeError, match=r'pi0\.sample_once failed: FileNotFoundError'):
        pi0.in_child('pi0', 'sample_once', tmp_path / 'missing', 'pi0_tiny', 1)
    monkeypatch.setattr(random_checkpoint.shutil, 'disk_usage', lambda _: type('Usage', (), {'free': 1000}))
    with pytest.raises(ContractError, match='free space, the checkpoint takes'):
        random_checkpoint.write_random(tmp_path / 'c', *random_checkpoint.sizes_of('pi0_tiny'))
    assert not list(tmp_path.iterdir())

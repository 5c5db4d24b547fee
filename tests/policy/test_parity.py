"""The network against openpi's and LeRobot's: their weights in, their numbers out (tools/pi0_fixtures.py made both).

They ran a batch of two in which absent cameras and the ends of short prompts are masked; here both are left out, so
that each observation has a prefix of its own length.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from fpo_ros.policy.config import Pi0Config
from fpo_ros.policy.contract import PolicyContract
from fpo_ros.policy.families import FAMILIES
from fpo_ros.policy.flow import sample, squared_error
from fpo_ros.policy.pi0 import Pi0
from fpo_ros.policy.pretrained import read_pretrained

FIXTURES = Path(__file__).parent / 'fixtures'
#: Largest difference of a number of one pass, and of a chunk after ten steps: openpi adds up flow times in single
#: precision, and the fast turns of the time embedding show it.
CLOSE, CLOSE_AFTER_STEPS = 1e-5, 1e-4


class Golden:
    """A fixture: the network with its weights, what went in and what came out."""

    def __init__(self, path: Path, directory: Path) -> None:
        parts: dict[str, dict[str, Tensor]] = {'weights': {}, 'inputs': {}, 'outputs': {}}
        with safe_open(path, 'pt') as file:
            sizes = json.loads(file.metadata()['made'])['sizes']
            for name in file.keys():  # noqa: SIM118 (no mapping)
                part, _, key = name.partition('/')
                parts[part][key] = file.get_tensor(name)
        self.inputs, self.outputs = parts['inputs'], parts['outputs']
        _, _, _, height, width = self.inputs['images'].shape
        horizon, action_width = self.inputs['actions'].shape[1:]
        contract = PolicyContract(
            observation='pixels', cameras=('cam_high', 'cam_left_wrist'), image_height=height, image_width=width,
            horizon=horizon, execute=horizon, action_width=action_width)
        save_file(parts['weights'], directory / 'model.safetensors')
        self.model: Pi0 = read_pretrained(directory, Pi0Config.from_dict(sizes), contract)

    def prefix(self, row: int) -> Tensor:
        """Return the prefix of one observation, of the cameras and tokens that it has."""
        seen, said = self.inputs['image_masks'][row], self.inputs['token_masks'][row]
        return self.model.prefix(self.inputs['tokens'][row, said][None], self.inputs['images'][row, seen][None])

    def cache(self, row: int) -> Tensor:
        return self.model.with_state(self.inputs['state'][row:row + 1, :14], self.prefix(row))

    def velocity(self, row: int, step: int = 0) -> Tensor:
        time = self.inputs['times'][step, row:row + 1]
        return self.model.denoise(self.inputs['noise'][row:row + 1], time, self.cache(row))[0]

    def there(self, row: int) -> Tensor:
        """Return which of their prefix tokens are not masked."""
        patches = (self.outputs['prefix_keys'].shape[3] - self.inputs['tokens'].shape[1]) // 3
        return torch.cat([self.inputs['image_masks'][row].repeat_interleave(patches), self.inputs['token_masks'][row]])


@pytest.fixture(scope='module', params=FAMILIES)
def golden(request, tmp_path_factory) -> Golden:
    return Golden(FIXTURES / f'pi0_{request.param}.safetensors', tmp_path_factory.mktemp(request.param))


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


def close(ours: Tensor, theirs: Tensor, within: float = CLOSE) -> None:
    torch.testing.assert_close(ours, theirs, atol=within, rtol=0)


@pytest.mark.parametrize('row', [0, 1])
def test_keys_and_values_of_the_prefix_are_theirs_where_nothing_is_masked(golden, row):
    ours, there = golden.prefix(row), golden.there(row)
    close(ours[:, 0, 0], golden.outputs['prefix_keys'][:, row][:, :, there])
    close(ours[:, 1, 0], golden.outputs['prefix_values'][:, row][:, :, there])


@pytest.mark.parametrize('step', [0, 1])
@pytest.mark.parametrize('row', [0, 1])
def test_the_velocity_of_a_denoising_step_is_theirs(golden, row, step):
    close(golden.velocity(row, step), golden.outputs['velocities'][step, row])


@pytest.mark.parametrize('row', [0, 1])
def test_a_chunk_drawn_in_ten_steps_is_theirs(golden, row):
    cache, noise = golden.cache(row), golden.inputs['noise'][row:row + 1]
    ours = sample(lambda x, time: golden.model.denoise(x, time, cache), noise, 10)[0]
    close(ours, golden.outputs['sample'][row], CLOSE_AFTER_STEPS)


@pytest.mark.parametrize('row', [0, 1])
def test_the_training_loss_of_every_entry_is_theirs(golden, row):
    actions, noise, time = (golden.inputs[name][row:row + 1] for name in ('actions', 'noise', 'loss_time'))
    close(squared_error(golden.model, actions, noise, time, golden.cache(row))[0], golden.outputs['loss'][row])


def test_the_embedding_of_text_alone_is_scaled(golden):
    scale, there = golden.model.config.width ** 0.5, golden.there(0)
    theirs = golden.outputs['prefix_keys'][:, 0][:, :, there]
    text, pictures = ([*part.parameters()] for part in (golden.model.embed_tokens, golden.model.vision_tower.projector))
    for factor, scaled in ((1 / scale, text), (scale, pictures), (1 / scale, pictures)):
        kept = [parameter.clone() for parameter in scaled]
        for parameter in scaled:
            parameter.mul_(factor)
        assert (golden.prefix(0)[:, 0, 0] - theirs).abs().max() > 1e-2
        for parameter, value in zip(scaled, kept, strict=True):
            parameter.copy_(value)
    close(golden.prefix(0)[:, 0, 0], theirs)


def test_a_wrong_weight_anywhere_would_be_seen(golden):
    """Of the last layer of the prefix, actions depend on the keys and values alone."""
    last = f'language_layers.{golden.model.config.depth - 1}.'
    idle = {f'{last}{name}.weight' for name in ('q_proj', 'o_proj', 'post_attention_layernorm', 'mlp.gate_proj',
                                                'mlp.up_proj', 'mlp.down_proj')} | {'language_norm.weight'}
    right, unseen = golden.velocity(0), set()
    for name, parameter in golden.model.named_parameters():
        kept = parameter.clone()
        parameter.mul_(-1)
        if (golden.velocity(0) - right).abs().max() < 100 * CLOSE:
            unseen.add(name)
        parameter.copy_(kept)
    assert unseen == idle

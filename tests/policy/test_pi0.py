"""The network against a one-pass reference that applies masks and rotary positions to activations."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from sizes import SHARED, TINY
from torch import Tensor

from fpo_ros.policy.config import Pi0Config, VisionConfig, preset
from fpo_ros.policy.contract import ContractError, PolicyContract
from fpo_ros.policy.layers import VisionTower, half_turn, rotary_table, time_embedding
from fpo_ros.policy.pi0 import Pi0


def rotate(x: Tensor, positions: Tensor) -> Tensor:
    """Rotate (B, heads, n, d) activations, first half paired with second half, theta 10000."""
    half = x.shape[-1] // 2
    angle = positions.double()[:, None] * 10000.0 ** (-torch.arange(half).double() / half)
    cos, sin = angle.cos().float(), angle.sin().float()
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


def norm(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * (1 + weight)


def one_pass(model: Pi0, embedded: Tensor, state: Tensor, x_t: Tensor, time: Tensor, *,
             masked: bool = True) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """Return the velocity and each layer's keys and values of one attention over all tokens."""
    config, horizon = model.config, x_t.shape[1] // model.config.steps_per_token
    batch, n_prefix = x_t.shape[0], embedded.shape[1]
    embedding = time_embedding(time, config.expert_width)[:, None].expand(-1, horizon, -1)
    actions = torch.cat(
        [F.linear(x_t.reshape(batch, horizon, -1), model.action_in_proj.weight, model.action_in_proj.bias),
         embedding], -1
    )
    actions = model.action_time_mlp_out(F.silu(model.action_time_mlp_in(actions)))
    left = embedded.expand(batch, -1, -1)
    right = torch.cat([model.state_proj(state)[:, None], actions], 1)
    total = n_prefix + 1 + horizon
    block = torch.cumsum(torch.tensor([0] * n_prefix + [1, 1] + [0] * (horizon - 1)), 0)
    allowed = block[None, :] <= block[:, None] if masked else torch.ones(total, total, dtype=torch.bool)
    kept = []
    for a, b in zip(model.language_layers, model.expert_layers, strict=True):
        normed = norm(left, a.input_layernorm.weight), norm(right, b.input_layernorm.weight)
        q, k, v = (
            torch.cat([normed[0] @ getattr(a, name).weight.T, normed[1] @ getattr(b, name).weight.T], 1)
            for name in ('q_proj', 'k_proj', 'v_proj')
        )
        q = rotate(q.view(batch, total, config.num_heads, -1).transpose(1, 2), torch.arange(total))
        k = rotate(k.view(batch, total, config.num_kv_heads, -1).transpose(1, 2), torch.arange(total))
        v = v.view(batch, total, config.num_kv_heads, -1).transpose(1, 2)
        kept.append((k, v))
        group = config.num_heads // config.num_kv_heads
        heads = []
        for head in range(config.num_heads):
            score = q[:, head] @ k[:, head // group].transpose(1, 2) / math.sqrt(config.head_dim)
            heads.append(score.masked_fill(~allowed, -math.inf).softmax(-1) @ v[:, head // group])
        mixed = torch.cat(heads, -1)
        ends = []
        for x, part, layer in ((left, mixed[:, :n_prefix], a), (right, mixed[:, n_prefix:], b)):
            x = x + part @ layer.o_proj.weight.T
            y = norm(x, layer.post_attention_layernorm.weight)
            gate = F.gelu(y @ layer.mlp.gate_proj.weight.T, approximate='tanh')
            ends.append(x + (gate * (y @ layer.mlp.up_proj.weight.T)) @ layer.mlp.down_proj.weight.T)
        left, right = ends
    out = norm(right, model.expert_norm.weight)[:, -horizon:]
    out = F.linear(out, model.action_out_proj.weight, model.action_out_proj.bias).reshape(x_t.shape)
    return (out if config.predicts == 'velocity' else (x_t - out) / time.clamp(min=0.05)[:, None, None]), kept


def embed(policy, images: Tensor | None) -> Tensor:
    """Return prefix tokens: projected patches of every camera, then the text times sqrt(width)."""
    model = policy.model
    text = model.embed_tokens.weight[policy.tokens] * math.sqrt(model.config.width)
    if images is None:
        return text
    seen = torch.cat([model.vision_tower(images[:, camera]) for camera in range(images.shape[1])], 1)
    return torch.cat([seen, text.expand(len(images), -1, -1)], 1)


def inputs(policy, batch: int = 3) -> tuple[Tensor | None, Tensor, Tensor, Tensor]:
    contract, generator = policy.contract, torch.Generator().manual_seed(1)
    images = None
    if contract.cameras:
        images = (
            torch.rand(
                batch,
                len(contract.cameras),
                3,
                contract.image_height,
                contract.image_width,
                generator=generator,
            )
            * 2
            - 1
        )
    return (
        images,
        torch.randn(batch, contract.state_dim, generator=generator),
        torch.randn(batch, contract.horizon, 14, generator=generator),
        torch.tensor([1.0, 0.35, 0.02]),
    )


@pytest.mark.parametrize('sizes', [TINY, SHARED], ids=['pi0', 'shared tokens'])
@pytest.mark.parametrize('observation', ['state', 'pixels'])
def test_cached_prefix_and_one_denoising_step_equal_one_joint_pass(make_policy, observation, sizes):
    policy = make_policy(observation, sizes=sizes, horizon=6)
    images, state, x_t, time = inputs(policy)
    with torch.no_grad():
        expected, kept = one_pass(policy.model, embed(policy, images), state, x_t, time)
        prefix = policy.model.prefix(policy.tokens, images)
        cache = policy.model.with_state(state, prefix)
        velocity = policy.model.denoise(x_t, time, cache)
        unmasked, _ = one_pass(policy.model, embed(policy, images), state, x_t, time, masked=False)
    torch.testing.assert_close(velocity, expected, atol=2e-5, rtol=1e-4)
    assert (unmasked - expected).abs().max() > 1e-3, 'the comparison would not notice a missing mask'
    n = prefix.shape[4]
    for layer, (k, v) in enumerate(kept):
        torch.testing.assert_close(cache[layer, 0], k[:, :, : n + 1], atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(cache[layer, 1], v[:, :, : n + 1], atol=2e-5, rtol=1e-4)


def test_the_last_step_of_the_sampler_ends_at_the_actions_that_are_predicted(make_policy):
    policy = make_policy(sizes=SHARED, horizon=6)
    _, state, x_t, _ = inputs(policy)
    last = 1 / policy.contract.flow_steps
    with torch.no_grad():
        cache = policy.model.with_state(state, policy.model.prefix(policy.tokens))
        velocity = policy.model.denoise(x_t, torch.full((3,), last), cache)
        policy.model.config = replace(SHARED, predicts='velocity')
        predicted = policy.model.denoise(x_t, torch.full((3,), last), cache)
    torch.testing.assert_close(x_t - last * velocity, predicted, atol=1e-5, rtol=1e-5)


def test_a_chunk_that_tokens_do_not_fill_is_refused(make_policy):
    with pytest.raises(ContractError, match='a chunk of 5 steps is no whole number of tokens of 2 steps'):
        make_policy(sizes=SHARED, horizon=5)


def test_keys_of_prefix_and_state_do_not_depend_on_actions_or_time(make_policy):
    policy = make_policy()
    images, state, x_t, time = inputs(policy)
    with torch.no_grad():
        _, first = one_pass(policy.model, embed(policy, images), state, x_t, time)
        _, second = one_pass(policy.model, embed(policy, images), state, -3 * x_t, 1 - time)
    n = len(policy.tokens[0]) + 1
    for (k1, v1), (k2, v2) in zip(first, second, strict=True):
        assert torch.equal(k1[:, :, :n], k2[:, :, :n]) and torch.equal(v1[:, :, :n], v2[:, :, :n])
        assert not torch.allclose(k1[:, :, n:], k2[:, :, n:])


def test_cache_neither_grows_nor_changes_between_denoising_steps(make_policy):
    policy = make_policy()
    _, state, x_t, time = inputs(policy)
    with torch.no_grad():
        cache = policy.model.with_state(state, policy.model.prefix(policy.tokens))
        before = cache.clone()
        first = policy.model.denoise(x_t, time, cache)
        for _ in range(3):
            policy.model.denoise(first, time, cache)
        again = policy.model.denoise(x_t, time, cache)
    assert cache.shape[4] == policy.tokens.shape[1] + 1 and torch.equal(cache, before)
    assert torch.equal(first, again)


def test_every_action_token_sees_every_other_and_samples_are_independent(make_policy):
    policy = make_policy()
    _, state, x_t, time = inputs(policy)
    changed = x_t.clone()
    changed[0, 2] += 1.0
    with torch.no_grad():
        cache = policy.model.with_state(state, policy.model.prefix(policy.tokens))
        difference = (
            policy.model.denoise(changed, time, cache) - policy.model.denoise(x_t, time, cache)
        ).abs()
    assert (difference[0].amax(1) > 1e-6).all()
    assert (difference[1:] < 1e-6).all()


@pytest.mark.parametrize(
    ('time', 'sine', 'cosine'),
    [
        (
            0.7,
            (0.0, -0.809933, 0.975984, 0.020686, 0.891007),
            (1.0, -0.586523, -0.217841, -0.999786, 0.453990),
        ),
        (1.0, (0.0, -0.783219, -0.936080, -0.799914, 1.0), (1.0, -0.621746, -0.351788, 0.600115, 0.0)),
    ],
)
def test_time_embedding_agrees_with_openpi_values(time, sine, cosine):
    where = torch.tensor([0, 1, 100, 256, 511])
    vector = time_embedding(torch.tensor([time], dtype=torch.float64), 1024)[0]
    assert vector.shape == (1024,) and vector.dtype == torch.float32
    torch.testing.assert_close(vector[where], torch.tensor(sine), atol=2e-6, rtol=0)
    torch.testing.assert_close(vector[512 + where], torch.tensor(cosine), atol=2e-6, rtol=0)


def test_text_enters_scaled_by_the_square_root_of_the_width_and_images_enter_as_projected(
    make_policy, monkeypatch
):
    policy = make_policy('pixels')
    model, (images, *_) = policy.model, inputs(policy)
    seen = []
    layer = model.language_layers[0]
    monkeypatch.setattr(layer, 'qkv', lambda x, table, plain=layer.qkv: seen.append(x) or plain(x, table))
    with torch.no_grad():
        model.prefix(policy.tokens, images)
        projected = model.vision_tower(images[:, 0])
    n_text = policy.tokens.shape[1]
    torch.testing.assert_close(seen[0][0, -n_text:], model.embed_tokens(policy.tokens)[0] * 24**0.5)
    torch.testing.assert_close(seen[0][:, : projected.shape[1]], projected, atol=1e-5, rtol=1e-4)


def test_turning_weights_equals_rotating_activations():
    torch.manual_seed(0)
    heads, d, width = 3, 8, 5
    weight, x = torch.randn(heads * d, width), torch.randn(2, 4, width)
    positions = torch.tensor([0, 3, 17, 250])
    cos, sin = rotary_table(positions, d, heads)
    turned = x @ weight.T * cos + x @ half_turn(weight, d).T * sin
    expected = rotate((x @ weight.T).view(2, 4, heads, d).transpose(1, 2), positions)
    torch.testing.assert_close(turned.view(2, 4, heads, d).transpose(1, 2), expected, atol=1e-4, rtol=1e-4)


def test_half_turn_by_hand():
    assert half_turn(torch.tensor([[1.0], [2.0], [3.0], [4.0]]), 4)[:, 0].tolist() == [-3.0, -4.0, 1.0, 2.0]


def test_rotary_scores_depend_on_distance_alone():
    torch.manual_seed(0)
    q, k = torch.randn(1, 1, 1, 16), torch.randn(1, 1, 1, 16)

    def score(i: int, j: int) -> float:
        parts = []
        for x, place in ((q, i), (k, j)):
            cos, sin = rotary_table(torch.tensor([place]), 16, 1)
            turn = torch.cat([-x[..., 8:], x[..., :8]], -1)
            parts.append(x * cos + turn * sin)
        return float((parts[0] * parts[1]).sum())

    assert score(9, 4) == pytest.approx(score(105, 100), abs=1e-4)
    assert score(9, 4) != pytest.approx(score(9, 8), abs=1e-2)


def test_expert_parameters_are_those_that_a_denoising_step_uses(make_policy):
    policy = make_policy()
    _, state, x_t, time = inputs(policy)
    prefix = policy.model.prefix(policy.tokens).detach()
    policy.model.denoise(x_t, time, policy.model.with_state(state, prefix)).square().sum().backward()
    used = {id(p) for p in policy.model.parameters() if p.grad is not None}
    assert used <= {id(p) for p in policy.model.expert_parameters()}
    everything = {id(p) for p in policy.model.parameters()}
    language = {
        id(p) for part in ('language_layers', 'embed_tokens', 'language_norm')
        for p in getattr(policy.model, part).parameters()
    }
    assert used == everything - language


def test_images_that_patches_do_not_fill_are_refused():
    with pytest.raises(ValueError, match='96x100'):
        VisionTower(VisionConfig(8, 16, 1, 2, 16), (96, 100), 16)


def test_sizes_come_from_the_configuration_alone():
    config = Pi0Config(
        width=12,
        mlp_dim=6,
        expert_width=10,
        expert_mlp_dim=4,
        depth=1,
        num_heads=2,
        num_kv_heads=2,
        head_dim=6,
        vocabulary_size=300,
        vision=VisionConfig(4, 8, 1, 1, 8),
    )
    model = Pi0(config, PolicyContract(horizon=7, execute=2))
    cache = model.with_state(torch.zeros(2, 21), model.prefix(torch.tensor([[1, 299]])))
    assert cache.shape == (1, 2, 2, 2, 3, 6)
    assert model.denoise(torch.zeros(2, 7, 14), torch.ones(2), cache).shape == (2, 7, 14)


def test_the_small_size_has_the_parameters_that_are_documented():
    contract = PolicyContract(observation='pixels', cameras=('a', 'b', 'c'), image_height=224, image_width=224)
    with torch.device('meta'):
        model = Pi0(preset('pi0_small'), contract)
    assert sum(parameter.numel() for parameter in model.parameters()) == 40_467_598
    assert sum(parameter.numel() for parameter in model.expert_parameters()) == 6_699_790


def test_configurations_survive_json_and_bad_ones_are_refused():
    config = preset('pi0_tiny')
    assert Pi0Config.from_dict(config.to_dict()) == config
    with pytest.raises(ContractError, match='pi0_tiny'):
        preset('pi9')
    with pytest.raises(ContractError, match='depht'):
        Pi0Config.from_dict({**config.to_dict(), 'depht': 3})
    with pytest.raises(ContractError, match='vision'):
        Pi0Config.from_dict({key: value for key, value in config.to_dict().items() if key != 'vision'})
    with pytest.raises(ContractError, match='multiple'):
        Pi0Config.from_dict({**config.to_dict(), 'num_kv_heads': 3})
    with pytest.raises(ContractError, match='velocity or actions'):
        Pi0Config.from_dict({**config.to_dict(), 'predicts': 'noise'})
    with pytest.raises(ContractError, match='steps_per_token'):
        Pi0Config.from_dict({**config.to_dict(), 'steps_per_token': 0})
    with pytest.raises(ContractError, match='even'):
        Pi0Config.from_dict({**config.to_dict(), 'head_dim': 5})

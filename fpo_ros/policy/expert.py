"""The action expert of pi0: a flow over chunks that attends to a cached prefix.

Architecture: arXiv 2410.24164; openpi models_pytorch/{pi0,gemma}_pytorch.py.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fpo_ros.policy.config import LoraConfig, Pi0Config
from fpo_ros.policy.contract import ContractError, PolicyContract
from fpo_ros.policy.layers import GatedMLP, RMSNorm, attend, half_turn, half_turned, rotary_table, time_embedding
from fpo_ros.policy.lora import AdaptedLinear, linear

#: Flow times below this one divide like it where clean actions are predicted: at 0 nothing is left to remove.
LEAST_TIME = 0.05


class GemmaLayer(nn.Module):
    """Weights of one layer of one expert; the attention itself spans both experts."""

    def __init__(self, config: Pi0Config, width: int, mlp_dim: int, lora: LoraConfig | None = None) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads, self.head_dim = config.num_heads, config.num_kv_heads, config.head_dim
        q_width, kv_width = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        self.input_layernorm = RMSNorm(width)
        self.q_proj = linear(width, q_width, lora, config.num_heads)
        self.k_proj = linear(width, kv_width, lora, config.num_kv_heads)
        self.v_proj = linear(width, kv_width, lora, config.num_kv_heads)
        self.o_proj = linear(q_width, width, lora)
        self.post_attention_layernorm = RMSNorm(width)
        self.mlp = GatedMLP(width, mlp_dim, lora)

    def qkv(self, x: Tensor, table: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return rotated queries (B, heads, n, d), rotated keys and values (B, kv_heads, n, d)."""
        tokens = x.shape[1]
        q_width, kv_width = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        x = self.input_layernorm(x)
        projected = F.linear(x, self.joined())
        if isinstance(self.q_proj, AdaptedLinear):
            projected = projected + self._adapted(x)
        plain, turned, v = projected.split([q_width + kv_width, q_width + kv_width, kv_width], -1)
        q, k = (plain * table[0] + turned * table[1]).split([q_width, kv_width], -1)
        return (q.view(-1, tokens, self.num_heads, self.head_dim).transpose(1, 2),
                k.view(-1, tokens, self.num_kv_heads, self.head_dim).transpose(1, 2),
                v.view(-1, tokens, self.num_kv_heads, self.head_dim).transpose(1, 2))

    def joined(self) -> Tensor:
        """Return one projection of all: queries and keys, the quarter turns of both, values."""
        turning = torch.cat([self.q_proj.weight, self.k_proj.weight])
        return torch.cat([turning, half_turn(turning, self.head_dim), self.v_proj.weight])

    def _adapted(self, x: Tensor) -> Tensor:
        """Return what adapters add to the joined projection of (B, n, width)."""
        q, k, v = (layer.adapter(x) for layer in (self.q_proj, self.k_proj, self.v_proj))
        turning = torch.cat([q, k], -1)
        return torch.cat([turning, half_turned(turning, self.head_dim), v], -1)

    def finish(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend, then apply the output projection, residuals and MLP to (B, n, width)."""
        mixed = attend(q, k, v, self.num_heads // self.num_kv_heads)
        x = x + self.o_proj(mixed.transpose(1, 2).reshape(-1, x.shape[1], self.num_heads * self.head_dim))
        return x + self.mlp(self.post_attention_layernorm(x))


class Expert(nn.Module):
    """A flow over (H, action_dim) chunks whose tokens attend to a prefix, a state token and each other.

    :param config: sizes.
    :param contract: shapes of states and chunks.
    :raises ContractError: for a chunk that is no whole number of tokens.
    """

    def __init__(self, config: Pi0Config, contract: PolicyContract) -> None:
        super().__init__()
        self.config, self.contract = config, contract
        self.state_width = config.state_width or contract.state_dim
        if self.state_width < contract.state_dim:
            raise ContractError(f'a state of {contract.state_dim} entries does not fit into a state_width of '
                                f'{config.state_width}')
        if contract.horizon % config.steps_per_token:
            raise ContractError(f'a chunk of {contract.horizon} steps is no whole number of tokens of '
                                f'{config.steps_per_token} steps')

    def _make_layers(self) -> None:
        config, expert = self.config, self.config.expert_width
        self.expert_layers = nn.ModuleList(
            GemmaLayer(config, expert, config.expert_mlp_dim, config.expert_lora) for _ in range(config.depth))
        self.expert_norm = RMSNorm(expert)
        self.state_proj = nn.Linear(self.state_width, expert)
        token = config.steps_per_token * self.contract.action_dim
        self.action_in_proj = nn.Linear(token, expert)
        self.action_time_mlp_in = nn.Linear(2 * expert, expert)
        self.action_time_mlp_out = nn.Linear(expert, expert)
        self.action_out_proj = nn.Linear(expert, token)

    def expert_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that a denoising step of this flow uses; the rest belongs to the prefix."""
        modules = (self.expert_layers, self.expert_norm, self.state_proj, self.action_in_proj,
                   self.action_time_mlp_in, self.action_time_mlp_out, self.action_out_proj)
        return [parameter for module in modules for parameter in module.parameters()]

    @property
    def computes_in(self) -> torch.dtype:
        """The type of tokens between the projections in and out, which stay in single precision (openpi)."""
        return self.expert_layers[0].q_proj.weight.dtype

    def _rotary(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        heads = self.config.num_heads + self.config.num_kv_heads
        cosine, sine = rotary_table(positions, self.config.head_dim, heads)
        return cosine.to(self.computes_in), sine.to(self.computes_in)

    def with_state(self, state: Tensor, prefix_kv: Tensor) -> Tensor:
        """Return the cache with the state token appended: (layers, 2, B, kv_heads, n_prefix + 1, head_dim).

        The state token sees the prefix and itself alone, so its keys and values depend neither on the
        flow time nor on the actions: one pass serves all denoising steps and all training pairs.

        :param state: (B, state_dim) normalised state.
        :param prefix_kv: cache of :meth:`prefix`, its batch axis B or 1.
        """
        if self.state_width > self.contract.state_dim:
            state = F.pad(state, (0, self.state_width - self.contract.state_dim))
        x = self.state_proj(state).to(self.computes_in)[:, None]
        position = torch.full((1,), prefix_kv.shape[4], device=x.device)
        table = self._rotary(position)
        cache = []
        for index, (layer, cached) in enumerate(zip(self.expert_layers, prefix_kv, strict=True)):
            q, k, v = layer.qkv(x, table)
            past = cached.expand(-1, x.shape[0], -1, -1, -1)
            k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
            cache.append(torch.stack([k, v]))
            if index + 1 < self.config.depth:
                x = layer.finish(x, q, k, v)
        return torch.stack(cache)

    def clean_tokens(self, decided: Tensor) -> Tensor:
        """Return which tokens (B, n) hold a decided row, of (B, H): those are data, whose flow time is 0."""
        steps = self.config.steps_per_token
        return decided.reshape(-1, self.contract.horizon // steps, steps).amax(2) > 0

    def project(self, x_t: Tensor, time: Tensor, cache: Tensor, clean: Tensor | None = None) -> Tensor:
        """Return what the last projection gives for noisy (B, H, action_dim) chunks; see :meth:`denoise`."""
        tokens, expert = self.contract.horizon // self.config.steps_per_token, self.config.expert_width
        # The projection of [actions, time] in two parts: that of the time is one row for all tokens.
        of_actions, of_time = self.action_time_mlp_in.weight.split(expert, 1)
        x = F.linear(self.action_in_proj(x_t.reshape(-1, tokens, self.action_in_proj.in_features)), of_actions)
        of_token = F.linear(time_embedding(time, expert), of_time, self.action_time_mlp_in.bias)[:, None]
        if clean is not None:
            at_data = F.linear(time_embedding(time[:1] * 0, expert), of_time, self.action_time_mlp_in.bias)[:, None]
            of_token = torch.where(clean[..., None], at_data, of_token)
        x = x + of_token
        x = self.action_time_mlp_out(F.silu(x)).to(self.computes_in)
        table = self._rotary(cache.shape[4] + torch.arange(tokens, device=x.device))
        for layer, past in zip(self.expert_layers, cache, strict=True):
            q, k, v = layer.qkv(x, table)
            x = layer.finish(x, q, torch.cat([past[0], k], 2), torch.cat([past[1], v], 2))
        out = self.action_out_proj(self.expert_norm(x).float())
        return out.reshape(-1, self.contract.horizon, self.contract.action_dim)

    def denoise(self, x_t: Tensor, time: Tensor, cache: Tensor, clean: Tensor | None = None) -> Tensor:
        """Return the velocity (B, H, action_dim) of one denoising step.

        :param x_t: (B, H, action_dim) noisy normalised actions.
        :param time: (B,) flow time, 1 noise .. 0 data.
        :param cache: of :meth:`with_state`, batch axis B. Action tokens see all of it and each other.
        :param clean: (B, tokens) those that hold data already, whose flow time is 0; their velocity means nothing.
        """
        out = self.project(x_t, time, cache, clean)
        if self.config.predicts == 'velocity':
            return out
        return (x_t - out) / time.clamp(min=LEAST_TIME)[:, None, None]

    @staticmethod
    def between(data: Tensor, noise: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """Return the point x_t = t noise + (1 - t) data of a straight path and its velocity noise - data.

        :param data: (B, H, action_dim).
        :param noise: like ``data``.
        :param time: (B,).
        """
        t = time[:, None, None]
        return t * noise + (1 - t) * data, noise - data

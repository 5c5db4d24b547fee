"""Building blocks of pi0: SigLIP vision tower, Gemma layer parts, rotary positions, time embedding."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fpo_ros.policy.config import LoraConfig, VisionConfig
from fpo_ros.policy.lora import linear


class RMSNorm(nn.Module):
    """Gemma's normalisation: mean square in fp32, scaled by (1 + weight), eps 1e-6."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis of (..., width)."""
        wide = x.float()
        scale = 1.0 + self.weight.float()
        if torch.onnx.is_in_onnx_export():  # the form that ONNX Runtime knows as one operator
            return (wide / torch.sqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6) * scale).to(x.dtype)
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6) * scale).to(x.dtype)


class GatedMLP(nn.Module):
    """Gemma's MLP: down(gelu_tanh(gate(x)) * up(x)), no biases."""

    def __init__(self, width: int, hidden: int, lora: LoraConfig | None = None) -> None:
        super().__init__()
        self.gate_proj = linear(width, hidden, lora)
        self.up_proj = linear(width, hidden, lora)
        self.down_proj = linear(hidden, width, lora)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., width) to (..., width)."""
        return self.down_proj(F.gelu(self.gate_proj(x), approximate='tanh') * self.up_proj(x))


def grid_positions(rows: int, columns: int, width: int) -> Tensor:
    """Return (rows * columns, width) sines and cosines of patch rows and columns.

    The start of the learned position table: places are told apart from the first step on, which a table of
    noise reaches only after long training (MoCo v3, arXiv 2104.02057, starts from the same).
    """
    quarter = width // 4
    frequency = 100.0 ** (-torch.arange(quarter) / quarter)
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing='ij')
    angles = [axis.flatten()[:, None] * frequency for axis in (row, column)]
    table = torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], 1)
    return F.pad(table, (0, width - 4 * quarter))


def attend(q: Tensor, k: Tensor, v: Tensor, shared: int = 1) -> Tensor:
    """Return (B, heads, n, d) values that queries (B, heads, n, d) find under keys (B, kv_heads, m, d); all see all.

    Heads that share keys are rows of one product: keys and values are not repeated for them. No shape depends on m,
    which graphs leave free.

    :param shared: heads / kv_heads.
    """
    heads, rows, width = q.shape[1:]
    grouped = q.reshape(-1, heads // shared, shared * rows, width)
    if torch.onnx.is_in_onnx_export():  # the scale with the queries, which are fewer
        mixed = torch.softmax(grouped * width ** -0.5 @ k.transpose(2, 3), -1) @ v
    else:
        mixed = F.scaled_dot_product_attention(grouped, k, v)
    return mixed.reshape(-1, heads, rows, width)


class VisionLayer(nn.Module):
    """One pre-norm SigLIP layer with biases, bidirectional attention."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.layer_norm1 = nn.LayerNorm(config.width, eps=1e-6)
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out_proj = nn.Linear(config.width, config.width)
        self.layer_norm2 = nn.LayerNorm(config.width, eps=1e-6)
        self.fc1 = nn.Linear(config.width, config.mlp_dim)
        self.fc2 = nn.Linear(config.mlp_dim, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, tokens, width) to the same shape."""
        tokens, width = x.shape[1:]
        qkv = self.qkv(self.layer_norm1(x)).view(-1, tokens, 3, self.num_heads, width // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed = attend(q, k, v)
        x = x + self.out_proj(mixed.transpose(1, 2).reshape(-1, tokens, width))
        return x + self.fc2(F.gelu(self.fc1(self.layer_norm2(x)), approximate='tanh'))


class VisionTower(nn.Module):
    """SigLIP: patch embedding, learned positions, layers, final norm, linear projector to the language model."""

    def __init__(self, config: VisionConfig, image_size: tuple[int, int], out_width: int) -> None:
        super().__init__()
        height, width = image_size
        if height % config.patch_size or width % config.patch_size:
            raise ValueError(f'images of {height}x{width} pixels are no multiple of patches of {config.patch_size}')
        self.patch_embedding = nn.Conv2d(3, config.width, config.patch_size, config.patch_size)
        self.position_embedding = nn.Parameter(
            grid_positions(height // config.patch_size, width // config.patch_size, config.width))
        self.layers = nn.ModuleList(VisionLayer(config) for _ in range(config.depth))
        self.post_layernorm = nn.LayerNorm(config.width, eps=1e-6)
        self.projector = nn.Linear(config.width, out_width)

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, 3, H, W) in [-1, 1] to (B, patches, out_width)."""
        x = self.patch_embedding(images).flatten(2).transpose(1, 2) + self.position_embedding
        x = x.to(self.projector.weight.dtype)
        for layer in self.layers:
            x = layer(x)
        return self.projector(self.post_layernorm(x))


def rotary_table(positions: Tensor, head_dim: int, heads: int) -> tuple[Tensor, Tensor]:
    """Return (n, heads * head_dim) cosines and sines of (n,) positions, theta 10000, repeated for each head."""
    half = head_dim // 2
    frequency = 10000.0 ** (-torch.arange(half, dtype=torch.float32, device=positions.device) / half)
    angle = (positions.float()[:, None] * frequency).repeat(1, 2 * heads)
    return angle.cos(), angle.sin()


def half_turn(weight: Tensor, head_dim: int) -> Tensor:
    """Return the (out, in) projection whose output is the half-split quarter turn of ``weight``'s output.

    Rotary positions are x cos + turn(x) sin with turn([a, b]) = [-b, a] per head. Turning the rows of
    the projection instead of its output keeps the activations contiguous, several times faster on a CPU.
    """
    first, second = weight.view(-1, 2, head_dim // 2, weight.shape[1]).unbind(1)
    return torch.stack([-second, first], 1).reshape(weight.shape)


def half_turned(x: Tensor, head_dim: int) -> Tensor:
    """Return the half-split quarter turn of (..., heads * head_dim), head by head."""
    first, second = x.unflatten(-1, (-1, 2, head_dim // 2)).unbind(-2)
    return torch.stack([-second, first], -2).flatten(-3)


def time_embedding(time: Tensor, width: int, min_period: float = 4e-3, max_period: float = 4.0) -> Tensor:
    """Return (B, width) sines then cosines of (B,) flow times.

    period_k = min_period (max_period / min_period)^(k / (width/2 - 1)), angle 2 pi t / period_k
    (openpi models_pytorch/pi0_pytorch.py ``create_sinusoidal_pos_embedding``). Whole turns are dropped in double
    precision; sine and cosine are single, for ONNX Runtime has no others in all versions.
    """
    fraction = torch.linspace(0.0, 1.0, width // 2, dtype=torch.float64, device=time.device)
    period = min_period * (max_period / min_period) ** fraction
    turns = time.double()[:, None] / period
    angle = (2 * math.pi * (turns - turns.floor())).float()
    return torch.cat([angle.sin(), angle.cos()], -1)

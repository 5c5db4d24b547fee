"""Low-rank adapters beside linear layers (LoRA, arXiv 2106.09685), with the shapes that openpi gives them.

openpi models/lora.py and models/gemma.py (``gemma_2b_lora``, ``gemma_300m_lora``): all projections of attention and
MLP have one, those of queries, keys and values one per head. Its output projection keeps a factor per head of which
only the sum counts; here that sum is the factor.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fpo_ros.policy.config import LoraConfig

#: Deviation of both factors at first (openpi models/lora.py).
START_STD = 0.01


class Adapter(nn.Module):
    """Adds alpha / rank * up (down x) to what a layer gives; the factors are in single precision whatever x is in.

    :param inputs: entries of x.
    :param outputs: entries of what is added.
    :param config: rank and alpha.
    :param heads: equal parts of the output with factors of their own.
    """

    def __init__(self, inputs: int, outputs: int, config: LoraConfig, heads: int = 1) -> None:
        super().__init__()
        self.heads, self.scale = heads, config.alpha / config.rank
        self.down = nn.Parameter(torch.empty(heads * config.rank, inputs))
        self.up = nn.Parameter(torch.empty(outputs, config.rank))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw both factors, as openpi does."""
        for factor in (self.down, self.up):
            nn.init.normal_(factor, std=START_STD)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., inputs) to (..., outputs)."""
        low = F.linear(x, self.down.to(x.dtype))
        if self.heads == 1:
            return F.linear(low, self.up.to(x.dtype)) * self.scale
        up = self.up.to(x.dtype).unflatten(0, (self.heads, -1))
        return torch.einsum('...hr,hor->...ho', low.unflatten(-1, (self.heads, -1)), up).flatten(-2) * self.scale

    def delta(self) -> Tensor:
        """Return the (outputs, inputs) weight that does the same."""
        up, down = (factor.unflatten(0, (self.heads, -1)) for factor in (self.up, self.down))
        return (up @ down).flatten(0, 1) * self.scale


class AdaptedLinear(nn.Linear):
    """A linear layer without bias that has an adapter; its weight has the name that it has without."""

    def __init__(self, inputs: int, outputs: int, config: LoraConfig, heads: int) -> None:
        super().__init__(inputs, outputs, bias=False)
        self.adapter = Adapter(inputs, outputs, config, heads)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., inputs) to (..., outputs)."""
        return super().forward(x) + self.adapter(x)

    def merged(self) -> Tensor:
        """Return the (outputs, inputs) weight with what the adapter adds, in the weight's type."""
        return (self.weight.float() + self.adapter.delta()).to(self.weight.dtype)


def linear(inputs: int, outputs: int, lora: LoraConfig | None, heads: int = 1) -> nn.Linear:
    """Return a linear layer without bias, with an adapter where a configuration of one is given."""
    return nn.Linear(inputs, outputs, bias=False) if lora is None else AdaptedLinear(inputs, outputs, lora, heads)

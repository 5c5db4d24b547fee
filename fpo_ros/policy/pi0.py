"""pi0: a vision-language prefix and an action expert, joined layer by layer through attention.

The prefix (images, prompt) never sees the suffix (state, noisy actions), so its keys and values are
computed once per observation and reused by every denoising step and every training pair.
Architecture: arXiv 2410.24164; openpi models_pytorch/{pi0,gemma}_pytorch.py.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from fpo_ros.policy.config import Pi0Config
from fpo_ros.policy.contract import PolicyContract
from fpo_ros.policy.expert import Expert, GemmaLayer
from fpo_ros.policy.latent import FlowLatent, GaussianLatent
from fpo_ros.policy.layers import RMSNorm, VisionTower


class Pi0(Expert):
    """The policy network.

    :param config: sizes.
    :param contract: what the policy sees and commands.
    :raises ContractError: for a chunk that is no whole number of tokens.
    """

    def __init__(self, config: Pi0Config, contract: PolicyContract) -> None:
        super().__init__(config, contract)
        width = config.width
        if contract.cameras:
            self.vision_tower = VisionTower(config.vision, (contract.image_height, contract.image_width), width)
        self.embed_tokens = nn.Embedding(config.vocabulary_size, width)
        nn.init.normal_(self.embed_tokens.weight, std=1 / math.sqrt(width))
        self.language_layers = nn.ModuleList(
            GemmaLayer(config, width, config.mlp_dim, config.language_lora) for _ in range(config.depth))
        #: Normalises what no action depends on; kept, for files of pi0 hold it.
        self.language_norm = RMSNorm(width)
        self._make_layers()
        #: Steers the start noise of the flow, where the policy has such an actor.
        self.latent_actor = {'': None, 'flow': FlowLatent, 'gaussian': GaussianLatent}[config.latent_actor]
        if self.latent_actor is not None:
            self.latent_actor = self.latent_actor(replace(config, expert_lora=None), contract)

    def prefix(self, tokens: Tensor, images: Tensor | None = None) -> Tensor:
        """Return the prefix cache (layers, 2, B, kv_heads, n_prefix, head_dim), keys already rotated.

        Image tokens enter unscaled, text tokens times sqrt(width).

        :param tokens: (B, n_text) int64 prompt ids.
        :param images: (B, cameras, 3, H, W) in [-1, 1], for a contract with cameras.
        """
        x = self.embed_tokens(tokens) * math.sqrt(self.config.width)
        if self.contract.cameras:
            batch, cameras = images.shape[:2]
            seen = self.vision_tower(images.flatten(0, 1))
            if seen.dtype != x.dtype:  # the vision tower computes in a type of its own
                seen = seen.to(x.dtype)
            x = torch.cat([seen.view(batch, cameras * seen.shape[1], -1), x.expand(batch, -1, -1)], 1)
        table = self._rotary(torch.arange(x.shape[1], device=x.device))
        cache = []
        for index, layer in enumerate(self.language_layers):
            q, k, v = layer.qkv(x, table)
            cache.append(torch.stack([k, v]))
            if index + 1 < self.config.depth:
                x = layer.finish(x, q, k, v)
        return torch.stack(cache)

"""Sizes of the pi0 architecture. Every size is a field: no module holds a literal width or depth."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from fpo_ros.policy.contract import ContractError
from fpo_ros.policy.tokenizer import VOCABULARY_SIZE

#: What the last projection of the action expert can be.
PREDICTIONS = ('velocity', 'actions')
#: What can steer the start noise of the flow: nothing, a flow of its own, or a squashed Gaussian.
LATENT_ACTORS = ('', 'flow', 'gaussian')
#: Entries of a configuration that are left out of its dict where they are None.
_ADAPTERS = ('language_lora', 'expert_lora')


@dataclass(frozen=True)
class VisionConfig:
    """SigLIP-style vision tower.

    :param patch_size: side of a square patch [pixels]; must divide the image's sides.
    :param width: token width.
    :param depth: layers.
    :param num_heads: attention heads.
    :param mlp_dim: hidden width of the MLP.
    """

    patch_size: int
    width: int
    depth: int
    num_heads: int
    mlp_dim: int


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters of a stack of layers, see :mod:`fpo_ros.policy.lora`.

    :param rank: of each.
    :param alpha: what an adapter gives is multiplied by alpha / rank.
    """

    rank: int
    alpha: float

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ContractError(f'the rank of adapters must be at least 1, got {self.rank}')


@dataclass(frozen=True)
class Pi0Config:
    """pi0: language model and action expert joined by attention (pi0_pytorch.py, gemma_pytorch.py of openpi).

    :param width: token width of the language model.
    :param mlp_dim: MLP width of the language model.
    :param expert_width: token width of the action expert.
    :param expert_mlp_dim: MLP width of the action expert.
    :param depth: layers, shared by both.
    :param num_heads: query heads, shared.
    :param num_kv_heads: key and value heads, shared.
    :param head_dim: width of a head, shared.
    :param vocabulary_size: rows of the token embedding.
    :param vision: vision tower.
    :param steps_per_token: consecutive steps of a chunk that share one action token; pi0 has 1.
    :param predicts: what the last projection gives: ``'velocity'`` as in pi0, or ``'actions'``, the clean chunk that
        the velocity leads to. An expert that is narrower than what its tokens carry cannot pass their noise through,
        which a velocity needs and clean actions do not (Li and He 2025, arXiv 2511.13720).
    :param state_width: entries of a state as the network sees it, zeros behind those of the contract (pi0 has 32);
        0: those of the contract.
    :param latent_actor: one of :data:`LATENT_ACTORS`, see :mod:`fpo_ros.policy.latent`.
    :param language_lora: adapters of the language model; none if None. A dict of a configuration without any has no
        such entry.
    :param expert_lora: the same of the action expert.
    """

    width: int
    mlp_dim: int
    expert_width: int
    expert_mlp_dim: int
    depth: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocabulary_size: int
    vision: VisionConfig
    steps_per_token: int = 1
    predicts: str = 'velocity'
    state_width: int = 0
    latent_actor: str = ''
    language_lora: LoraConfig | None = None
    expert_lora: LoraConfig | None = None

    def __post_init__(self) -> None:
        if self.num_heads % self.num_kv_heads:
            raise ContractError(f'num_heads ({self.num_heads}) must be a multiple of num_kv_heads '
                                f'({self.num_kv_heads})')
        if self.predicts not in PREDICTIONS:
            raise ContractError(f"unknown prediction '{self.predicts}': use {' or '.join(PREDICTIONS)}")
        if self.latent_actor not in LATENT_ACTORS:
            raise ContractError(f"unknown latent actor '{self.latent_actor}': use flow, gaussian or nothing")
        if self.steps_per_token < 1:
            raise ContractError(f'steps_per_token must be at least 1, got {self.steps_per_token}')
        if self.head_dim % 2 or self.expert_width % 2:
            raise ContractError('head_dim and expert_width must be even: they hold sine and cosine halves')

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {name: value for name, value in dataclasses.asdict(self).items()
                if value is not None or name not in _ADAPTERS}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Pi0Config:
        """Read what :meth:`to_dict` wrote.

        :raises ContractError: on missing or unknown entries.
        """
        try:
            adapters = {name: LoraConfig(**data[name]) for name in _ADAPTERS if data.get(name) is not None}
            return cls(**{**data, 'vision': VisionConfig(**data['vision']), **adapters})
        except (KeyError, TypeError) as error:
            raise ContractError(f'not a pi0 configuration: {error}') from error


PRESETS = {
    'pi0': Pi0Config(
        width=2048, mlp_dim=16384, expert_width=1024, expert_mlp_dim=4096, depth=18, num_heads=8, num_kv_heads=1,
        head_dim=256, vocabulary_size=257152,
        vision=VisionConfig(patch_size=14, width=1152, depth=27, num_heads=16, mlp_dim=4304), state_width=32),
    'pi0_tiny': Pi0Config(
        width=64, mlp_dim=128, expert_width=64, expert_mlp_dim=128, depth=2, num_heads=4, num_kv_heads=1,
        head_dim=16, vocabulary_size=VOCABULARY_SIZE,
        vision=VisionConfig(patch_size=16, width=64, depth=2, num_heads=4, mlp_dim=192),
        steps_per_token=5, predicts='actions'),
    # 40 M parameters, 7 M of them the expert's: a chunk from a picture or two takes a core some hundred milliseconds.
    'pi0_small': Pi0Config(
        width=512, mlp_dim=2048, expert_width=256, expert_mlp_dim=1024, depth=6, num_heads=8, num_kv_heads=1,
        head_dim=64, vocabulary_size=VOCABULARY_SIZE,
        vision=VisionConfig(patch_size=16, width=384, depth=6, num_heads=6, mlp_dim=1536)),
}


def preset(name: str) -> Pi0Config:
    """Return a named configuration.

    :raises ContractError: listing the known names.
    """
    if name not in PRESETS:
        raise ContractError(f"unknown model '{name}': known models are {', '.join(PRESETS)}")
    return PRESETS[name]

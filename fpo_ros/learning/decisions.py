"""Decisions as an update needs them: what was seen, and the chunk that was drawn or recorded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fpo_ros.learning.demonstrations import Demonstrations
from fpo_ros.learning.rollout import Rollout
from fpo_ros.policy.checkpoint import FlowPolicy
from fpo_ros.policy.expert import Expert


@dataclass
class Decisions:
    """Flattened decisions.

    :param states: (M, state_dim) normalised.
    :param prefix_kv: (layers, 2, M or 1, kv_heads, n_prefix, head_dim).
    :param chunks: (M, H, action_dim) normalised.
    :param paths: (M, S, H, action_dim); see :class:`fpo_ros.policy.checkpoint.Drawn`.
    """

    states: Tensor
    prefix_kv: Tensor
    chunks: Tensor
    paths: Tensor

    def __len__(self) -> int:
        return len(self.states)

    def prefix(self, rows: Tensor) -> Tensor:
        """Return the prefix of some decisions; one for all, where all share it."""
        return self.prefix_kv if self.prefix_kv.shape[2] == 1 else self.prefix_kv[:, :, rows]

    def cache(self, expert: Expert, rows: Tensor) -> Tensor:
        """Return an expert's attention cache of some decisions."""
        return expert.with_state(self.states[rows], self.prefix(rows))

    def rows(self, rows: Tensor) -> Decisions:
        """Return some of the decisions."""
        return Decisions(self.states[rows], self.prefix(rows), self.chunks[rows], self.paths[rows])


def flatten(rollout: Rollout, where: np.ndarray) -> Decisions:
    """Return the decisions at (N, K) bool ``where``."""
    mask = torch.as_tensor(where)
    prefix = rollout.prefix_kv
    if prefix.shape[2] > 1:
        prefix = prefix[:, :, mask.flatten()]
    return Decisions(rollout.states[mask], prefix, rollout.chunks[mask], rollout.paths[mask])


def recorded_decisions(demonstrations: Demonstrations, policy: FlowPolicy) -> Decisions:
    """Return recorded pairs as decisions, their prefix computed once."""
    images = demonstrations.images
    with torch.no_grad():
        prefix = policy.prefix(None if images is None else images[demonstrations.frame])
    chunks = policy.known_chunks(demonstrations.chunks, demonstrations.joints)
    return Decisions(policy.known_states(demonstrations.states), prefix, chunks,
                     chunks.new_zeros(len(chunks), 0, *chunks.shape[1:]))


def joined(parts: list[Decisions], pictures: bool) -> Decisions | None:
    """Return several iterations' decisions as one, or None where there is no decision.

    :param pictures: whether each decision has a prefix of its own; otherwise all share that of the prompt.
    """
    parts = [part for part in parts if len(part)]
    if not parts:
        return None
    prefix = torch.cat([part.prefix_kv for part in parts], 2) if pictures else parts[0].prefix_kv
    return Decisions(torch.cat([part.states for part in parts]), prefix, torch.cat([part.chunks for part in parts]),
                     torch.cat([part.paths for part in parts]))

"""Sizes of networks small enough to check by hand."""

from __future__ import annotations

from dataclasses import replace

from fpo_ros.policy.config import Pi0Config, VisionConfig

TINY = Pi0Config(
    width=24,
    mlp_dim=20,
    expert_width=16,
    expert_mlp_dim=12,
    depth=3,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    vocabulary_size=259,
    vision=VisionConfig(patch_size=8, width=16, depth=1, num_heads=2, mlp_dim=16),
)
#: Two steps share a token, and clean actions are predicted.
SHARED = replace(TINY, steps_per_token=2, predicts='actions')

"""A process that trains on the tiny task until it is killed: ``train_forever.py RUN``."""

from __future__ import annotations

import sys
from pathlib import Path

import tiny_task
import torch

from fpo_ros.learning.finetune import finetune

if __name__ == '__main__':
    torch.set_num_threads(1)
    with tiny_task.short_episodes(), tiny_task.waist_reward():
        finetune(
            tiny_task.policy(),
            Path(sys.argv[1]),
            tiny_task.config(),
            1000,
            demonstrations=tiny_task.pairs(),
            on_iteration=lambda metrics: print(metrics['iteration'], flush=True),
        )

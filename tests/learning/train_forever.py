"""A process that trains on the tiny task: ``train_forever.py RUN ITERATIONS resume|new``."""

from __future__ import annotations

import sys
from pathlib import Path

import tiny_task
import torch

from fpo_ros.learning.finetune import finetune

if __name__ == '__main__':
    torch.set_num_threads(1)
    run, iterations, resume = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == 'resume'
    with tiny_task.short_episodes(), tiny_task.waist_reward():
        finetune(
            tiny_task.policy(),
            run,
            tiny_task.config(),
            iterations,
            resume=resume,
            demonstrations=tiny_task.pairs(),
            on_iteration=lambda metrics: print(metrics['iteration'], flush=True),
        )

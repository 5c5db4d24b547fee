"""A process that trains a policy of the tiny task for two iterations: ``train_once.py POLICY RUN GLOBAL_SEED``."""

from __future__ import annotations

import sys
from pathlib import Path

import tiny_task
import torch

from fpo_ros.learning.finetune import finetune
from fpo_ros.policy.checkpoint import FlowPolicy

if __name__ == '__main__':
    torch.set_num_threads(1)
    # What the process did with the global random state before must not matter.
    torch.manual_seed(int(sys.argv[3]))
    with tiny_task.short_episodes(), tiny_task.waist_reward():
        finetune(FlowPolicy.load(Path(sys.argv[1])), Path(sys.argv[2]), tiny_task.config(), 2, seed=3)

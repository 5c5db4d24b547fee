"""A process of several that collect episodes together; it fails unless they are those of one process.

Scenes are shared evenly and unevenly, and there are fewer than processes; or process 0 collects alone.
"""

from __future__ import annotations

import itertools

import numpy as np
import tiny_task
import torch
from equal_episodes import assert_equal
from recorded import PIXELS

from fpo_ros.learning.parallel import Group
from fpo_ros.learning.scale import EpisodeOptions, Local, open_pool
from fpo_ros.learning.scale.shared import SharedPool

if __name__ == '__main__':
    torch.set_num_threads(1)
    options = EpisodeOptions(noise_seed=7)
    with Group.from_environment(timeout_s=60.0) as group, tiny_task.short_episodes(), tiny_task.waist_reward(), \
            open_pool(Local(1)) as pool:
        for contract, counts in ((tiny_task.CONTRACT, (4, 5, 1)), (PIXELS, (3,))):
            policy = tiny_task.policy(contract=contract)
            for count, alone in itertools.product(counts, (False, True)):
                scenes = np.arange(10, 10 + count)
                own = None if alone and group.rank else pool
                together = SharedPool(own, group, alone).collect(policy, scenes, options)
                assert_equal(together.rollout, pool.collect(policy, scenes, options).rollout)
                assert len(together.processors) == 1
    print(f'equal in {group.rank}')

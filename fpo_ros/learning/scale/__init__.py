"""Episodes of a policy on this machine or on a Ray cluster: the same episodes, bit for bit, wherever they ran.

The scenes are split into units of work. A unit is run by one function (:mod:`fpo_ros.learning.scale.unit`), here or in
a worker, and what it returns depends on the scenes, the policy and the options alone, not on which scenes share a unit:

- the start noise of a flow is a function of the noise seed, the scene and the decision;
- the network computes blocks of a fixed number of rows on one thread, the last one padded, since what a matrix product
  rounds depends on the number of rows;
- the physics of a world does not depend on the others (:class:`fpo_ros.sim.batch.BatchedWorlds`).

So episodes are equal on processors of one kind with the same versions of numpy, torch and mujoco. Versions are checked;
processors of different kinds round differently, which contacts amplify: :attr:`Collected.processors` names them.
"""

from fpo_ros.learning.scale.collecting import Cluster, Collected, Local, Pool, collect_episodes, open_pool
from fpo_ros.learning.scale.errors import ClusterError, WorkerVersionError
from fpo_ros.learning.scale.unit import EpisodeOptions

__all__ = ['Cluster', 'ClusterError', 'Collected', 'EpisodeOptions', 'Local', 'Pool', 'WorkerVersionError',
           'collect_episodes', 'open_pool']

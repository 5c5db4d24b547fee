"""Parameters of the policy node, and the contract of the cell that they make."""

from __future__ import annotations

from dataclasses import dataclass

from fpo_ros.hardware.names import camera_list
from fpo_ros.nodes.parameters import param
from fpo_ros.policy.contract import OBSERVATION_KINDS, TASKS, PolicyContract
from fpo_ros.runtime.timeline import Joining

#: Ways to join chunks by their names; 'auto' is that of real time where a release can go on from a leftover.
CHUNKING = {'auto': None, 'synchronous': Joining.AFTER, 'realtime': Joining.REALTIME, 'ensemble': Joining.ENSEMBLE}


@dataclass(frozen=True)
class PolicyParameters:
    """Parameters of ``policy``."""

    release: str = param('', 'directory of the release served first; empty: wait for an announcement')
    trusted_keys: str = param('', 'file or directory of the public keys releases must be signed with')
    releases: str = param('', 'release store of the cell; empty: the one the first release lies in')
    require_promotion: bool = param(True, 'serve only releases that passed the promotion gate of their store')
    verify_limit: float = param(60.0, 'time given to verify the first release [s]', low=1.0, high=600.0)
    task: str = param('transfer_cube', 'task of the cell', choices=tuple(TASKS))
    observation: str = param('state', 'what policies of this cell see', choices=OBSERVATION_KINDS)
    cameras: str = param('', 'cameras policies see, in order, comma-separated; empty for state')
    other_cameras: str = param('', 'cameras that observations bring and policies do not see, comma-separated')
    image_height: int = param(96, 'rows of every image [pixels]', low=8, high=2160)
    image_width: int = param(96, 'columns of every image [pixels]', low=8, high=3840)
    horizon: int = param(20, 'rows of an action chunk [control periods]', low=1, high=1000)
    execute: int = param(20, 'rows executed of each chunk [control periods]', low=1, high=1000)
    provider: str = param('cpu', 'what runs the graphs', choices=('cpu', 'cuda', 'tensorrt', 'tensorrt_refit', 'auto'))
    threads: int = param(1, 'threads of one inference on the CPU [count]', low=1, high=64)
    tensorrt_options: str = param('', 'options of TensorRT, such as trt_fp16_enable=1, comma-separated')
    engine_cache: str = param('', 'directory in which TensorRT keeps its engines; empty: built at every load')
    cpu_fallback: bool = param(False, 'go on on the CPU, with a warning, when a graph fails while it runs on a GPU')
    noise: str = param('sample', 'start of the flow: a fresh normal sample, or zeros (repeatable)',
                       choices=('sample', 'zeros'))
    chunking: str = param('auto', 'how chunks are joined: each is played to its end before the next is asked for, or '
                          'the next is asked for meanwhile and goes on from it (auto: where the release can), or the '
                          'predictions of all chunks are averaged', choices=tuple(CHUNKING))
    max_observation_age: float = param(0.5, 'older observations are not answered [s]', low=0.02, high=10.0)
    noise_seed: int = param(0, 'seed of the noise [count]', low=0, high=2**31 - 1)


def contract_of(p: PolicyParameters) -> PolicyContract:
    """Return what policies of the cell see and command.

    :raises fpo_ros.policy.contract.ContractError: for parameters that do not go together.
    """
    return PolicyContract(task=p.task, observation=p.observation, cameras=camera_list(p.cameras),
                          image_height=p.image_height, image_width=p.image_width,
                          horizon=p.horizon, execute=p.execute)

"""Speed of the parts, each as a ratio to a named baseline of the same run: ``python benchmarks/parts.py``."""

from __future__ import annotations

import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from fpo_ros import gl

gl.select_backend()  # MuJoCo chooses when it is imported

import mujoco  # noqa: E402
import numpy as np  # noqa: E402
import onnxruntime  # noqa: E402
import torch  # noqa: E402
from mujoco import rollout  # noqa: E402

from fpo_ros.policy.checkpoint import FlowPolicy  # noqa: E402
from fpo_ros.policy.config import preset  # noqa: E402
from fpo_ros.policy.contract import START_JOINTS, Observation, PolicyContract  # noqa: E402
from fpo_ros.policy.normalisation import NormStats  # noqa: E402
from fpo_ros.policy.pi0 import Pi0  # noqa: E402
from fpo_ros.runtime.export import export  # noqa: E402
from fpo_ros.runtime.session import PolicySession  # noqa: E402
from fpo_ros.sim.batch import BatchedWorlds, hold_targets  # noqa: E402
from fpo_ros.sim.model import SUBSTEPS, controls_of, load_model  # noqa: E402
from fpo_ros.sim.render import WorldRenderer  # noqa: E402

WORLDS, HORIZON, REPEATS = 64, 20, 10
CORES = len(os.sched_getaffinity(0))
POSE = np.array([0.1, 0.5, 0.02, 1, 0, 0, 0])


def timed(work: Callable[[], object]) -> float:
    """Return the duration of one call [s]."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def best(work: Callable[[], object], repeats: int) -> float:
    """Return the shortest of several durations [s]."""
    return min(timed(work) for _ in range(repeats))


def physics() -> dict[str, float]:
    """Control steps per second, against bare ``mujoco.rollout`` on the same states, controls and threads."""
    model = load_model('transfer_cube')
    with BatchedWorlds('transfer_cube', WORLDS, CORES) as worlds, rollout.Rollout(nthread=CORES) as bare:
        worlds.reset(np.arange(WORLDS))
        size = mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_FULLPHYSICS)
        states = np.zeros((WORLDS, size))
        states[:, 1:1 + model.nq] = worlds.qpos
        targets = hold_targets(worlds.last_target, HORIZON)
        controls = np.repeat(controls_of(targets), SUBSTEPS, 1)
        data = [mujoco.MjData(model) for _ in range(CORES)]
        durations = []
        for _ in range(REPEATS):  # in turns, so that what else runs slows both
            worlds.reset(np.arange(WORLDS))
            durations.append((timed(lambda: worlds.step(targets)),
                              timed(lambda: bare.rollout([model] * WORLDS, data, states, controls))))
        ours, limit = map(min, zip(*durations, strict=True))
        after, _ = bare.rollout([model] * WORLDS, data, states, controls)
        if not np.array_equal(after[:, -1, 1:1 + model.nq], worlds.qpos):
            raise RuntimeError('both did not simulate the same: the comparison means nothing')
    steps = WORLDS * HORIZON
    return {'control_steps_per_s': steps / ours, 'bare_rollout_control_steps_per_s': steps / limit,
            'share_of_bare_rollout': limit / ours}


def rendering() -> dict[str, float]:
    """Pictures of 224x224 per second in fast mode, against gym-aloha's own picture (480x640, shadows)."""
    with BatchedWorlds('transfer_cube', 1) as worlds:
        worlds.reset(np.array([3]))
        qpos = worlds.qpos[0].copy()
    with WorldRenderer('transfer_cube', 224, 224) as fast:
        fast.render(qpos, 'cam_high')
        ours = best(lambda: fast.render(qpos, 'cam_high'), 50)
    with WorldRenderer('transfer_cube', 480, 640, mode='faithful') as faithful:
        faithful.render(qpos, 'cam_high')
        theirs = best(lambda: faithful.render(qpos, 'cam_high'), 5)
    return {'fast_pictures_per_s': 1 / ours, 'gym_aloha_pictures_per_s': 1 / theirs, 'speed_up': theirs / ours}


def inference() -> dict[str, float]:
    """Milliseconds per chunk of the exported policy, against the same policy in torch, one thread each."""
    torch.set_num_threads(1)
    contract = PolicyContract()
    stats = NormStats(np.zeros(21), np.ones(21), START_JOINTS, np.full(14, 0.1))
    policy = FlowPolicy(Pi0(preset('pi0_tiny'), contract), stats)
    observation = Observation(START_JOINTS, object_pose=POSE)
    noise = np.zeros((contract.horizon, 14), np.float32)
    with tempfile.TemporaryDirectory() as directory:
        export(policy, Path(directory))
        session = PolicySession.load(directory)
        session.infer(observation, noise)
        ours = best(lambda: session.infer(observation, noise), 20)
    states, prefix = policy.states(START_JOINTS[None], POSE[None]), policy.prefix(None)
    theirs = best(lambda: policy.act(states, prefix, torch.as_tensor(noise)[None]), 20)
    return {'onnx_ms': ours * 1e3, 'torch_ms': theirs * 1e3, 'speed_up': theirs / ours}


if __name__ == '__main__':
    print(json.dumps({
        'machine': {'cores': CORES, 'processor': platform.processor() or platform.machine(),
                    'python': platform.python_version(), 'mujoco': mujoco.__version__, 'torch': torch.__version__,
                    'onnxruntime': onnxruntime.__version__},
        'physics': physics(), 'rendering': rendering(), 'inference': inference()}, indent=2))

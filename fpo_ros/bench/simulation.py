"""Speed of the simulation against gym-aloha and against MuJoCo's own limit.

Ours and the baseline take turns within a run, so that what else the machine does slows both.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import mujoco
import numpy as np
from mujoco import rollout

from fpo_ros.policy.contract import START_JOINTS
from fpo_ros.sim.batch import BatchedWorlds
from fpo_ros.sim.expert import expert_for
from fpo_ros.sim.model import SUBSTEPS, task_xml
from fpo_ros.sim.render import BatchRenderer, WorldRenderer
from fpo_ros.sim.task import MAX_STEPS, sample_object_pose

TASK = 'transfer_cube'
#: Error of the demonstrator's waypoints in the episodes that are played [m].
NOISE_M = 0.01
#: Control steps per chunk of physics, and between the decisions of a policy that sees pictures.
CHUNK, DECISION = 20, 10
#: Cameras and picture size [pixels] of the episodes with pictures.
CAMERAS, PICTURE = ('cam_high', 'cam_angle'), 96
#: Size of the single picture [pixels].
SINGLE = 224

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    :param worlds: worlds of the physics.
    :param rounds: times that their episodes are played.
    :param pictures: pictures in fast mode; a fiftieth as many of gym-aloha's, at least five.
    :param gym_aloha_steps: control steps of gym-aloha with its pictures, about 6 per second.
    :param pixel_episodes: episodes with pictures.
    """

    worlds: int = 64
    rounds: int = 2
    pictures: int = 1000
    gym_aloha_steps: int = MAX_STEPS
    pixel_episodes: int = 16


QUICK = Sizes(worlds=8, rounds=1, pictures=50, gym_aloha_steps=6, pixel_episodes=2)


def cores() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0))


def scripted_targets(scenes: np.ndarray) -> np.ndarray:
    """Return (N, MAX_STEPS, 14) targets of imperfect demonstrators, one per scene; they hold their last."""
    expert = expert_for(TASK)
    plans = [expert.plan(sample_object_pose(TASK, int(scene)), np.random.default_rng(int(scene)), NOISE_M)
             for scene in scenes]
    return np.stack([np.concatenate([plan, np.tile(plan[-1:], (MAX_STEPS - len(plan), 1))]) for plan in plans])


def physics(sizes: Sizes) -> dict[str, float]:
    """Return control steps per second of whole scripted episodes: ours, bare rollouts, and gym-aloha without pictures.

    The bare rollout steps gym-aloha's own model, without our sensors, from the same states with the same controls
    into arrays that exist already, and reads nothing out.

    :raises RuntimeError: when the three did not simulate the same.
    """
    scenes, threads = np.arange(sizes.worlds), cores()
    targets = scripted_targets(scenes)
    plain = mujoco.MjModel.from_xml_path(str(task_xml(TASK)))
    models, data = [plain] * sizes.worlds, [mujoco.MjData(plain) for _ in range(threads)]
    spent = {'ours': 0.0, 'bare': 0.0}
    with BatchedWorlds(TASK, sizes.worlds) as worlds, rollout.Rollout(nthread=threads) as bare:
        model = worlds.model
        nstate = mujoco.mj_stateSize(plain, mujoco.mjtState.mjSTATE_FULLPHYSICS)
        after = np.empty((sizes.worlds, CHUNK * SUBSTEPS, nstate))
        nothing = np.empty((sizes.worlds, CHUNK * SUBSTEPS, plain.nsensordata))
        for _ in range(sizes.rounds):
            worlds.reset(scenes)
            reached = []
            for start in range(0, MAX_STEPS, CHUNK):
                chunk = targets[:, start:start + CHUNK]
                states, warm = worlds.snapshot()
                controls = np.repeat(model.controls_of(chunk), SUBSTEPS, 1)
                begun = time.perf_counter()
                outcome = worlds.step(chunk)
                spent['ours'] += time.perf_counter() - begun
                reached.append(outcome)
                begun = time.perf_counter()
                bare.rollout(models, data, states, controls, initial_warmstart=warm, state=after,
                             sensordata=nothing, skip_checks=True, nstep=CHUNK * SUBSTEPS)
                spent['bare'] += time.perf_counter() - begun
                if not np.array_equal(after[:, -1, 1:1 + plain.nq], outcome.qpos[:, -1]):
                    raise RuntimeError('the bare rollout did not simulate the same: the comparison means nothing')
    stages = np.concatenate([outcome.stage for outcome in reached], 1)
    slow, rewards = gym_aloha_without_pictures(targets[:8])
    if not np.array_equal(rewards, stages[:len(rewards)]):
        raise RuntimeError('gym-aloha did not simulate the same: the comparison means nothing')
    steps = sizes.rounds * sizes.worlds * MAX_STEPS
    return {'control_steps_per_s': steps / spent['ours'], 'native_limit_control_steps_per_s': steps / spent['bare'],
            'gym_aloha_no_render_control_steps_per_s': slow,
            'share_of_steps_in_contact': float((stages > 0).mean())}


def gym_aloha_without_pictures(targets: np.ndarray) -> tuple[float, np.ndarray]:
    """Play (N, T, 14) targets through gym-aloha, whose rendering is off, in scenes 0 to N - 1.

    :returns: control steps per second, and (N, T) rewards.
    """
    from gym_aloha.env import AlohaEnv

    env = AlohaEnv(TASK, obs_type='pixels_agent_pos')
    blank = np.zeros((1, 1, 3), np.uint8)
    env._env.physics.render = lambda **_: blank
    rewards, spent = np.zeros(targets.shape[:2]), 0.0
    for scene, plan in enumerate(targets):
        env.reset(seed=scene)
        begun = time.perf_counter()
        for step, action in enumerate(plan):
            rewards[scene, step] = env.step(action)[1]
        spent += time.perf_counter() - begun
    return rewards.size / spent, rewards


def gym_aloha_with_pictures(sizes: Sizes) -> dict[str, float]:
    """Return gym-aloha's control steps and whole episodes per second as it ships, and its own pictures per second.

    dm_control takes its GL context for current until it makes another one so, and takes away whatever is current when
    its own is collected: this runs in a process of its own.
    """
    from gym_aloha.env import AlohaEnv

    env = AlohaEnv(TASK, obs_type='pixels_agent_pos')
    env.reset(seed=0)
    actions = scripted_targets(np.zeros(1, int))[0, :sizes.gym_aloha_steps]
    begun = time.perf_counter()
    for action in actions:
        env.step(action)
    rate = len(actions) / (time.perf_counter() - begun)
    pictures = max(5, sizes.pictures // 50)
    begun = time.perf_counter()
    for _ in range(pictures):
        env._env.physics.render(height=480, width=640, camera_id='top')
    return {'gym_aloha_control_steps_per_s': rate, 'gym_aloha_pixel_episodes_per_s': rate / MAX_STEPS,
            'gym_aloha_render_fps': pictures / (time.perf_counter() - begun)}


def render_fps(pictures: int) -> float:
    """Return pictures of 224x224 per second of one camera in one process, in fast mode along a scripted episode."""
    with BatchedWorlds(TASK, 1) as worlds:
        worlds.reset(np.zeros(1, int))
        qpos = worlds.step(scripted_targets(np.zeros(1, int))).qpos[0]
    with WorldRenderer(TASK, SINGLE, SINGLE) as renderer:
        renderer.render(qpos[0], 'cam_high')
        begun = time.perf_counter()
        for number in range(pictures):
            renderer.render(qpos[number % len(qpos)], 'cam_high')
        return pictures / (time.perf_counter() - begun)


def pixel_episodes(sizes: Sizes) -> float:
    """Return whole scripted episodes per second with pictures of two cameras at every decision."""
    count = sizes.pixel_episodes
    targets, scenes = scripted_targets(np.arange(count)), np.arange(count)
    with BatchedWorlds(TASK, count) as worlds, BatchRenderer(TASK, CAMERAS, PICTURE, PICTURE) as renderer:
        worlds.reset(scenes)
        renderer.render_all(worlds.qpos[:1])
        begun = time.perf_counter()
        worlds.reset(scenes)
        for start in range(0, MAX_STEPS, DECISION):
            renderer.render_all(worlds.qpos)
            worlds.step(targets[:, start:start + DECISION])
        return count / (time.perf_counter() - begun)


_MEMORY = """
import sys
import numpy as np
from fpo_ros.sim.batch import BatchedWorlds, hold_targets
count = int(sys.argv[1])
with BatchedWorlds('transfer_cube', count) as worlds:
    worlds.reset(np.arange(count))
    worlds.step(hold_targets(worlds.last_target, 20))
    worlds.step(hold_targets(worlds.last_target, 20))
status = dict(line.split(':', 1) for line in open('/proc/self/status'))
print(int(status['VmHWM'].split()[0]) * 1024)
"""


def memory(worlds: int = 1024) -> dict[str, float]:
    """Return the peak memory of a process that steps many worlds by chunks of 20, and what each world adds [bytes]."""
    peaks = []
    for count in (1, worlds):
        done = subprocess.run([sys.executable, '-c', _MEMORY, str(count)], capture_output=True, text=True, check=False,
                              timeout=300)
        if done.returncode:
            raise RuntimeError(f'{count} worlds could not be stepped: {done.stderr.strip().splitlines()[-1]}')
        peaks.append(int(done.stdout.split()[-1]))
    return {'bytes_per_world': (peaks[1] - peaks[0]) / (worlds - 1), 'peak_bytes_1024_worlds': peaks[1]}


def growth(worlds: tuple[int, ...], threads: tuple[int, ...], progress: Progress) -> list[dict[str, float]]:
    """Return control steps per second of held arms for every number of worlds and threads."""
    rows = []
    for count in worlds:
        targets = np.tile(START_JOINTS, (count, CHUNK, 1))
        rounds = max(2, 128 // count)
        for number in threads:
            with BatchedWorlds(TASK, count, number) as some:
                some.reset(np.arange(count))
                some.step(targets)
                begun = time.perf_counter()
                for _ in range(rounds):
                    some.step(targets)
                rate = rounds * count * CHUNK / (time.perf_counter() - begun)
            rows.append({'worlds': count, 'threads': number, 'control_steps_per_s': rate})
            progress(f'{count} worlds on {number} threads: {rate:,.0f} control steps/s')
    return rows


def measure(sizes: Sizes, progress: Progress) -> dict[str, float]:
    """Measure everything but growth.

    :param progress: called with what begins.
    :returns: the figures, and the ratio of each to its baseline.
    """
    progress('physics: scripted episodes, ours and bare rollouts in turns, then gym-aloha without pictures')
    found: dict[str, float] = physics(sizes)
    progress(f'gym-aloha as it ships: {sizes.gym_aloha_steps} control steps, about {sizes.gym_aloha_steps / 6:.0f} s')
    with ProcessPoolExecutor(1, get_context('spawn')) as alone:
        found |= alone.submit(gym_aloha_with_pictures, sizes).result()
    progress('single pictures')
    found['render_fps'] = render_fps(sizes.pictures)
    progress('episodes with pictures')
    found['pixel_episodes_per_s'] = pixel_episodes(sizes)
    progress('memory of 1,024 worlds')
    found |= memory() | {'cores': cores()}
    for name, ours, baseline in RATIOS:
        found[name] = found[ours] / found[baseline]
    return found


#: Ratios: name, ours, baseline.
RATIOS = (
    ('share_of_native_limit', 'control_steps_per_s', 'native_limit_control_steps_per_s'),
    ('speed_up_over_gym_aloha_no_render', 'control_steps_per_s', 'gym_aloha_no_render_control_steps_per_s'),
    ('speed_up_over_gym_aloha', 'control_steps_per_s', 'gym_aloha_control_steps_per_s'),
    ('speed_up_of_pictures', 'render_fps', 'gym_aloha_render_fps'),
    ('speed_up_of_pixel_episodes', 'pixel_episodes_per_s', 'gym_aloha_pixel_episodes_per_s'))
#: What each ratio must reach on two cores.
PROMISES = {'share_of_native_limit': 0.9, 'speed_up_over_gym_aloha_no_render': 1.9, 'speed_up_over_gym_aloha': 800,
            'speed_up_of_pictures': 10, 'speed_up_of_pixel_episodes': 60}
#: Memory of 1,024 worlds must stay below [bytes].
MEMORY_LIMIT = 4e9


def broken_promises(found: dict[str, float]) -> list[str]:
    """Return what the figures fall short of."""
    short = [f'{name} is {found[name]:.2f}, promised {least:g}' for name, least in PROMISES.items()
             if found[name] < least]
    peak = found['peak_bytes_1024_worlds']
    if peak > MEMORY_LIMIT:
        short.append(f'1,024 worlds took {peak / 1e9:.1f} GB, promised {MEMORY_LIMIT / 1e9:g}')
    return short

"""Stages 6 and 7 of the demo: signed releases and the running graph."""

from __future__ import annotations

import contextlib
import datetime
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from fpo_ros.demo.config import DemoConfig
from fpo_ros.demo.display import Bar, Display
from fpo_ros.demo.pace import ControlPeriods
from fpo_ros.policy.contract import CONTROL_RATE_HZ
from fpo_ros.releases.errors import PromotionRefused
from fpo_ros.releases.gate import PromotionGate
from fpo_ros.releases.keys import generate_keypair, load_trusted_keys
from fpo_ros.releases.publishing import publish_policy
from fpo_ros.releases.store import ReleaseStore
from fpo_ros.sim.scenes import GRAPH_SEED
from fpo_ros.sim.task import MAX_STEPS

if TYPE_CHECKING:
    from fpo_ros.nodes.client import EpisodeClient

#: In the graph the arms hold one to three periods while the next chunk is made, which count; in the batched
#: simulation they do not. So many more make up for it in 15 chunks [control periods].
HOLD_PERIODS = 40


class DeploymentError(RuntimeError):
    """A stage of the deployment failed; the message says what to do."""


def release(config: DemoConfig, work: Path, display: Display, sft: dict, fpo: dict) -> dict:
    """Export both policies, publish them signed, and promote them through the gate.

    Keys and releases of an interrupted attempt are made anew: nobody runs them yet, and they may be incomplete.
    """
    for leftover in (work / 'keys', work / 'releases'):
        if leftover.exists():
            shutil.rmtree(leftover)
    pair = generate_keypair(work / 'keys')
    store, gate = ReleaseStore(work / 'releases'), PromotionGate(max_drop=config.gate_max_drop)
    versions, errors, parent, refusal = [], [], None, ''
    for name, source, result in (('SFT', work / 'sft', sft), ('FPO', work / 'fpo' / 'best', fpo)):
        published, error = publish_policy(store, source, result, pair.private_path, parent=parent, created=now())
        errors.append(error)
        display.line(f'{name} policy is release {published.version}, signed; ONNX differs from torch by at most '
                     f'{error:.1e}')
        try:
            store.promote(published.version, load_trusted_keys(pair.public_path), gate)
        except PromotionRefused as refused:
            if parent is None:
                raise
            refusal = str(refused)
            display.line(f'the promotion gate refuses it: {refusal}. {parent} goes on serving')
            versions.append(None)
        else:
            versions.append(published.version)
        parent = published.version
    if config.gate_max_drop >= 100:
        display.line(f'the gate of this quick demo lets every release pass: {config.evaluation_episodes} scenes prove '
                     'nothing')
    return {'sft_version': versions[0], 'fpo_version': versions[1], 'onnx_max_abs_difference': max(errors),
            'refusal': refusal}


def graph(config: DemoConfig, work: Path, display: Display, versions: dict) -> dict:
    """Run episodes with the SFT release, swap to the FPO release, run more; everything is recorded.

    Where the gate refused the FPO release, the SFT release serves alone. The ROS domain is that of the environment.

    :raises GraphError: when the graph does not start, or a node does not answer.
    :raises DeploymentError: when an episode ends early or is not recorded.
    """
    from fpo_ros.nodes.client import EpisodeClient
    from fpo_ros.nodes.graph import GraphOptions
    from fpo_ros.nodes.ros_client import domain_of_environment
    from fpo_ros.nodes.up import running_graph

    if (work / 'episodes').exists():
        display.line('the episodes of the interrupted graph are recorded anew')
        shutil.rmtree(work / 'episodes')
    first, second, domain = versions['sft_version'], versions['fpo_version'], domain_of_environment()
    options = GraphOptions(mode='sim', policy=str(work / 'releases' / first), releases=str(work / 'releases'),
                           trusted_keys=str(work / 'keys' / 'release.pub'), record_dir=str(work / 'episodes'),
                           run_dir=str(work / 'learner'), parameters={
                               # The releases of this store were promoted in order; the first one serves first.
                               'policy': {'require_promotion': True}})
    with open(work / 'graph.log', 'a', encoding='utf-8') as log:
        def sink(node: str, line: str) -> None:
            with contextlib.suppress(OSError, ValueError):  # a full disk, a line after the end: the nodes go on
                log.write(f'[{node}] {line}\n')
                log.flush()
        display.line(f'starting the nodes in ROS domain {domain}; their output goes to {work / "graph.log"}')
        with running_graph(options, domain=domain, sink=sink), EpisodeClient(domain=domain) as client:
            client.wait_for_version(first)
            pace = _watch_pace(client)
            with display.bar('episodes', 2 * config.graph_episodes) as bar:
                before = _episodes(client, config, bar, 0, first)
                started, after = client.policy_status().swaps, []
                if second is not None:
                    client.announce(second)
                    client.wait_for_version(second)
                    display.line(f'the policy node verified {second} and swapped it in; the graph kept running')
                    after = _episodes(client, config, bar, config.graph_episodes, second)
            timing, status = pace(), client.policy_status()
    result = {
        'episodes': len(before) + len(after), 'successes_sft': sum(e['success'] for e in before),
        'successes_fpo': sum(e['success'] for e in after), 'swaps': status.swaps - started, **timing,
        'inference_p50_ms': status.inference_time_p50 * 1e3, 'inference_p99_ms': status.inference_time_p99 * 1e3,
        'runs': before + after,
    }
    display.line(f"successes: SFT {result['successes_sft']} of {len(before)}, FPO {result['successes_fpo']} of "
                 f"{len(after)}; commands at {result['command_rate_hz']:.2f} Hz, jitter p99 "
                 f"{result['command_jitter_p99_ms']:.2f} ms, {result['missed_ticks']} of {result['ticks']} ticks "
                 'missed')
    return result


def _watch_pace(client: EpisodeClient) -> Callable[[], dict]:
    """Follow the controller from now on; the returned function gives the pace so far."""
    from fpo_ros.msg import ControllerStatus
    from fpo_ros.nodes import qos
    from fpo_ros.nodes.convert import nanoseconds

    periods, lock = ControlPeriods(1 / CONTROL_RATE_HZ), threading.Lock()

    def take(status: ControllerStatus) -> None:
        with lock:
            periods.add(status.ticks, nanoseconds(status.header.stamp), status.missed_ticks)

    def pace() -> dict:
        with lock:
            return periods.summary()

    client.node.create_subscription(ControllerStatus, 'controller_status', take, qos.STATUS)
    return pace


def _episodes(client: EpisodeClient, config: DemoConfig, bar: Bar, done: int, version: str) -> list[dict]:
    """Run the same scenes with whatever policy serves."""
    outcomes = []
    for index in range(config.graph_episodes):
        outcome = client.run_episode(GRAPH_SEED + index, config.contract.task,
                                     max_steps=MAX_STEPS + HOLD_PERIODS)
        if outcome.reason not in ('success', 'timeout'):
            raise DeploymentError(f'episode {index} with {version} ended early ({outcome.reason}): {outcome.message}. '
                                  'Go on with --resume; a busy machine may be the cause')
        if not outcome.episode_id:
            raise DeploymentError(f'episode {index} with {version} was not recorded: {outcome.message}. Go on with '
                                  '--resume')
        if outcome.policy_version != version:
            raise DeploymentError(f'episode {index} ran with {outcome.policy_version} instead of {version}')
        outcomes.append({'seed': GRAPH_SEED + index, 'success': outcome.success, 'steps': outcome.steps,
                         'max_stage': outcome.max_stage, 'policy_version': version,
                         'episode_id': outcome.episode_id})
        good = sum(entry['success'] for entry in outcomes)
        bar.update(done + index + 1, f'({version}: {good} of {index + 1} succeed)')
    return outcomes


def now() -> str:
    """Return the present time as ISO 8601 text."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat()

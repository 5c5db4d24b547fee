"""Stages 6 and 7 of the demo: signed releases and the running graph."""

from __future__ import annotations

import datetime
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from fpo_ros.demo.config import DemoConfig
from fpo_ros.demo.display import Bar, Display
from fpo_ros.policy.checkpoint import FlowPolicy
from fpo_ros.releases.errors import PromotionRefused
from fpo_ros.releases.gate import PromotionGate
from fpo_ros.releases.keys import generate_keypair, load_trusted_keys
from fpo_ros.releases.store import ReleaseStore
from fpo_ros.runtime.export import export
from fpo_ros.sim.task import MAX_STEPS

if TYPE_CHECKING:
    from fpo_ros.nodes.client import EpisodeClient

#: Scene seeds of the episodes in the graph; held out from training like those of the evaluation.
GRAPH_SEED = 1_900_000

#: In the graph the arms hold one to three periods while the next chunk is made, which count; in the batched
#: simulation they do not. So many more make up for it in 15 chunks [control periods].
HOLD_PERIODS = 40


class DeploymentError(RuntimeError):
    """A stage of the deployment failed; the message says what to do."""


def release(config: DemoConfig, work: Path, display: Display, sft: dict, fpo: dict) -> dict:
    """Export both policies, publish them signed, and promote them through the gate."""
    keys = work / 'keys'
    private, public = keys / 'release.key', keys / 'release.pub'
    if not private.exists():
        generate_keypair(keys)
    store = ReleaseStore(work / 'releases')
    gate = PromotionGate(max_drop=config.gate_max_drop)
    versions, errors, parent = [], [], None
    for name, source, result in (('SFT', work / 'sft', sft), ('FPO', work / 'fpo' / 'best', fpo)):
        with tempfile.TemporaryDirectory(dir=work) as staging:
            error = export(FlowPolicy.load(source), Path(staging))
            published = store.publish(staging, contract=config.contract, metrics={'evaluation': result},
                                      parent=parent, private_key=private, created=now())
        errors.append(error)
        display.line(f'{name} policy is release {published.version}, signed; ONNX differs from torch by at most '
                     f'{error:.1e}')
        try:
            store.promote(published.version, load_trusted_keys(public), gate)
        except PromotionRefused as refusal:
            if parent is None:
                raise
            display.line(f'the promotion gate refuses it: {refusal}. {parent} goes on serving')
            versions.append(None)
        else:
            versions.append(published.version)
        parent = published.version
    return {'sft_version': versions[0], 'fpo_version': versions[1], 'onnx_max_abs_difference': max(errors)}


def graph(config: DemoConfig, work: Path, display: Display, versions: dict) -> dict:
    """Run episodes with the SFT release, swap to the FPO release, run more; everything is recorded.

    Where the gate refused the FPO release, the SFT release serves alone.

    :raises DeploymentError: when ROS 2 is not installed.
    """
    try:
        from fpo_ros.nodes.client import EpisodeClient
        from fpo_ros.nodes.graph import GraphOptions
        from fpo_ros.nodes.up import running_graph
    except ImportError as error:
        raise DeploymentError(f'the graph needs ROS 2, and it cannot be imported: {error}. Install the extra "ros" '
                              '(make setup does), or source a distribution') from error
    first, second = versions['sft_version'], versions['fpo_version']
    options = GraphOptions(mode='sim', policy=str(work / 'releases' / first), releases=str(work / 'releases'),
                           trusted_keys=str(work / 'keys' / 'release.pub'), record_dir=str(work / 'episodes'),
                           run_dir=str(work / 'learner'), parameters={
                               # The releases of this store were promoted in order; the first one serves first.
                               'policy': {'require_promotion': True}})
    domain = int(os.environ.get('ROS_DOMAIN_ID') or 100 + os.getpid() % 100)
    with open(work / 'graph.log', 'a', encoding='utf-8') as log:
        def sink(node: str, line: str) -> None:
            log.write(f'[{node}] {line}\n')
            log.flush()
        display.line(f'starting the nodes in ROS domain {domain}; their output goes to {work / "graph.log"}')
        with running_graph(options, domain=domain, sink=sink), EpisodeClient(domain=domain) as client:
            client.wait_for_version(first)
            with display.bar('episodes', 2 * config.graph_episodes) as bar:
                before = _episodes(client, config, bar, 0, first)
                started, after = client.policy_status().swaps, []
                if second is not None:
                    client.announce(second)
                    client.wait_for_version(second)
                    display.line(f'the policy node verified {second} and swapped it in; the graph kept running')
                    after = _episodes(client, config, bar, config.graph_episodes, second)
            timing, status = client.command_timing(), client.policy_status()
    result = {
        'episodes': len(before) + len(after), 'successes_sft': sum(e['success'] for e in before),
        'successes_fpo': sum(e['success'] for e in after), 'swaps': status.swaps - started,
        'command_rate_hz': timing.rate_hz, 'command_jitter_p99_ms': timing.jitter_p99_ms,
        'missed_ticks': timing.missed_ticks, 'ticks': timing.ticks,
        'inference_p50_ms': status.inference_time_p50 * 1e3, 'inference_p99_ms': status.inference_time_p99 * 1e3,
        'runs': before + after,
    }
    display.line(f"successes: SFT {result['successes_sft']} of {len(before)}, FPO {result['successes_fpo']} of "
                 f'{len(after)}; '
                 f"commands at {timing.rate_hz:.2f} Hz, jitter p99 {timing.jitter_p99_ms:.2f} ms, "
                 f'{timing.missed_ticks} of {timing.ticks} ticks missed')
    return result


def _episodes(client: EpisodeClient, config: DemoConfig, bar: Bar, done: int, version: str) -> list[dict]:
    """Run the same scenes with whatever policy serves."""
    outcomes = []
    for index in range(config.graph_episodes):
        outcome = client.run_episode(GRAPH_SEED + index, config.contract.task,
                                     max_steps=MAX_STEPS[config.contract.task] + HOLD_PERIODS)
        if outcome.reason not in ('success', 'timeout'):
            raise DeploymentError(f'episode {index} with {version} ended early ({outcome.reason}): {outcome.message}')
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



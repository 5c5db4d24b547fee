"""Stages 1 to 5 of the demo: demonstrations, SFT, FPO and both evaluations."""

from __future__ import annotations

from pathlib import Path

from fpo_ros.demo.config import DemoConfig
from fpo_ros.demo.display import Display, TrainingTable
from fpo_ros.episodes.store import EpisodeStore
from fpo_ros.learning import sft
from fpo_ros.learning.demonstrations import load_demonstrations
from fpo_ros.learning.evaluate import evaluate
from fpo_ros.learning.finetune import best_of, finetune
from fpo_ros.learning.prefixes import network_for
from fpo_ros.learning.record import record_demonstrations
from fpo_ros.policy.checkpoint import FlowPolicy
from fpo_ros.policy.config import preset


def demonstrations(config: DemoConfig, work: Path, display: Display) -> dict:
    """Record the demonstrator's episodes into ``<work>/demonstrations``."""
    store = EpisodeStore.create_or_open(work / 'demonstrations')
    with display.bar('recording', config.demonstrations) as bar:
        successes = record_demonstrations(
            store, config.contract, config.demonstrations, config.noise_std,
            progress=lambda done, good: bar.update(done, f'({good} succeeded)'))
    display.line(f'{config.demonstrations} episodes, {successes} of them successful, in {store.path}')
    return {'episodes': config.demonstrations, 'successes': successes}


def supervised(config: DemoConfig, work: Path, display: Display) -> dict:
    """Train ``pi0_tiny`` on the demonstrations into ``<work>/sft``."""
    pairs = load_demonstrations(EpisodeStore.open(work / 'demonstrations'), config.contract)
    if pairs.left_out:
        display.line(pairs.left_out)
    losses: list[tuple[int, float]] = []
    network = network_for(config.contract, preset('pi0_tiny'), None, display)
    with display.bar('flow matching', config.sft.steps) as bar:
        def progress(step: int, loss: float) -> None:
            losses.append((step, loss))
            bar.update(step, f'(loss {loss:.3f})')
        policy = sft.train(pairs, config.contract, preset('pi0_tiny'), config.sft, 0, progress, network)
    (work / 'sft').mkdir(exist_ok=True)
    policy.save(work / 'sft')
    parameters = sum(parameter.numel() for parameter in policy.model.parameters())
    display.line(f'{parameters:,} parameters, {len(pairs.states):,} pairs, final loss {losses[-1][1]:.3f}')
    return {'parameters': parameters, 'pairs': len(pairs.states), 'loss': losses}


def evaluation(config: DemoConfig, policy: FlowPolicy, display: Display) -> dict:
    """Evaluate on the fixed held-out seeds, from random and from zero start noise."""
    results = {}
    with display.bar('held-out episodes', 2 * config.evaluation_episodes) as bar:
        for index, sampling in enumerate(('random', 'zero')):
            results[sampling] = evaluate(
                policy, config.evaluation_episodes, sampling=sampling,
                progress=lambda done, base=index * config.evaluation_episodes: bar.update(base + done)).to_dict()
    display.line(summary(results['random']) + ' from random start noise; '
                 f"{results['zero']['success_rate']:.1%} from zero noise; "
                 f"{results['random']['success_strict_rate']:.1%} by the strict rule")
    return {**results['random'], 'zero_sampling': results['zero']}


def summary(result: dict) -> str:
    """Return a success rate with its interval in words."""
    return (f"{result['successes']} of {result['episodes']} succeed, {result['success_rate']:.1%} "
            f"(95 % interval {result['wilson_low']:.1%} to {result['wilson_high']:.1%})")


def fine_tuning(config: DemoConfig, work: Path, display: Display) -> dict:
    """Fine-tune by FPO into ``<work>/fpo``, from where an interrupted process left it."""
    with TrainingTable(display, config.iterations) as table:
        _, history = finetune(FlowPolicy.load(work / 'sft'), work / 'fpo', config.fpo, config.iterations,
                              resume=True, force=config.force, on_iteration=table.add, on_restored=table.add,
                              on_phase=table.phase, on_warning=display.line)
    count = config.fpo.smoothing
    best = best_of(history, count)
    display.line(f"{history[-1]['control_steps']:,} control steps; best mean training success of {count} iterations "
                 f"{best['smoothed_success']:.1%} at iteration {best['iteration']}")
    return {'history': history}

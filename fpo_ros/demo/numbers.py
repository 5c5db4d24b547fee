"""The figures of a demo as one JSON object, in words, and against what the demo promises."""

from __future__ import annotations

from fpo_ros.demo.config import DemoConfig
from fpo_ros.policy.contract import CONTROL_RATE_HZ

#: Longest demo [s], largest memory of all its processes [bytes], largest error of the command rate.
FULL_LIMIT_S, QUICK_LIMIT_S = 35 * 60.0, 6 * 60.0
MEMORY_LIMIT_BYTES = 6e9
RATE_TOLERANCE = 0.02


def numbers(results: dict, seconds: dict[str, float], wall_s: float, peak_memory_bytes: int | None) -> dict:
    """Return the JSON object of the demo.

    :param results: what the stages returned, by stage.
    :param seconds: time of each stage [s].
    :param wall_s: time from the first stage to now, without the pauses of a resumed demo [s].
    :param peak_memory_bytes: None where part of the demo ran before and was not measured.
    """
    def rate(result: dict) -> dict:
        keys = ('successes', 'episodes', 'wilson_low', 'wilson_high', 'success_strict_rate')
        zero = {key: result['zero_sampling'][key] for key in keys}
        return {**{key: result[key] for key in keys}, 'zero_sampling': zero}
    sft, fpo = rate(results['sft_evaluation']), rate(results['fpo_evaluation'])
    return {'sft': sft, 'fpo': fpo, 'disjoint_intervals': fpo['wilson_low'] > sft['wilson_high'],
            'graph': {key: value for key, value in results['graph'].items() if key != 'runs'},
            'gate_refusal': results['release']['refusal'], 'stages': dict(seconds), 'wall_s': wall_s,
            'peak_memory_bytes': peak_memory_bytes}


def verdict(found: dict) -> tuple[str, str]:
    """Return whether FPO beats SFT, and whether the policy was swapped, in one sentence each."""
    sft, fpo = found['sft'], found['fpo']
    scenes = (f"{fpo['successes'] / fpo['episodes']:.1%} against {sft['successes'] / sft['episodes']:.1%} of "
              f"{sft['episodes']} held-out scenes")
    if found['disjoint_intervals']:
        learning = f'FPO beats SFT: {scenes}, the 95 % intervals lie apart'
    elif fpo['wilson_high'] < sft['wilson_low']:
        learning = f'FPO is worse than SFT: {scenes}, the 95 % intervals lie apart'
    else:
        learning = f'not shown that FPO beats SFT: {scenes}, the 95 % intervals overlap'
    if found['graph']['swaps']:
        return learning, 'the policy was swapped while the graph ran'
    return learning, f"the policy was not swapped: {found['gate_refusal'] or 'the policy node went on with SFT'}"


def broken_promises(found: dict, config: DemoConfig, quick: bool) -> list[str]:
    """Return one sentence for each promise that a demo did not keep."""
    graph, limit_s = found['graph'], QUICK_LIMIT_S if quick else FULL_LIMIT_S
    broken = []
    if graph['swaps'] < 1:
        broken.append(f'no hot swap ({verdict(found)[1]})')
    if graph['episodes'] != 2 * config.graph_episodes:
        broken.append(f"{graph['episodes']} episodes in the graph instead of {2 * config.graph_episodes}")
    for name in ('sft', 'fpo'):
        if found[name]['episodes'] != config.evaluation_episodes:
            broken.append(f"{name} evaluated on {found[name]['episodes']} scenes instead of "
                          f'{config.evaluation_episodes}')
    if found['wall_s'] > limit_s:
        broken.append(f"{found['wall_s']:.0f} s, more than {limit_s:.0f} s")
    if (found['peak_memory_bytes'] or 0) > MEMORY_LIMIT_BYTES:
        broken.append(f"{found['peak_memory_bytes'] / 1e9:.1f} GB of memory, more than {MEMORY_LIMIT_BYTES / 1e9:g} GB")
    if abs(graph['command_rate_hz'] / CONTROL_RATE_HZ - 1) > RATE_TOLERANCE:
        broken.append(f"commands at {graph['command_rate_hz']:.2f} Hz instead of {CONTROL_RATE_HZ:g} Hz")
    # From camera images half an hour is too short for a proof, and a quick demo has too few scenes.
    if not quick and not config.contract.cameras and not found['disjoint_intervals']:
        broken.append(verdict(found)[0])
    return broken

"""Figures of a running graph from the instants that were seen, and the bounds they must keep. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fpo_ros.policy.contract import CONTROL_RATE_HZ
from fpo_ros.runtime.controller_config import ArmState

#: What lies between an observation's stamp and the command that follows from it, in order; they add up to all of it.
STAGES = ('ingest', 'gate', 'inference', 'transport', 'tick', 'command')
#: What each stage is.
MEANING = {
    'ingest': 'stamp of the observation to its arrival',
    'gate': 'in the policy node, until it is answered',
    'inference': 'of the chunk',
    'transport': 'of the chunk to the controller',
    'tick': 'until the next control period begins',
    'command': 'limits, and transport of the command',
}
#: Keys of ``fpo-ros bench graph --json``.
KEYS = ('command_rate_hz', 'command_jitter_p99_ms', 'missed_ticks', 'observation_to_command_p50_ms',
        'observation_to_command_p99_ms', 'overhead_p50_ms', 'camera_drop_fraction', 'ingest_cpu_fraction',
        'hold_reaction_ms', 'bare_rate_hz', 'bare_jitter_p99_ms', 'bare_missed_ticks', 'bare_transport_p50_ms',
        'bare_subscriber_cpu_fraction', 'seconds')
PERIOD_MS = 1e3 / CONTROL_RATE_HZ


@dataclass(frozen=True)
class Tick:
    """A control period, as the controller's status tells of it.

    :param ticks: control periods since activation.
    :param stamp_ns: when it began [ns].
    :param missed: missed ones since activation.
    :param state: of the controller.
    :param remaining: rows that are still to come.
    :param sequence: of the chunk that is followed; 0 for none.
    :param command: (14,) newest command [rad, grippers 0..1].
    :param sent_ns: when the command of this period arrived where a driver would be [ns]; None: none was seen.
    """

    ticks: int
    stamp_ns: int
    missed: int
    state: ArmState
    remaining: int
    sequence: int
    command: tuple[float, ...]
    sent_ns: int | None = None


@dataclass(frozen=True)
class Chunk:
    """An action chunk, as its message tells of it.

    :param sequence: its number.
    :param observed_ns: stamp of the observation it answers [ns].
    :param stamp_ns: when it was published [ns].
    :param arrived_ns: when it arrived [ns].
    :param inference_ns: how long it was computed [ns].
    """

    sequence: int
    observed_ns: int
    stamp_ns: int
    arrived_ns: int
    inference_ns: int


def answers(chunks: Sequence[Chunk], observations: Mapping[int, int], ticks: Sequence[Tick]) -> list[dict[str, float]]:
    """Return the stages of every chunk that was seen all the way from its observation to a command [ms].

    :param observations: stamp of an observation → when it arrived [ns].
    :param ticks: in order.
    """
    first: dict[int, Tick] = {}
    for tick in ticks:
        first.setdefault(tick.sequence, tick)
    found = []
    for chunk in chunks:
        arrived, tick = observations.get(chunk.observed_ns), first.get(chunk.sequence)
        if arrived is None or tick is None or tick.sent_ns is None:
            continue
        instants = (chunk.observed_ns, arrived, chunk.stamp_ns - chunk.inference_ns, chunk.stamp_ns,
                    chunk.arrived_ns, tick.stamp_ns, tick.sent_ns)
        found.append(dict(zip(STAGES, (np.diff(instants) * 1e-6).tolist(), strict=True)))
    return found


def latencies(found: Sequence[Mapping[str, float]], bare_ms: float) -> dict[str, float]:
    """Return p50 and p99 from observation to command, and the p50 of what is neither inference nor bare transport [ms].

    What is left of a chunk's time then includes waiting for the control period.

    :param found: of :func:`answers`.
    :param bare_ms: transport of the same messages between bare nodes, p50 [ms].
    :raises ValueError: where no chunk was seen.
    """
    if not found:
        raise ValueError('no chunk was seen from its observation to its command: is the machine overloaded?')
    totals = np.array([sum(one[stage] for stage in STAGES) for one in found])
    inference = np.array([one['inference'] for one in found])
    return {'observation_to_command_p50_ms': percentile(totals, 50),
            'observation_to_command_p99_ms': percentile(totals, 99),
            'overhead_p50_ms': percentile(totals - inference, 50) - bare_ms}


def percentile(values: Sequence[float] | np.ndarray, percent: float) -> float:
    """Return the smallest of the values that so many percent of them do not exceed."""
    ordered = np.sort(np.asarray(values, np.float64))
    return float(ordered[max(0, int(np.ceil(percent / 100 * len(ordered))) - 1)])


def hold_after_rows(ticks: Sequence[Tick]) -> float | None:
    """Return the time from the last row of the last chunk to the first command that stays [ms].

    :param ticks: in order, from when chunks still came; the last ones have no row.
    :returns: None where rows never ended, or too few periods without were seen.
    """
    rows = [index for index, tick in enumerate(ticks) if tick.remaining]
    if not rows or rows[-1] + 3 > len(ticks):
        return None
    last = rows[-1] + 1  # nothing remains once the last row is sent
    for index in range(last + 1, len(ticks)):
        if all(tick.command == ticks[index].command for tick in ticks[index:]):
            return (ticks[index].stamp_ns - ticks[last].stamp_ns) * 1e-6
    return None


def hold_after_joints(ticks: Sequence[Tick], newest_ns: int, limit_s: float) -> float | None:
    """Return the time from when the newest joint states were too old to the control period that holds [ms].

    :param newest_ns: stamp of the newest joint states of the arm that fell silent [ns].
    :param limit_s: age at which they are too old [s].
    :returns: None where the controller did not hold after that stamp.
    """
    held = next((tick.stamp_ns for tick in ticks if tick.state is ArmState.HOLD and tick.stamp_ns > newest_ns), None)
    return None if held is None else (held - newest_ns) * 1e-6 - limit_s * 1e3


@dataclass(frozen=True)
class Verdict:
    """A figure beside what it must keep.

    :param what: in words.
    :param measured: with its unit.
    :param bound: with what it comes from.
    :param kept: whether it is.
    """

    what: str
    measured: str
    bound: str
    kept: bool


def verdicts(found: Mapping[str, Any]) -> list[Verdict]:
    """Return a line for each bound of a run.

    :param found: figures with the keys :data:`KEYS`.
    """
    rate, bare_rate = found['command_rate_hz'], found['bare_rate_hz']
    jitter, bare_jitter = found['command_jitter_p99_ms'], found['bare_jitter_p99_ms']
    missed = found['bare_missed_ticks'] + max(1.0, found['seconds'] / 60)
    cpu, bare_cpu = found['ingest_cpu_fraction'], found['bare_subscriber_cpu_fraction']
    hold = 2 * PERIOD_MS + bare_jitter
    return [
        Verdict('command rate', f'{rate:.3f} Hz', f'within 0.2 % of the bare loop, {bare_rate:.3f} Hz',
                abs(rate - bare_rate) <= 0.002 * bare_rate),
        Verdict('error of a period, p99', f'{jitter:.2f} ms', f'bare loop + 1 ms, {bare_jitter + 1:.2f} ms',
                jitter <= bare_jitter + 1),
        Verdict('missed control periods', f'{found["missed_ticks"]}', f'bare loop + 1 a minute, {missed:.0f}',
                found['missed_ticks'] <= missed),
        Verdict('observation to command beyond inference and bare transport, p50', f'{found["overhead_p50_ms"]:.1f} ms',
                '10 ms', found['overhead_p50_ms'] <= 10),
        Verdict('camera frames lost', f'{found["camera_drop_fraction"]:.3%}', '0.1 %',
                found['camera_drop_fraction'] <= 0.001),
        Verdict('CPU of camera_ingest', f'{cpu:.1%}', f'1.5 times a bare subscriber that copies, {1.5 * bare_cpu:.1%}',
                cpu <= 1.5 * bare_cpu),
        Verdict('hold after the last row, or once joint states are older than their limit',
                f'{found["hold_reaction_ms"]:.1f} ms', f'2 periods + p99 of the bare loop, {hold:.1f} ms',
                found['hold_reaction_ms'] <= hold),
    ]

"""Time until new weights answer, and what a control loop in a process beside notices of it."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from fpo_ros.bench.control_loop import ControlLoop
from fpo_ros.policy.contract import Observation
from fpo_ros.releases import Release
from fpo_ros.runtime.swap import PolicySlot

#: Time in which a release must have been checked [s].
_LIMIT_S = 120.0


def measure_swaps(slot: PolicySlot, releases: Sequence[Release], observation: Observation,
                  swaps: int) -> dict[str, float]:
    """Return the median time from an offer to the end of the first chunk of the new policy, and the longest gaps.

    Chunks are sampled without a pause, with and without changes, for equal times in turns.

    :param slot: serves nothing yet.
    :param releases: two releases that differ.
    :param swaps: changes to measure.
    :raises RuntimeError: when a release is refused or does not answer in time.
    """
    _until_answered(slot, releases[0], observation)
    loop, durations, gaps = ControlLoop(), [], {'with': 0.0, 'without': 0.0}

    def change(release: Release) -> None:
        durations.append(_until_answered(slot, release, observation))

    def go_on() -> None:
        end = time.perf_counter() + durations[-1]
        while time.perf_counter() < end:
            slot.infer(observation)

    try:
        for index in range(swaps):
            gaps['with'] = max(gaps['with'], loop.longest_gap_of(lambda one=index: change(releases[1 - one % 2])))
            gaps['without'] = max(gaps['without'], loop.longest_gap_of(go_on))
    finally:
        loop.close()
    return {'swap_ms': float(np.median(durations)) * 1e3, 'max_tick_gap_ms': gaps['with'] * 1e3,
            'max_tick_gap_without_swaps_ms': gaps['without'] * 1e3}


def _until_answered(slot: PolicySlot, release: Release, observation: Observation) -> float:
    """Offer a release and sample chunks until it answers; return how long that took [s]."""
    started = time.perf_counter()
    slot.offer(release)
    while slot.session is None or slot.session.version != release.version:
        if slot.session is not None:
            slot.infer(observation)
        elif slot.wait(_LIMIT_S):
            slot.at_chunk_edge()
        if slot.refusals or time.perf_counter() - started > _LIMIT_S:
            why = slot.last_refusal or f'it was not checked within {_LIMIT_S:g} s'
            raise RuntimeError(f'release {release.version} does not answer: {why}')
    return time.perf_counter() - started

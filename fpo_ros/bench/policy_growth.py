"""How the time of a chunk grows with cameras, chunk length, flow steps and batch."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fpo_ros.bench.policy import VARIANTS, observation_of, stats_of, untrained
from fpo_ros.bench.recomputing import bare
from fpo_ros.policy.contract import PolicyContract
from fpo_ros.policy.tokenizer import tokens_of
from fpo_ros.policy.transforms import model_inputs
from fpo_ros.runtime.export import export
from fpo_ros.runtime.providers import open_graph
from fpo_ros.runtime.release_files import DENOISE_FILE, PREFIX_FILE
from fpo_ros.runtime.session import PolicySession

#: What is varied, one at a time, about one camera, chunks of 20 rows, 10 steps and single observations.
AXES = {'cameras': (1, 2, 3, 4), 'horizon': (20, 50, 100), 'flow_steps': (1, 5, 10, 20), 'batch': (1, 2, 4)}
_ROUNDS = {'pi0_tiny': 100, 'pi0_small': 9}
#: ALOHA's cameras.
_CAMERAS = ('cam_high', 'cam_low', 'cam_left_wrist', 'cam_right_wrist')


def measure_growth(variant: str, provider: str, report: Callable[[str], None], axes: dict[str, tuple[int, ...]] = AXES,
                   rounds: int | None = None) -> list[dict[str, Any]]:
    """Return ``axis``, ``value`` and ``p50_ms`` of each; all of them take turns, one thread each.

    A batch is timed without reading observations and writing chunks, which are made one by one.

    :param variant: key of ``fpo_ros.bench.policy.VARIANTS``.
    :param provider: what runs the graphs.
    :param rounds: chunks of each; as the variant needs if None.
    """
    rounds, base = rounds or _ROUNDS[variant], replace(VARIANTS[variant], observation='pixels', cameras=_CAMERAS[:1])
    with tempfile.TemporaryDirectory(prefix='fpo_ros-growth-') as directory:
        places: dict[PolicyContract, Path] = {}

        def place_of(contract: PolicyContract) -> Path:
            if contract not in places:
                places[contract] = Path(directory) / str(len(places))
                places[contract].mkdir()
                export(untrained(contract, variant), places[contract], vectors=1, guided=False)
            return places[contract]

        rows: list[tuple[str, int, Callable[[], Any]]] = []
        for axis, value in ((axis, value) for axis, values in axes.items() for value in values):
            report(f'exporting {variant} for {axis} {value}')
            rows.append((axis, value, _batch(place_of(base), base, provider, value) if axis == 'batch' else
                         _chunk(place_of(_changed(base, axis, value)), provider)))
        report(f'{rounds} rounds of {len(rows)}')
        durations = np.zeros((rounds + 1, len(rows)))
        for turn in durations:
            for index, (*_, work) in enumerate(rows):
                started = time.perf_counter()
                work()
                turn[index] = time.perf_counter() - started
        p50 = np.median(durations[1:], 0) * 1e3  # the first round warms up
    return [{'axis': axis, 'value': value, 'p50_ms': float(found)}
            for (axis, value, _), found in zip(rows, p50, strict=True)]


def _changed(base: PolicyContract, axis: str, value: int) -> PolicyContract:
    if axis == 'cameras':
        return replace(base, cameras=_CAMERAS[:value])
    if axis == 'horizon':
        return replace(base, horizon=value, execute=min(value, base.execute))
    return replace(base, **{axis: value})


def _chunk(place: Path, provider: str) -> Callable[[], Any]:
    session = PolicySession.load(place, provider)
    observation = observation_of(session.contract)
    return lambda: session.infer(observation)


def _batch(place: Path, contract: PolicyContract, provider: str, size: int) -> Callable[[], Any]:
    """Return what runs both graphs on several observations at once."""
    found = bare(PolicySession.load(place, provider).provider)  # one of 'auto', for one
    prefix, flow = (open_graph(path, path, found, lengths={'batch': size})
                    for path in (place / PREFIX_FILE, place / DENOISE_FILE))
    inputs = model_inputs(observation_of(contract), contract, stats_of(contract))
    inputs = {name: np.repeat(value, size, 0) for name, value in inputs.items()}
    tokens = np.repeat(tokens_of(contract)[None], size, 0)
    noise = np.zeros((size, contract.horizon, contract.action_dim), np.float32)

    def run() -> Any:
        cache = prefix.run(None, {'tokens': tokens, 'images': inputs['images']})[0]
        return flow.run(None, {'noise': noise, 'state': inputs['state'], 'prefix_kv': cache})

    return run

"""What writing and reading an episode takes, beside NumPy's files of the same arrays and zarr's reader."""

from __future__ import annotations

import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np

from fpo_ros.episodes import EpisodeStore
from fpo_ros.files import sync_dir, write_file
from fpo_ros.policy.contract import CONTROL_RATE_HZ

#: Steps of an episode.
STEPS = 400
#: The most that is promised of ratios of medians.
PROMISES = {'read_over_npz': 3.0, 'read_over_zarr': 0.5}


def episode_arrays(seed: int) -> dict[str, np.ndarray]:
    """Return what :data:`STEPS` control steps from states record, different in every element."""
    rng = np.random.default_rng(seed)
    return {'joint_positions': rng.normal(size=(STEPS, 14)).astype(np.float32),
            'action': rng.normal(size=(STEPS, 14)).astype(np.float32),
            'reward': rng.normal(size=STEPS).astype(np.float32),
            'timestamp': np.arange(STEPS) / CONTROL_RATE_HZ,
            'object_pose': rng.normal(size=(STEPS, 7)).astype(np.float32)}


def measure(episodes: int, directory: Path | None, report: Callable[[str], None]) -> dict[str, float | int | None]:
    """Write each episode to the store and as one NumPy file, until the disk has it, then read it by every reader.

    :param directory: on the disk that is to be measured; None: the system's directory for temporary files.
    :returns: medians [ms] and their ratios; those of zarr are None where it is not installed.
    :raises RuntimeError: where a reader returns other arrays.
    """
    with tempfile.TemporaryDirectory(prefix='fpo_ros-episodes-', dir=directory) as place:
        root, spent = Path(place), {'write': [], 'npz_write': [], 'read': [], 'npz_read': [], 'zarr_read': []}
        store = EpisodeStore.create_or_open(root / 'store')
        report(f'{episodes} episodes of {STEPS} steps, written until the disk has them')
        for seed in range(episodes):
            arrays = episode_arrays(seed)
            meta = {'task': 'transfer_cube', 'prompt': 'Transfer cube', 'observation': 'state', 'source': 'expert',
                    'created': '2026-01-01T00:00:00+00:00', 'seed': seed}
            spent['write'].append(_timed(lambda arrays=arrays, meta=meta: store.write(arrays, meta))[0])
            spent['npz_write'].append(_timed(lambda arrays=arrays, path=root / f'{seed}.npz': _savez(path, arrays))[0])
        readers = _readers(store, root)
        if 'zarr' not in readers:
            report("zarr is not installed, so its reader is not compared: pip install 'zarr>=3'")
        report('reading them')
        for seed, name in enumerate(store.ids()):
            written = episode_arrays(seed)
            for reader, read in readers.items():
                took, arrays = _timed(lambda read=read, seed=seed, name=name: read(seed, name))
                spent['read' if reader == 'store' else f'{reader}_read'].append(took)
                if any(not np.array_equal(arrays[key], value) for key, value in written.items()):
                    raise RuntimeError(f'the reader {reader} returns other arrays than were written')
    found = {f'{name}_ms': statistics.median(times) if times else None for name, times in spent.items()}
    ratios = {'write_over_npz': ('write_ms', 'npz_write_ms'), 'read_over_npz': ('read_ms', 'npz_read_ms'),
              'read_over_zarr': ('read_ms', 'zarr_read_ms')}
    return {'episodes': episodes, 'steps': STEPS} | found | {
        name: found[ours] / found[theirs] if found[theirs] else None for name, (ours, theirs) in ratios.items()}


def broken_promises(found: dict[str, float | int | None]) -> list[str]:
    """Return which ratios are above what is promised."""
    return [f'{name} is {found[name]:.2f}, promised at most {most}' for name, most in PROMISES.items()
            if found[name] is not None and found[name] > most]


def in_words(found: dict[str, float | int | None]) -> list[str]:
    """Return the result in lines."""
    lines = [f'an episode written: {found["write_ms"]:.2f} ms, {found["write_over_npz"]:.2f} times as long as a NumPy '
             f'file of it ({found["npz_write_ms"]:.2f} ms)',
             f'an episode read: {found["read_ms"]:.2f} ms, {found["read_over_npz"]:.2f} times as long as that file '
             f'({found["npz_read_ms"]:.2f} ms)']
    if found['zarr_read_ms'] is not None:
        lines.append(f'zarr reads it in {found["zarr_read_ms"]:.2f} ms: ratio {found["read_over_zarr"]:.2f}')
    return lines


def _readers(store: EpisodeStore, root: Path) -> dict[str, Callable[[int, str], dict[str, np.ndarray]]]:
    def load(seed: int, name: str) -> dict[str, np.ndarray]:
        with np.load(root / f'{seed}.npz') as file:
            return {key: file[key] for key in file}

    readers = {'store': lambda seed, name: {key: np.asarray(value) for key, value in store.read(name).arrays.items()},
               'npz': load}
    if importlib.util.find_spec('zarr'):
        import zarr

        def arrays_of(seed: int, name: str) -> dict[str, np.ndarray]:
            group = zarr.open_group(str(store.path / name), mode='r')
            return {key: array[:] for key, array in group.arrays()}

        readers['zarr'] = arrays_of
    return readers


def _savez(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write one file as durably as the store does."""
    content = BytesIO()
    np.savez(content, **arrays)
    write_file(path, content.getbuffer())
    sync_dir(path.parent)


def _timed(act: Callable[[], object]) -> tuple[float, object]:
    """Return what a call took [ms] and its result."""
    begin = time.perf_counter()
    result = act()
    return (time.perf_counter() - begin) * 1e3, result

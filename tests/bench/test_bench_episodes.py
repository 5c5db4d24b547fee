"""The times of the episode store beside NumPy's files and zarr's reader."""

from __future__ import annotations

import importlib.util
import json

import pytest

from fpo_ros import cli
from fpo_ros.bench import episodes as bench


def test_what_is_written_is_read_by_every_reader_and_nothing_stays(tmp_path):
    said = []
    found = bench.measure(3, tmp_path, said.append)
    assert found['episodes'] == 3 and found['steps'] == 400 and not list(tmp_path.iterdir())
    assert found['write_over_npz'] == found['write_ms'] / found['npz_write_ms'] > 0
    assert found['read_over_npz'] == found['read_ms'] / found['npz_read_ms'] > 0
    there = importlib.util.find_spec('zarr') is not None
    assert (found['zarr_read_ms'] is not None) == (found['read_over_zarr'] is not None) == there
    assert any('zarr is not installed' in line for line in said) != there


def test_a_reader_that_returns_other_arrays_is_named(tmp_path, monkeypatch):
    plain = bench.np.load

    class Other(dict):
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    def load(path):
        with plain(path) as file:
            return Other({key: file[key] + 1 for key in file})

    monkeypatch.setattr(bench.np, 'load', load)
    with pytest.raises(RuntimeError, match='the reader npz returns other arrays'):
        bench.measure(1, tmp_path, lambda line: None)


def test_slow_reading_breaks_the_promise():
    assert bench.broken_promises({'read_over_npz': 2.9, 'read_over_zarr': None}) == []
    assert bench.broken_promises({'read_over_npz': 3.1, 'read_over_zarr': 0.6}) == [
        'read_over_npz is 3.10, promised at most 3.0', 'read_over_zarr is 0.60, promised at most 0.5']


def test_the_command_line_prints_the_ratios(capsys, tmp_path):
    with pytest.raises(SystemExit) as end:
        cli.main(['bench', 'episodes', '--episodes', '2', '--directory', str(tmp_path), '--json'])
    assert end.value.code == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out.splitlines()[-1])['episodes'] == 2 and 'an episode read:' in printed.err

"""Recording and reading keep up with simulation and learning."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

import pytest
from episode_data import META, steps

import fpo_ros.files

#: Allowed time [s], several times what a small machine needs.
WRITE_S, READ_S = 0.3, 2.0


@pytest.mark.serial
def test_an_episode_of_400_steps_is_written_in_time(store):
    data, spent = steps(400), []
    for seed in range(20):
        begin = time.perf_counter()
        store.write(data, META | {'seed': seed})
        spent.append(time.perf_counter() - begin)
    assert statistics.median(spent) < WRITE_S


@pytest.mark.serial
def test_200_episodes_of_400_steps_are_read_in_time(store, monkeypatch):
    data = steps(400)
    monkeypatch.setattr(fpo_ros.files.os, 'fsync', lambda fd: None)  # writing is not what is timed here
    for seed in range(200):
        store.write(data, META | {'seed': seed})
    begin = time.perf_counter()
    total = sum(array.size for episode in store.iter() for array in episode.arrays.values())
    assert time.perf_counter() - begin < READ_S
    assert total == 200 * sum(array.size for array in data.values())


def test_the_robot_side_loads_neither_torch_nor_ros():
    script = ('import sys, fpo_ros.episodes.cli, fpo_ros.releases.cli; '
              "print([name for name in ('torch', 'rclpy', 'zarr', 'mujoco') if name in sys.modules])")
    result = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True, timeout=60,
                            check=True, env={'PYTHONPATH': ':'.join(filter(None, sys.path))})
    assert result.stdout == '[]\n'

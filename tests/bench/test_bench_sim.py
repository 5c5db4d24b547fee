"""``fpo-ros bench sim``: what it prints, and when it refuses to compare."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from fpo_ros.bench import simulation

#: Keys that others read.
KEYS = ('control_steps_per_s', 'native_limit_control_steps_per_s', 'gym_aloha_control_steps_per_s',
        'gym_aloha_no_render_control_steps_per_s', 'render_fps', 'gym_aloha_render_fps', 'pixel_episodes_per_s',
        'gym_aloha_pixel_episodes_per_s', 'bytes_per_world', 'cores')


@pytest.mark.timeout(300)
def test_the_quick_benchmark_prints_every_figure_and_draws_growth(tmp_path):
    plot = tmp_path / 'new' / 'growth.svg'
    command = ['bench', 'sim', '--quick', '--json', '--growth', str(plot)]
    done = subprocess.run([sys.executable, '-m', 'fpo_ros.cli', *command],
                          capture_output=True, text=True, timeout=280, env=os.environ | {'OMP_NUM_THREADS': '1'})
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(KEYS) <= set(found) and all(found[key] > 0 for key in KEYS)
    for name, ours, baseline in simulation.RATIOS:
        assert found[name] == pytest.approx(found[ours] / found[baseline])
    assert {(row['worlds'], row['threads']) for row in found['growth']} >= {(1, 1), (16, 1)}
    assert '<svg' in plot.read_text()
    assert 'kB per world' in done.stderr and 'share of native limit' in done.stderr


def test_a_plot_of_an_unknown_kind_is_refused_before_anything_is_measured():
    done = subprocess.run([sys.executable, '-m', 'fpo_ros.cli', 'bench', 'sim', '--growth', 'growth.docx'],
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and 'growth.docx is no name of a picture: end it in .png or .svg' in done.stderr


def test_promises_that_are_broken_are_named():
    found = dict.fromkeys(simulation.PROMISES, 1e9) | {'peak_bytes_1024_worlds': 1e9}
    assert simulation.broken_promises(found) == []
    found |= {'share_of_native_limit': 0.85, 'peak_bytes_1024_worlds': 4.2e9}
    assert simulation.broken_promises(found) == ['share_of_native_limit is 0.85, promised 0.9',
                                                 '1,024 worlds took 4.2 GB, promised 4']


def test_figures_of_different_simulations_are_not_compared(monkeypatch):
    wrong = np.full((2, simulation.MAX_STEPS), 3.0)
    monkeypatch.setattr(simulation, 'gym_aloha_without_pictures', lambda targets: (1.0, wrong[:len(targets)]))
    with pytest.raises(RuntimeError, match='gym-aloha did not simulate the same'):
        simulation.physics(simulation.Sizes(worlds=2, rounds=1))

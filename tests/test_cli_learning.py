"""The command line from demonstrations to an evaluation, and its interrupts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from unittest import mock

import numpy as np
import pytest

from fpo_ros.learning import rollout
from fpo_ros.policy.checkpoint import FlowPolicy
from fpo_ros.policy.config import preset
from fpo_ros.policy.contract import START_JOINTS, PolicyContract
from fpo_ros.policy.normalisation import NormStats
from fpo_ros.policy.pi0 import Pi0


@pytest.fixture
def short():
    """Cap simulated episodes at two decisions."""
    with mock.patch.object(rollout, 'MAX_STEPS', 50):
        yield


def test_record_train_fine_tune_export_and_evaluate(fpo_ros, tmp_path, short):
    work = tmp_path
    code, out, err = fpo_ros('record', '--store', work / 'store', '--episodes', 2, '--noise', 0.0)
    assert (code, err) == (0, '') and '2 of them successful' in ' '.join(out.split())
    code, out, _ = fpo_ros(
        'train', 'sft', '--demonstrations', work / 'store', '--out', work / 'sft', '--steps', 2, '--batch', 8
    )
    assert code == 0 and '2 episodes' in ' '.join(out.split())
    code, out, _ = fpo_ros(
        'train',
        'fpo',
        '--run',
        work / 'fpo',
        '--policy',
        work / 'sft',
        '--episodes',
        2,
        '--iterations',
        1,
        '--demonstrations',
        work / 'store',
    )
    assert code == 0 and 'iteration 1' in out
    code, _, err = fpo_ros('train', 'fpo', '--run', work / 'fpo', '--policy', work / 'sft', '--episodes', 2)
    assert code == 1 and '--resume' in err
    code, out, err = fpo_ros(
        'train', 'fpo', '--run', work / 'fpo', '--episodes', 2, '--iterations', 1, '--resume'
    )
    assert code == 0, err
    code, out, err = fpo_ros('export', '--policy', work / 'fpo' / 'best', '--out', work / 'onnx')
    assert code == 0 and 'ONNX differs from torch' in ' '.join(out.split())
    assert {'prefix.onnx', 'denoise.onnx', 'guided.onnx', 'vectors.npz', 'contract.json', 'norm_stats.json'} == {
        entry.name for entry in (work / 'onnx').iterdir()
    }
    code, out, err = fpo_ros(
        'eval', '--policy', work / 'fpo' / 'best', '--episodes', 2, '--sampling', 'zero', '--json'
    )
    assert code == 0
    result = json.loads(out)
    code, out, err = fpo_ros(
        'eval', '--policy', work / 'fpo' / 'best', '--task', 'transfer_cube', '--episodes', 2, '--sampling', 'zero',
        '--json'
    )
    assert code == 0, err
    assert {**json.loads(out), 'wall_s': 0} == {**result, 'wall_s': 0}, 'the task is that of the policy anyway'
    assert (
        result['episodes'] == 2
        and 0 <= result['wilson_low'] <= result['success_rate'] <= result['wilson_high']
    )


def test_an_interrupt_signal_ends_training_cleanly(tmp_path):
    """Ctrl-C in a real process: one line, code 130, and the run can go on."""
    contract = PolicyContract()
    stats = NormStats(np.zeros(21), np.ones(21), START_JOINTS, np.full(14, 0.1))
    (tmp_path / 'policy').mkdir()
    FlowPolicy(Pi0(preset('pi0_tiny'), contract), stats).save(tmp_path / 'policy')
    command = [
        sys.executable,
        '-m',
        'fpo_ros.cli',
        'train',
        'fpo',
        '--run',
        str(tmp_path / 'run'),
        '--policy',
        str(tmp_path / 'policy'),
        '--episodes',
        '2',
        '--max-steps',
        '50',
        '--iterations',
        '1000',
    ]
    interrupted, err = interrupt_after_one_iteration(command)
    assert interrupted == 130 and '--resume' in err and 'Traceback' not in err
    # Wherever the signal struck, the run goes on: it does one iteration more than there were.
    done = len((tmp_path / 'run' / 'progress.jsonl').read_text().splitlines())
    resumed = subprocess.run([*command[:-1], str(done + 1), '--resume'], capture_output=True, text=True, check=False)
    assert resumed.returncode == 0, resumed.stderr
    assert FlowPolicy.load(tmp_path / 'run' / 'best').contract == contract


def interrupt_after_one_iteration(command: list[str]) -> tuple[int, str]:
    """Run a command, send it SIGINT behind its first iteration; return its exit code and errors."""
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, 'PYTHONUNBUFFERED': '1'},
    )
    try:
        for line in process.stdout:
            if 'iteration 1' in line:
                break
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, err

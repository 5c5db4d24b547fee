"""The trainer as a worker process: one per run directory, nicer than the arms, never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from fpo_ros.nodes.logic.trainer_process import TrainerProcess

torch = pytest.importorskip('torch', reason='training needs torch')

LEARNER = """
import sys, time
from pathlib import Path
from fpo_ros.nodes.logic.trainer_process import TrainerProcess
trainer = TrainerProcess(Path(sys.argv[1]), ['--policy', sys.argv[2], '--iterations', '1000', '--episodes', '2'],
                         False, 1, 1)
print(trainer.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    """A directory with a policy that a run can start from."""
    from fpo_ros.policy.checkpoint import FlowPolicy
    from fpo_ros.policy.config import preset
    from fpo_ros.policy.contract import START_JOINTS, PolicyContract
    from fpo_ros.policy.normalisation import NormStats
    from fpo_ros.policy.pi0 import Pi0

    contract = PolicyContract()
    stats = NormStats(np.zeros(contract.state_dim), np.ones(contract.state_dim), START_JOINTS, np.full(14, 0.05))
    (tmp_path / 'policy').mkdir()
    FlowPolicy(Pi0(preset('pi0_tiny'), contract), stats).save(tmp_path / 'policy')
    return tmp_path / 'policy'


@pytest.mark.timeout(300)  # much of it is the start of Python in the nicest process of a busy machine
def test_killed_learner_takes_its_trainer_along_and_the_run_is_free_again(tmp_path, policy) -> None:
    run = tmp_path / 'run'
    learner = subprocess.Popen([sys.executable, '-c', LEARNER, str(run), str(policy)], text=True,
                               stdout=subprocess.PIPE)
    try:
        trainer = psutil.Process(int(learner.stdout.readline()))
        deadline = time.monotonic() + 90.0
        while not (run / 'progress.jsonl').exists():
            assert time.monotonic() < deadline, 'waited 90 s for the trainer to begin'
            time.sleep(0.1)
        assert trainer.nice() == min(os.nice(0) + 1, 19), 'nicer than what started it'
        assert os.getsid(trainer.pid) == os.getsid(learner.pid), 'niceness counts within a session alone'
        assert os.getpgid(trainer.pid) == trainer.pid
        with pytest.raises(OSError, match=rf'another trainer \(process {trainer.pid}\) works in this run'):
            TrainerProcess(run, [], True, 0, 1)
    finally:
        learner.send_signal(signal.SIGKILL)
        learner.wait()
    assert not psutil.wait_procs([trainer], 60.0)[1], 'the trainer must end with its learner'
    again = TrainerProcess(run, ['--no-such-option'], True, 0, 1)
    assert again._process.wait(60.0) == 2
    assert again.last_output()
    again.stop()

"""Several processes train as one: equal up to the order of float additions, and none waits for ever."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import tiny_task
import train_parallel
from free_port import free_port
from launched import environment, launcher
from runs import CLOCK, files, newest, progress
from safetensors.torch import load_file

from fpo_ros.learning.config import FPOConfig
from fpo_ros.learning.finetune import finetune

HERE = Path(__file__).parent
pytestmark = pytest.mark.timeout(300)  # many processes that start one after the other
#: Of weights, which training has moved by 500 times as much; and of metrics, relative.
TOLERANCE, METRICS = 1e-6, 2e-4
#: Runs of two iterations or so, in every way in which work is dealt out. What an iteration's first step standardises
#: is rounding errors alone: a second iteration would magnify those of the first.
RUNS = {
    'fpo': {'settings': {'episodes': 7}},
    'stopped': {'settings': {'learning_rate': 5e-4, 'drift_stop': 1e-6}},
    'standardised': {'settings': {'objective': {'ratio': 'standardised'}}, 'iterations': 1},
    'awr': {'settings': {'algorithm': 'awr', 'drift_stop': FPOConfig().drift_stop}},
    'restored': {'settings': {'episodes': 6}, 'iterations': 3, 'restores': True},
    'narrowed': {'settings': {'episodes': 6, 'smoothing': 1, 'patience': 1, 'narrow_steps': 6,
                              'narrow_learning_rate': 3e-4}, 'iterations': 4},
    'lora': {'settings': {'placement': 'lora', 'lora_rank': 2, 'episodes': 6}, 'iterations': 3, 'restores': True},
}


def script(directory: Path, *runs: dict) -> list[str]:
    return [str(HERE / 'train_parallel.py'), str(directory), json.dumps([{'name': 'run', **run} for run in runs])]


def launch(*words: str, restarts: int = 0) -> subprocess.CompletedProcess:
    """Run two processes on this machine."""
    return subprocess.run([*launcher('--standalone', '--max-restarts', restarts), '2', *words], env=environment(),
                          timeout=240, capture_output=True, text=True)


@pytest.fixture(scope='module')
def both(tmp_path_factory) -> Path:
    """Return the directory of :data:`RUNS` of two processes, and of one that was resumed."""
    directory = tmp_path_factory.mktemp('both')
    halves = [{'name': 'resumed', **RUNS['fpo'], 'iterations': 1}, {'name': 'resumed', **RUNS['fpo'], 'resume': True}]
    done = launch(*script(directory, *({'name': name, **run} for name, run in RUNS.items()), *halves))
    assert done.returncode == 0 and 'Error' not in done.stderr, done.stderr
    return directory


def alone(run: Path, settings: dict | None = None, iterations: int = 2, resume: bool = False,
          restores: bool = False) -> Path:
    with train_parallel.restoring() if restores else nullcontext():
        config = train_parallel.config(**settings or {})
        finetune(tiny_task.policy(), run, config, iterations, resume=resume,
                 demonstrations=tiny_task.pairs() if config.imitates_recorded else None)
    return run


def differences(one: Path, other: Path) -> dict[str, float]:
    """Return the largest difference of every tensor in the newest checkpoints of two runs."""
    found = {}
    for path in newest(one).glob('*.safetensors'):
        tensors, others = load_file(path), load_file(newest(other) / path.name)
        assert tensors.keys() == others.keys()
        for name, value in tensors.items():
            assert value.shape == others[name].shape, name
            if value.numel():
                found[f'{path.stem}/{name}'] = float((value.double() - others[name].double()).abs().max())
    return found


@pytest.mark.parametrize('case', RUNS)
def test_two_processes_train_what_one_does(case, both, waist_task, tmp_path):
    one = alone(tmp_path, **RUNS[case])
    apart = differences(one, both / case)
    start, end = (load_file(path / 'policy.safetensors') for path in (one / 'start', newest(one)))
    assert max(float((end[name] - value).abs().max()) for name, value in start.items()) > 500 * TOLERANCE
    assert max(value for name, value in apart.items() if name.startswith('policy/')) < TOLERANCE
    assert apart['learner/generator'] == 0
    for entry, other in zip(progress(one), progress(both / case), strict=True):
        assert entry.keys() == other.keys()
        for name in entry.keys() - CLOCK:
            exact = not isinstance(entry[name], float)
            assert other[name] == entry[name] if exact else other[name] == pytest.approx(
                entry[name], rel=METRICS, abs=TOLERANCE), name
    reported = {'awr': {'weighted_loss'}, 'narrowed': {'bc_loss'}}
    assert reported.get(case, {'bc_loss', 'drift'}) <= entry.keys() and entry['narrowed'] == (case == 'narrowed')
    assert (entry['steps_taken'] < 1) == (case == 'stopped')
    assert any('restored' in entry for entry in progress(one)) == ('restores' in RUNS[case] or case == 'narrowed')


def test_a_run_of_two_processes_goes_on_in_two_or_in_one(both, waist_task, tmp_path):
    resumed = both / 'resumed'
    assert max(differences(both / 'fpo', resumed).values()) == 0 and len(progress(resumed)) == 2
    run = Path(shutil.copytree(resumed, tmp_path / 'run'))
    alone(run, **RUNS['fpo'] | {'iterations': 3}, resume=True)
    assert [entry['iteration'] for entry in progress(run)] == [1, 2, 3]


def spawn(*words: str | Path) -> list[subprocess.Popen]:
    """Start two processes that no launcher watches: each must end by itself."""
    known = {'WORLD_SIZE': 2, 'LOCAL_WORLD_SIZE': 2, 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': free_port()}
    return [subprocess.Popen([sys.executable, *words], env=environment(RANK=rank, **known),
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for rank in range(2)]


def test_no_process_waits_for_one_that_is_gone_and_all_stop_where_one_cannot_be_trusted(both, tmp_path):
    faults = ('spoils', 'drifts', 'dies')
    held = shutil.copytree(both / 'awr', tmp_path / 'held')
    first, second = spawn(*script(tmp_path, {'name': 'held'}, *({'name': fault, 'fault': fault} for fault in faults)))
    (_, errors), (_, others) = [process.communicate(timeout=100) for process in (first, second)]
    assert second.returncode == -signal.SIGKILL
    assert 'held: RunError: ' in errors and files(held) == files(both / 'awr')
    assert 'held: ParallelError: process 1 of 2: process 0 ended: ' in others and 'already holds a run' in others
    for found in (errors, others):
        assert re.search('spoils: NotFiniteError: .*actions are not finite', found), found
        assert 'drifts: ParallelError: what process 1 trained differs from process 0 after iteration 2' in found, found
    assert 'dies: ParallelError: process 0 of 2 lost another one' in errors and '--resume' in errors, errors
    for fault in faults:
        assert newest(tmp_path / fault).name == '000001' and len(progress(tmp_path / fault)) == 1
    assert not (tmp_path / 'spoils' / 'failed_update.safetensors').exists(), 'nothing was learned from that rollout'


def test_no_process_waits_for_ever_for_one_that_does_not_answer(tmp_path):
    first, second = spawn(*script(tmp_path, {'fault': 'hangs', 'timeout_s': 20.0}))
    try:
        errors = first.communicate(timeout=100)[1]
        assert 'run: ParallelError: process 0 of 2 lost another one (Timed out' in errors, errors
        assert newest(tmp_path / 'run').name == '000001'
    finally:
        second.kill()
        second.communicate()


def test_a_run_whose_process_dies_goes_on_where_the_launcher_starts_all_anew(both, tmp_path):
    done = launch(*script(tmp_path, {**RUNS['fpo'], 'fault': 'dies', 'resume': True}), restarts=3)
    assert done.returncode == 0 and 'exitcode: -9' in done.stderr, done.stderr
    assert max(differences(both / 'fpo', tmp_path / 'run').values()) == 0


def test_ctrl_c_ends_every_process_and_the_newest_checkpoint_stands(waist_task, tmp_path):
    process = subprocess.Popen([*launcher('--standalone'), '2', *script(tmp_path, {'iterations': 100_000})],
                               env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == 'iteration 1\n'
        process.send_signal(signal.SIGINT)
        errors = process.communicate(timeout=100)[1]  # ends when all have closed theirs; torchrun kills after 30 s
    finally:
        process.kill()
    assert process.returncode != 0 and 'KeyboardInterrupt\n' in errors, errors
    done = len(progress(tmp_path / 'run'))
    alone(tmp_path / 'run', iterations=done + 1, resume=True)
    assert len(progress(tmp_path / 'run')) == done + 1


def test_two_machines_share_no_disk(fpo_ros, tmp_path):
    """Where nothing is summed, as here without a success, two processes write what one does bit for bit."""
    (tmp_path / 'policy').mkdir()
    tiny_task.policy().save(tmp_path / 'policy')
    options = ['--episodes', '3', '--max-steps', '20', '--iterations', '2', '--threads', '1']

    def words(run: Path, policy: Path) -> list[str]:
        return ['train', 'fpo', '--run', str(run), '--policy', str(policy), *options]

    code, _, errors = fpo_ros(*words(tmp_path / 'one', tmp_path / 'policy'))
    assert code == 0, errors
    where = ('--nnodes', 2, '--master-addr', '127.0.0.1', '--master-port', free_port())
    places = ((tmp_path / 'two', tmp_path / 'policy'), (tmp_path / 'nowhere', tmp_path / 'none'))
    machines = [subprocess.Popen(
        [*launcher(*where, '--node-rank', rank), '1', '-m', '--', 'fpo_ros.cli', *words(*place)], env=environment(),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for rank, place in enumerate(places)]
    (output, errors), (nothing, others) = [machine.communicate(timeout=100) for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], errors + others
    assert 'iteration 2' in output and nothing == '' and not (tmp_path / 'nowhere').exists()
    for name in ('policy.safetensors', 'learner.safetensors'):
        assert (newest(tmp_path / 'one') / name).read_bytes() == (newest(tmp_path / 'two') / name).read_bytes()


def test_two_processes_collect_the_episodes_of_one():
    processes = spawn(HERE / 'collect_parallel.py')
    try:
        for rank, process in enumerate(processes):
            output, errors = process.communicate(timeout=100)
            assert (process.returncode, output) == (0, f'equal in {rank}\n'), errors
    finally:
        for process in processes:
            process.kill()

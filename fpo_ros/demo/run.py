"""The demo as a sequence of stages that can be interrupted and resumed."""

from __future__ import annotations

import json
import shlex
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from fpo_ros.demo import deployment, learning_stages
from fpo_ros.demo.config import DemoConfig, demo_config
from fpo_ros.demo.directory import DemoError, claimed, default_directory, program, read_object
from fpo_ros.demo.display import Display
from fpo_ros.demo.memory import PeakMemory
from fpo_ros.demo.numbers import broken_promises, numbers, verdict
from fpo_ros.demo.report import write_report
from fpo_ros.files import explain, replace_file
from fpo_ros.policy.checkpoint import FlowPolicy


class StageLog:
    """Results of finished stages, one JSON file each, so that a resumed demo skips them.

    :param work: directory of the demo.
    """

    def __init__(self, work: Path) -> None:
        self._path = work / 'stages'
        self._path.mkdir(parents=True, exist_ok=True)
        self.seconds: dict[str, float] = {}
        #: Whether a stage was finished by an earlier process.
        self.resumed = False

    def run(self, name: str, work: Callable[[], dict]) -> tuple[dict, bool]:
        """Return the result of a stage and whether it had been finished before.

        :raises DemoError: when what is kept of the stage is damaged.
        """
        file = self._path / f'{name}.json'
        if file.exists():
            advice = 'remove it and pass --resume to do that stage again'
            entry = read_object(file, advice)
            if not isinstance(entry.get('seconds'), (int, float)) or not isinstance(entry.get('result'), dict):
                raise DemoError(f'{file} is not the result of a stage: {advice}')
            self.seconds[name], self.resumed = entry['seconds'], True
            return entry['result'], True
        started = time.monotonic()
        result = work()
        self.seconds[name] = time.monotonic() - started
        replace_file(file, json.dumps({'seconds': self.seconds[name], 'result': result}).encode())
        return result, False


def run_demo(work: Path, observation: str, quick: bool, resume: bool, display: Display, no_films: str = '') -> dict:
    """Run all stages and return the numbers of the report.

    :param no_films: why nothing can be drawn here; empty where it can.
    :raises DemoError: saying what to do.
    """
    settings = {'observation': observation, 'quick': quick}
    try:
        with claimed(work, settings, resume, display.line):
            return _run(work, demo_config(observation, quick), quick, display, no_films)
    except KeyboardInterrupt:
        display.line(f'interrupted; go on with: {resume_command(work, observation, quick)}')
        raise
    except OSError as error:
        if error.filename is not None:
            raise
        raise DemoError(f'{explain(error, work)}. Go on with --resume') from error


def check(found: dict, observation: str, quick: bool) -> None:
    """Compare the numbers of a demo with what it promises.

    :raises DemoError: naming every broken promise.
    """
    broken = broken_promises(found, demo_config(observation, quick), quick)
    if broken:
        raise DemoError(f'this demo did not do what it promises: {"; ".join(broken)}')


def resume_command(work: Path, observation: str, quick: bool) -> str:
    """Return the command line that goes on with an interrupted demo."""
    words = [program(), 'demo', *(['--quick'] if quick else [])]
    if observation != 'state':
        words += ['--observation', observation]
    if work != default_directory(quick):
        words += ['--dir', shlex.quote(str(work))]
    return ' '.join([*words, '--resume'])


def _run(work: Path, config: DemoConfig, quick: bool, display: Display, no_films: str) -> dict:
    log, results, earlier_s, started = StageLog(work), {}, 0.0, time.monotonic()
    with PeakMemory() as memory:
        def found() -> dict:
            return numbers(results, log.seconds, earlier_s + time.monotonic() - started,
                           None if log.resumed else memory.bytes)

        for number, (name, text, stage) in enumerate(_stages(config, work, display, results), 1):
            display.stage(number, 8, text)
            results[name], known = log.run(name, stage)
            if known:
                earlier_s += log.seconds[name]
                display.line(f'done before ({log.seconds[name]:.0f} s)')
        display.stage(8, 8, 'Report: one page with curves, intervals and films')
        # The numbers are safe before the films are made.
        _write_numbers(work, found())
        began = time.monotonic()
        write_report(work / 'report.html', config, work, results, found(), quick, no_films)
        log.seconds['report'] = time.monotonic() - began
        final = found()
    _write_numbers(work, final)
    for sentence in verdict(final):
        display.line(sentence)
    display.line(f'open {work / "report.html"} ({final["wall_s"]:.0f} s in all)')
    return final


def _write_numbers(work: Path, found: dict) -> None:
    replace_file(work / 'report.json', (json.dumps(found, indent=2) + '\n').encode())


def _stages(config: DemoConfig, work: Path, display: Display, results: dict) -> list[tuple[str, str, Callable]]:
    """Return (name, one line of plain words, work) of stages 1 to 7; ``results`` fills while they run."""
    sees = 'camera images and joints' if config.contract.cameras else "joints and the cube's pose"
    return [
        ('demonstrations', f'Demonstrations: an imperfect scripted demonstrator hands over the cube '
                           f'{config.demonstrations} times', lambda: _fresh_store(config, work, display)),
        ('sft', f'SFT: pi0_tiny learns to imitate it from {sees}',
         lambda: learning_stages.supervised(config, work, display)),
        ('sft_evaluation', f'Evaluation of SFT on {config.evaluation_episodes} held-out scenes',
         lambda: learning_stages.evaluation(config, FlowPolicy.load(work / 'sft'), display)),
        ('fpo', 'FPO: the policy improves by its own trials in simulation, rewarded for success alone',
         lambda: learning_stages.fine_tuning(config, work, display)),
        ('fpo_evaluation', 'Evaluation of FPO on the same held-out scenes',
         lambda: learning_stages.evaluation(config, FlowPolicy.load(work / 'fpo' / 'best'), display)),
        ('release', 'Release: both policies become ONNX, are checked against torch, signed and promoted',
         lambda: deployment.release(config, work, display, results['sft_evaluation'], results['fpo_evaluation'])),
        ('graph', f'Deployment: the ROS 2 graph runs {config.graph_episodes} episodes with SFT, swaps the policy, '
                  f'runs {config.graph_episodes} more',
         lambda: deployment.graph(config, work, display, results['release'])),
    ]


def _fresh_store(config: DemoConfig, work: Path, display: Display) -> dict:
    shutil.rmtree(work / 'demonstrations', ignore_errors=True)
    return learning_stages.demonstrations(config, work, display)

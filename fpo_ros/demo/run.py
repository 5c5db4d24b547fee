"""The demo as a sequence of stages that can be interrupted and resumed."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from fpo_ros.demo import deployment, learning_stages
from fpo_ros.demo.config import DemoConfig, demo_config
from fpo_ros.demo.display import Display
from fpo_ros.demo.memory import PeakMemory
from fpo_ros.demo.report import write_report
from fpo_ros.policy.checkpoint import FlowPolicy

_MARK = 'demo.json'


class DemoError(ValueError):
    """The demo cannot run; the message says what to do."""


class StageLog:
    """Results of finished stages, one JSON file each, so that a resumed demo skips them.

    :param work: directory of the demo.
    """

    def __init__(self, work: Path) -> None:
        self._path = work / 'stages'
        self._path.mkdir(parents=True, exist_ok=True)
        self.seconds: dict[str, float] = {}

    def run(self, name: str, work: Callable[[], dict]) -> tuple[dict, bool]:
        """Return the result of a stage and whether it had been finished before."""
        file = self._path / f'{name}.json'
        if file.exists():
            entry = json.loads(file.read_text())
            self.seconds[name] = entry['seconds']
            return entry['result'], True
        started = time.monotonic()
        result = work()
        self.seconds[name] = time.monotonic() - started
        staging = file.with_suffix('.new')
        staging.write_text(json.dumps({'seconds': self.seconds[name], 'result': result}))
        staging.replace(file)
        return result, False


def prepare(work: Path, observation: str, quick: bool, resume: bool) -> None:
    """Make the directory of a demo, empty unless it resumes.

    :raises DemoError: when the directory holds something else, or a demo of other settings is to be resumed.
    """
    settings = {'observation': observation, 'quick': quick}
    mark = work / _MARK
    if work.exists() and not work.is_dir():
        raise DemoError(f'{work} is no directory: choose one with --dir')
    if work.exists() and any(work.iterdir()):
        if not mark.exists():
            raise DemoError(f'{work} holds other files: choose an empty directory with --dir')
        if resume:
            if json.loads(mark.read_text()) != settings:
                raise DemoError(f'{work} holds a demo of other settings ({mark.read_text().strip()}): '
                                'resume with those, or start afresh without --resume')
            return
        shutil.rmtree(work)
    work.mkdir(parents=True, exist_ok=True)
    mark.write_text(json.dumps(settings) + '\n')


def run_demo(work: Path, observation: str, quick: bool, resume: bool, display: Display) -> dict:
    """Run all stages and return the numbers of the report."""
    config = demo_config(observation, quick)
    prepare(work, observation, quick, resume)
    started, log, results = time.monotonic(), StageLog(work), {}
    with PeakMemory() as memory:
        for number, (name, text, stage) in enumerate(_stages(config, work, display, results), 1):
            display.stage(number, 8, text)
            results[name], known = log.run(name, stage)
            if known:
                display.line(f'done before ({log.seconds[name]:.0f} s)')
        display.stage(8, 8, 'Report: one page with curves, intervals and films')
        results |= {'stages': dict(log.seconds), 'wall_s': sum(log.seconds.values())}
        began = time.monotonic()
        write_report(work / 'report.html', config, work, results, quick)
        log.seconds['report'] = time.monotonic() - began
    numbers = _numbers(results, log.seconds) | {'peak_memory_bytes': memory.bytes}
    (work / 'report.json').write_text(json.dumps(numbers, indent=2) + '\n')
    display.line(f'open {work / "report.html"} ({time.monotonic() - started:.0f} s in all)')
    return numbers


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
         lambda: learning_stages.fine_tuning(config, work, display, resume=(work / 'fpo').exists())),
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


def _numbers(results: dict, seconds: dict[str, float]) -> dict:
    """Return the JSON object of the demo."""
    def rate(result: dict) -> dict:
        keys = ('successes', 'episodes', 'wilson_low', 'wilson_high', 'success_strict_rate')
        zero = {key: result['zero_sampling'][key] for key in keys}
        return {**{key: result[key] for key in keys}, 'zero_sampling': zero}
    graph = {key: value for key, value in results['graph'].items() if key != 'runs'}
    return {'sft': rate(results['sft_evaluation']), 'fpo': rate(results['fpo_evaluation']), 'graph': graph,
            'stages': seconds, 'wall_s': sum(seconds.values())}

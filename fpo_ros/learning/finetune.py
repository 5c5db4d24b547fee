"""A fine-tuning run in a directory: iterations, progress, best policy, alarms, resume."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fpo_ros.learning.alarms import Alarm, alarms, has_settled
from fpo_ros.learning.algorithms import prepared
from fpo_ros.learning.config import FPOConfig
from fpo_ros.learning.demonstrations import Demonstrations
from fpo_ros.learning.diagnostics import worst_region
from fpo_ros.learning.followers import Followers, learner_of
from fpo_ros.learning.imitation import check_imitated
from fpo_ros.learning.parallel import Group
from fpo_ros.learning.rollout import cap_of
from fpo_ros.learning.run_directory import RunDirectory, RunError, RunSettings, read_settings
from fpo_ros.learning.scale import Cluster, Local, open_pool
from fpo_ros.learning.scale.shared import SharedPool
from fpo_ros.learning.training_state import CheckpointDirectory
from fpo_ros.policy.checkpoint import FlowPolicy
from fpo_ros.policy.finite import NotFiniteError
from fpo_ros.sim.dynamics import check_fits
from fpo_ros.sim.model import load_model
from fpo_ros.sim.scenes import Scenes, scene_seeds

#: Deviations of the difference of two rates by which success must fall for the best policy to be restored. The best is
#: the most of all rates: where nothing changes in 200 iterations, the newest lies 2 below it in every run at some time,
#: 3.5 in half of the runs, and 4 in one of six (simulated, smoothing included).
BY_CHANCE = 4.0
#: Success of a start policy below which fine-tuning rarely takes off, and the fewest episodes that show it.
LOW_SUCCESS, GATE_EPISODES = 0.1, 50


def smoothed_success(history: list[dict], count: int) -> float:
    """Return the mean success of the ``count`` newest iterations, by the rule that is rewarded.

    Those before the narrowing tell nothing of what it made.
    """
    alike = [entry for entry in history[-count:] if _narrowed(entry) == _narrowed(history[-1])]
    return float(np.mean([entry['rewarded_rate'] for entry in alike]))


def _narrowed(entry: dict) -> bool:
    return entry.get('narrowed', False)  # entries of older runs lack it


def best_of(history: list[dict], count: int) -> dict:
    """Return the entry of the best iteration, the later of equals.

    Means over fewer iterations than ``count`` are not judged; until there is a full one, the newest is the best. Once
    there are narrowed policies the best is one of them: rollouts are from little noise, which hides what they gain.
    """
    history = [entry for entry in history if _narrowed(entry) == _narrowed(history[-1])]
    judged = history[count - 1:] or history[-1:]
    return max(reversed(judged), key=lambda entry: entry['smoothed_success'])


def finetune(start: FlowPolicy | None, run: Path, config: FPOConfig, iterations: int | None = None, *, seed: int = 0,
             control_steps: int | None = None, until_settled: bool = False, resume: bool = False, force: bool = False,
             demonstrations: Demonstrations | None = None, threads: int | None = None,
             on_iteration: Callable[[dict], None] | None = None, on_restored: Callable[[dict], None] | None = None,
             on_phase: Callable[[str], None] | None = None,
             on_warning: Callable[[str], None] | None = None,
             cluster: Cluster | None = None, group: Group | None = None) -> tuple[FlowPolicy, list[dict]]:
    """Fine-tune a policy and return the best policy of the run with its history.

    ``<run>`` receives ``config.json``, ``start/``, ``demonstrations.safetensors``, ``progress.jsonl`` and
    ``progress.csv`` (a line per iteration), ``tensorboard/``, ``checkpoints/``, ``best/``: the policy that made the
    rollouts of the best iteration, and ``average/``, where an average of the weights is kept.

    :param start: the SFT policy; a run that is resumed has its own and needs none.
    :param iterations: total number of iterations, those of an interrupted run included; no limit if None.
    :param control_steps: end with the iteration that reaches so many control steps in all; no limit if None.
    :param until_settled: end where the learning rate has settled, below a hundredth of its start; with narrow steps,
        where that of the narrowing has.
    :param resume: continue from the newest checkpoint; a directory without a whole run is begun anew.
    :param force: go on although the start policy hardly succeeds.
    :param demonstrations: successful recorded pairs, imitated beside the policy's own successes. A run keeps
        those it began with; resumed, it goes on with them whatever is given.
    :param threads: of the physics; by default one per core that this process may use.
    :param on_iteration: called with the metrics of each iteration.
    :param on_restored: called, when a run is resumed, with the metrics of each iteration done before.
    :param on_warning: called with a line for every alarm that begins and when the best policy is restored; by
        default it is logged.
    :param cluster: run the episodes there; they are the same as on this machine.
    :param group: processes that share the work, of which this must be number 0; the others call
        :func:`fpo_ros.learning.followers.follow`. This process alone if None.
    :raises ClusterError: when the cluster cannot do it; the newest checkpoint stands.
    :raises ParallelError: when another process of the group is lost, or does not go with this one; the newest
        checkpoint stands.
    :raises RunError: when the directory holds a run and ``resume`` is off, or one of other settings or of another
        start policy, or another process trains in it; and when the start policy hardly succeeds.
    :raises SeedError: for a seed or a number of episodes out of bounds.
    :raises ContractError: for a start policy whose actor over latents does not fit the settings.
    :raises ValueError: for a cap below one control step, a randomisation that does not fit the task, no limit, a
        rate that never settles where it is to end the run, or recorded pairs that the settings do not imitate.
    :raises SaveError: when the disk refuses; the newest complete checkpoint stands.
    :raises NotFiniteError: when training diverges; nothing of that iteration is saved but, for inspection, what it
        learned from: ``failed_update.safetensors``.
    """
    if iterations is None and control_steps is None and not until_settled:
        raise ValueError('a run without end: give a number of iterations or of control steps, or let it end where the '
                         'rate has settled')
    if until_settled and not (config.patience and config.learning_rate):
        raise ValueError(f'a learning rate of {config.learning_rate:g} with patience {config.patience} never settles: '
                         'leave until_settled out, and give a number of iterations or of control steps')
    warn = on_warning or logging.getLogger(__name__).warning
    group = group or Group()
    with Followers(group, alone=cluster is not None) as followers, RunDirectory(run) as directory:
        settings = _begin_or_check(directory, start, config, seed, resume, demonstrations)
        directory.recover_best()
        checkpoints = CheckpointDirectory(run / 'checkpoints')
        learner, history = learner_of(directory, settings, group)
        followers.begin(directory)
        if on_restored:
            for entry in history:
                on_restored(entry)

        def unfinished() -> bool:
            return ((iterations is None or learner.iteration < iterations)
                    and (control_steps is None or learner.control_steps < control_steps)
                    and not (until_settled and _learned_out(history, config)))

        where = cluster or Local(threads or group.threads(), config.episodes)
        with open_pool(where) as own, directory.progress(history) as progress:
            pool = SharedPool(own, group, alone=cluster is not None)
            if history and unfinished():
                _gate(history[0], config, run, force, warn)
            while unfinished():
                try:
                    with followers.iteration():
                        metrics = learner.run_iteration(pool, on_phase)
                except NotFiniteError:
                    directory.keep_failed(learner.newest_decisions())
                    raise
                history.append(metrics)
                new = _judge(history, config)
                if best_of(history, config.smoothing) is metrics:
                    directory.keep_best(learner.rolled_out)
                plateau = learner.explored == learner.iteration
                if plateau or _has_fallen(history, config):
                    best = best_of(history, config.smoothing)
                    followers.restore(directory.path / 'best', best['chunk_spread'])
                    learner.restore(directory.best(), best['chunk_spread'])
                    metrics['restored'] = True
                    what = 'success no longer grows' if plateau else \
                        f'success fell to {metrics["smoothed_success"]:.1%} from {best["smoothed_success"]:.1%}'
                    then = 'narrowed from now on' if learner.explored == learner.iteration else \
                        'the learning rate halved'
                    warn(f'{what}: the best policy is restored, and {then}')
                if learner.average is not None:
                    directory.keep_average(learner.average)
                checkpoints.save(learner, history)
                progress.add(metrics)
                if on_iteration:
                    on_iteration(metrics)
                for alarm in new:
                    warn(f'{alarm.name}: {alarm.text}')
                if learner.iteration == 1:
                    _gate(metrics, config, run, force, warn)
        return directory.best(), history


def _judge(history: list[dict], config: FPOConfig) -> list[Alarm]:
    """Add to the newest metrics what only earlier ones tell: smoothed success, the worst region, alarms.

    :returns: the alarms that begin.
    """
    metrics = history[-1]
    metrics['smoothed_success'] = smoothed_success(history, config.smoothing)
    metrics['worst_region'] = worst_region([entry['regions'] for entry in history[-config.smoothing:]])
    found, before = alarms(history, config), history[-2]['alarms'] if len(history) > 1 else []
    metrics['alarms'] = [alarm.name for alarm in found]
    return [alarm for alarm in found if alarm.name not in before]


def _learned_out(history: list[dict], config: FPOConfig) -> bool:
    """Return whether the rate of a run has settled for good: of one that narrows in the end, that of the narrowing."""
    if not history or history[-1]['iteration'] <= config.warmup:
        return False
    return has_settled(history[-1], config) and (not config.narrow_steps or _narrowed(history[-1]))


def _has_fallen(history: list[dict], config: FPOConfig) -> bool:
    """Return whether success lies so far below the best since the newest restoration that one is due.

    It must lie farther below than the best and the worst of a run differ by chance, too. Where the rate has settled
    nothing has changed that could be undone.
    """
    since = max((index + 1 for index, entry in enumerate(history) if entry.get('restored')), default=0)
    if config.restore_drop is None or len(history) - since < 2 * config.smoothing or has_settled(history[-1], config):
        return False
    best, now = best_of(history, config.smoothing)['smoothed_success'], history[-1]['smoothed_success']
    episodes, rate = config.smoothing * (1 - config.replay) * config.episodes, (best + now) / 2
    by_chance = BY_CHANCE * (2 * rate * (1 - rate) / episodes) ** 0.5
    return now < best - max(config.restore_drop, by_chance)


def _gate(first: dict, config: FPOConfig, run: Path, force: bool, warn: Callable[[str], None]) -> None:
    """Refuse to go on from a start policy that hardly succeeds, or is never rewarded.

    The stricter rule does not decide: chances that it rewards grow from few, where the plain task is done at all.

    :param first: metrics of the first iteration, whose episodes are the start policy's.
    :param warn: told where too few episodes were seen to refuse.
    :raises RunError: saying what to do.
    """
    if force or first['success_rate'] >= LOW_SUCCESS and first['rewarded_rate']:
        return
    if config.episodes < GATE_EPISODES:
        warn(f'the start policy succeeded in {first["success_rate"]:.1%} of {config.episodes} episodes, too few to '
             f'judge it by: below {LOW_SUCCESS:.0%} fine-tuning rarely takes off; {GATE_EPISODES} episodes per '
             'iteration or more would tell')
    else:
        raise RunError(f'the start policy succeeded in {first["success_rate"]:.1%} of {config.episodes} episodes and '
                       f'was rewarded, by the rule "{config.reward}", in {first["rewarded_rate"]:.1%}: below '
                       f'{LOW_SUCCESS:.0%} of success, or never rewarded, fine-tuning rarely takes off. '
                       f'Train it longer or on more demonstrations, or go on with --run {run} --resume --force')


def _begin_or_check(directory: RunDirectory, start: FlowPolicy | None, config: FPOConfig, seed: int, resume: bool,
                    demonstrations: Demonstrations | None) -> RunSettings:
    """Return the settings of the run, which begins here unless it is resumed."""
    run, settings = directory.path, read_settings(directory.path)
    if settings is None:
        if start is None:
            raise RunError(f'{run} is no run to resume: name the policy to start from with --policy')
        scene_seeds(Scenes.TRAINING, seed, config.episodes)  # a seed or a cap out of bounds begins no run
        cap_of(config.max_steps)
        if demonstrations is not None:
            check_imitated(config)
        prepared(start, config)  # nor does a policy that does not fit
        if config.randomisation is not None:
            check_fits(config.randomisation, load_model(start.contract.task))
        about = None if demonstrations is None else {
            'origin': demonstrations.origin, 'episodes': demonstrations.episodes, 'pairs': len(demonstrations.states)}
        settings = RunSettings(config, seed, start.contract, start.digest(), about)
        directory.begin(settings, start, demonstrations)
        return settings
    if not resume:
        raise RunError(f'{run} already holds a run: pass --resume to continue it, or choose another --run')
    if (config, seed) != (settings.config, settings.seed):
        raise RunError(f'{run} was started with other settings (see {run / "config.json"}): resume with those, or '
                       'choose another --run')
    if start is not None and start.digest() != settings.start:
        raise RunError(f'{run} was started from another policy: resume without --policy, or choose another --run')
    return settings

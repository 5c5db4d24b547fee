"""``fpo-ros train``: a policy from demonstrations, and from trying in simulation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from fpo_ros.options import (
    Cameras,
    ClusterAddress,
    MaxSteps,
    Observation,
    RandomisationFile,
    Seed,
    Variant,
    Workers,
    cluster_of,
    contract_of,
    display_of,
    randomisation_of,
)

app = typer.Typer(no_args_is_help=True, help='Train a policy: sft from demonstrations, then fpo in simulation.')


@app.command('sft')
def train_sft(context: typer.Context,
              demonstrations: Annotated[Path, typer.Option(help='Episode store to learn from.')],
              out: Annotated[Path, typer.Option(help='Directory of the trained policy; made if missing.')],
              task: Annotated[str | None, typer.Option(help='transfer_cube or insertion; needed where the store holds '
                                                       'both.', show_default="that of the store's episodes")] = None,
              observation: Observation = 'state', cameras: Cameras = None, variant: Variant = 'pi0_tiny',
              policy: Annotated[Path | None, typer.Option(
                  help='Directory or name of a policy to go on from: what it sees and commands, its statistics and '
                       'sizes stay.', show_default='a new one')] = None,
              trainable: Annotated[str | None, typer.Option(
                  help='What of --policy is trained. full: all; expert: the action expert and its projections; lora: '
                       'low-rank adapters of language model and expert, the projections and the vision tower; '
                       'lora_language: the same with a whole expert; lora_expert: adapters of the expert and its '
                       'projections.', show_default='expert')] = None,
              lora_rank: Annotated[int | None, typer.Option(
                  min=1, help='Rank of the adapters.', show_default='16 in the language model, 32 in the '
                  'expert')] = None,
              steps: Annotated[int, typer.Option(min=1, help='Optimiser steps.')] = 800,
              batch: Annotated[int, typer.Option(min=1, help='Training pairs per step.')] = 128,
              learning_rate: Annotated[float, typer.Option(min=0.0, help='Peak of its schedule. pi0 was trained with '
                                                           '2.5e-5.')] = 3e-3,
              prefix: Annotated[str | None, typer.Option(
                  help="What pictures are seen with. A policy's directory or name: its prefix, which stays as it is; "
                       'new: one that learns in simulation to tell where objects are (half an hour); untrained: all is '
                       'learned from the demonstrations.',
                  show_default='sft_pixels where it fits, otherwise new')] = None,
              horizon: Annotated[int, typer.Option(min=1, help='Rows of a chunk [control periods].')] = 20,
              execute: Annotated[int | None, typer.Option(
                  min=1, help='Rows executed before the next decision.', show_default='all')] = None,
              max_delay: Annotated[int, typer.Option(
                  min=0, help='Control periods that a chunk may come late: the flow learns to go on from as many rows '
                              'of the chunk before. 0: it is guided there instead.')] = 0,
              seed: Seed = 0) -> None:
    """Train a policy by conditional flow matching on recorded episodes."""
    from fpo_ros.episodes.store import EpisodeStore
    from fpo_ros.learning import sft
    from fpo_ros.learning.demonstrations import load_demonstrations, task_of
    from fpo_ros.learning.prefixes import network_for
    from fpo_ros.policy.config import preset

    if policy is None and (trainable or lora_rank):
        raise ValueError('--trainable and --lora-rank need --policy: of a new network, --prefix says what is trained')
    start = None if policy is None else _start(policy, context)
    settings = sft.SFTConfig(steps=steps, batch=batch, learning_rate=learning_rate, trainable=trainable or 'expert',
                             lora_rank=lora_rank)
    store = EpisodeStore.open(demonstrations)
    if start is None:
        contract, sizes = contract_of(task_of(store, task), observation, cameras), preset(variant)
        contract = replace(contract, horizon=horizon, execute=execute or horizon, max_delay=max_delay)
    else:
        contract = start.contract
    pairs = load_demonstrations(store, contract)
    display = display_of(False)
    if pairs.left_out:
        display.line(pairs.left_out)
    out.mkdir(parents=True, exist_ok=True)
    network = network_for(contract, sizes, prefix, display, seed) if start is None else None
    with display.bar('flow matching', steps) as bar:
        def progress(step: int, loss: float) -> None:
            bar.update(step, f'(loss {loss:.3f})')

        trained = (sft.train(pairs, contract, sizes, settings, seed, progress, network) if start is None
                   else sft.go_on(start, pairs, settings, seed, progress))
    trained.save(out)
    display.line(f'{out}: trained on {len(pairs.states):,} pairs of {pairs.episodes} episodes of {contract.task}')


@app.command('fpo')
def train_fpo(context: typer.Context,
              run: Annotated[Path, typer.Option(help='Run directory; made if missing.')],
              policy: Annotated[Path | None, typer.Option(help='Directory of the SFT policy to start from; the run '
                                                          'keeps its own copy, so --resume needs none.')] = None,
              iterations: Annotated[int | None, typer.Option(
                  min=1, help='Iterations of the whole run.',
                  show_default='24, or no limit with --control-steps or --until-settled')] = None,
              control_steps: Annotated[int | None, typer.Option(
                  min=1, help='End with the iteration that reaches so many control steps.',
                  show_default='no limit')] = None,
              until_settled: Annotated[bool, typer.Option(
                  '--until-settled', help='End where the learning rate has fallen below a hundredth of its start: '
                  'hardly anything is learned from there on. Other limits hold as well.')] = False,
              settings: Annotated[Path | None, typer.Option(metavar='FILE', help='Settings in a YAML file such as '
                                                            'config/fpo.yaml; options given here come first.')] = None,
              algorithm: Annotated[str | None, typer.Option(
                  help='fpo, or what it is compared with: awr, filtered_bc, reinflow, ppo, dsrl.',
                  show_default='fpo')] = None,
              placement: Annotated[str | None, typer.Option(
                  help='What is trained: the action expert (expert), low-rank adapters of it and its projections '
                       '(lora), or a flow over its start noise (latent).', show_default='expert')] = None,
              lora_rank: Annotated[int | None, typer.Option(min=1, help='Rank of the adapters, with placement lora.',
                                                            show_default='32')] = None,
              episodes: Annotated[int | None, typer.Option(min=1, help='Episodes per iteration.',
                                                           show_default='128')] = None,
              max_steps: MaxSteps = None,
              reward: Annotated[str | None, typer.Option(help="What is rewarded: success by gym-aloha's rule (gym), or "
                                                         'by the stricter one for 0.2 s (strict).',
                                                         show_default='strict')] = None,
              randomisation: RandomisationFile = None,
              learning_rate: Annotated[float | None, typer.Option(min=0.0, help='Of the action expert.',
                                                                  show_default='0.0002')] = None,
              demonstrations: Annotated[Path | None, typer.Option(
                  help='Episode store whose successful episodes are imitated beside the own successes; the run '
                       'keeps those it finds when it begins.')] = None,
              force: Annotated[bool, typer.Option('--force', help='Go on although the start policy hardly '
                                                  'succeeds.')] = False,
              resume: Annotated[bool, typer.Option('--resume', help='Continue after Ctrl-C or a crash, with the '
                                                   'settings of the run: --run and an end such as --iterations '
                                                   'suffice.')] = False,
              threads: Annotated[int | None, typer.Option(min=1, help='Threads of physics and network, of each '
                                                          'process.', show_default='all cores')] = None,
              cluster: ClusterAddress = None, workers: Workers = None,
              seed: Annotated[int | None, typer.Option(min=0, help='Seed of scenes, noise and minibatches.',
                                                       show_default='0')] = None) -> None:
    """Fine-tune a policy by Flow Policy Optimization in simulation, in one process or, under torchrun, in several."""
    import torch

    from fpo_ros.demo.display import TrainingTable
    from fpo_ros.learning.config import FPOConfig
    from fpo_ros.learning.finetune import RunError, finetune
    from fpo_ros.learning.followers import follow
    from fpo_ros.learning.imitation import check_imitated
    from fpo_ros.learning.parallel import Group
    from fpo_ros.learning.run_directory import read_settings
    from fpo_ros.learning.settings import load_settings, with_settings
    from fpo_ros.policy.checkpoint import FlowPolicy

    group = context.with_resource(Group.from_environment())
    if group.rank:
        follow(group, threads)
        return
    stored = read_settings(run) if resume else None
    if stored is None and policy is None:
        raise RunError(f'{run} is no run to resume: name the policy to start from with --policy' if resume else
                       'name the policy to start from with --policy')
    start = None if policy is None else FlowPolicy.load(policy)
    display, recorded = display_of(False), None
    given = {'algorithm': algorithm, 'placement': placement, 'lora_rank': lora_rank, 'episodes': episodes,
             'max_steps': max_steps, 'reward': reward, 'learning_rate': learning_rate}
    chosen = {name: value for name, value in given.items() if value is not None}
    kept = {} if stored is None else {'algorithm': stored.config.algorithm, 'placement': stored.config.placement}
    drawn, in_file = randomisation_of(randomisation), load_settings(settings, kept | chosen) if settings else {}
    if iterations is None and control_steps is None and not until_settled:
        iterations = 24
    if stored is not None:
        stored.check(run, seed=seed, demonstrations=demonstrations, randomisation=drawn, **given)
        if with_settings(stored.config, in_file) != stored.config:
            raise RunError(f'{run} was started with other settings than those of {settings} (see '
                           f'{run / "config.json"}): leave --settings out to continue the run, or choose another --run')
        config, seed = stored.config, stored.seed
        if demonstrations:
            display.line(f'the run goes on with the {(stored.demonstrations or {}).get("pairs", 0):,} recorded pairs '
                         'it began with')
    else:
        config, seed = replace(with_settings(FPOConfig(), in_file | chosen), randomisation=drawn), seed or 0
        if demonstrations:
            check_imitated(config)
        recorded = _successful(demonstrations, start.contract) if demonstrations else None
    if threads is not None:
        torch.set_num_threads(threads)
    with TrainingTable(display, iterations) as table:
        _, history = finetune(start, run, config, iterations, seed=seed, control_steps=control_steps,
                              until_settled=until_settled, resume=resume, force=force, demonstrations=recorded,
                              threads=threads, on_iteration=table.add, on_restored=table.add, on_phase=table.phase,
                              on_warning=display.line, cluster=cluster_of(cluster, workers), group=group)
    display.line(f'best policy in {run / "best"} after {history[-1]["control_steps"]:,} control steps')


def _start(policy: Path, context: typer.Context) -> Any:
    """Return the policy that training goes on from.

    :raises ValueError: for an option of a new policy beside it.
    """
    from fpo_ros.policy.checkpoint import FlowPolicy

    for name in ('task', 'observation', 'cameras', 'variant', 'prefix', 'horizon', 'execute', 'max_delay'):
        if context.get_parameter_source(name).name != 'DEFAULT':
            raise ValueError(f"--{name.replace('_', '-')} is the start policy's own: leave it out beside --policy, or "
                             'train a new one')
    return FlowPolicy.load(policy)


def _successful(path: Path, contract: Any) -> Any:
    """Return the successful episodes of a store; None where it holds none yet."""
    from fpo_ros.episodes.store import EpisodeStore
    from fpo_ros.learning.demonstrations import NOT_SUCCESSFUL, NoDemonstrationsError, load_demonstrations

    try:
        pairs = load_demonstrations(EpisodeStore.open(path), contract, successes_only=True)
    except NoDemonstrationsError as error:
        if error.reasons and NOT_SUCCESSFUL not in error.reasons:
            raise
        print(f'{path} holds no successful episode yet: training without demonstrations', flush=True)
        return None
    if pairs.left_out:
        print(pairs.left_out, flush=True)
    return pairs

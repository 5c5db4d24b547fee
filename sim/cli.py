"""``fpo-ros sim``: see the tasks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from fpo_ros.sim.actors import Actor

app = typer.Typer(no_args_is_help=True, help='See the simulated tasks: in a window, as a film, as a list.')

Task = Annotated[str, typer.Option(help='Task; "fpo-ros sim tasks" lists them.')]
Seed = Annotated[int, typer.Option(min=0, help='Scene: where the objects start.')]
RobotName = Annotated[str, typer.Option('--robot', help='Arms; "fpo-ros sim tasks" lists them.')]
PolicyDir = Annotated[Path | None, typer.Option('--policy', help='Directory of a trained policy that moves the arms.',
                                                show_default=False)]
Expert = Annotated[bool, typer.Option('--expert', help='The scripted expert moves the arms.')]
RandomisationFile = Annotated[Path | None, typer.Option(
    '--randomisation', metavar='FILE', help='Draw the episode from the ranges in this YAML file, such as '
    'config/randomisation.yaml: dynamics, delays, sensor errors and, in films, looks.', show_default='none')]
Steps = Annotated[int, typer.Option(min=1, help='Time limit of an episode [control steps of 20 ms].')]


@app.command()
def view(task: Task = 'transfer_cube', seed: Seed = 0, robot: RobotName = 'vx300s', policy: PolicyDir = None,
         expert: Expert = False, steps: Steps = 300, randomisation: RandomisationFile = None) -> None:
    """Open a window in real time: scene after scene with --expert or --policy, else arms that hold still.

    Drag with Ctrl and a mouse button to pull at what was double-clicked; close the window to end.
    """
    from fpo_ros.sim import viewer
    from fpo_ros.sim.randomisation import randomisation_of
    from fpo_ros.sim.world import World

    world = World(task, seed, robot, 'clip', randomisation_of(randomisation))
    moves = _actor(task, policy, expert)
    viewer.view(world, moves, seed, lambda text: print(text, flush=True),
                max_steps=steps if policy or expert else None)


@app.command('film')
def film_(out: Annotated[Path, typer.Option(help='The film: a name that ends in .mp4.')],
          task: Task = 'transfer_cube', seed: Seed = 0, robot: RobotName = 'vx300s', policy: PolicyDir = None,
          expert: Expert = False, steps: Steps = 300, randomisation: RandomisationFile = None,
          camera: Annotated[str | None, typer.Option(help='Camera; "fpo-ros sim tasks" lists them.',
                                                     show_default='the one from above')] = None,
          height: Annotated[int, typer.Option(min=2, help='Rows of the picture [pixels].')] = 480,
          width: Annotated[int, typer.Option(min=2, help='Columns of the picture [pixels].')] = 640,
          fast: Annotated[bool, typer.Option('--fast', help='Plain pictures without shadows, drawn several times as '
                                             'fast.')] = False) -> None:
    """Write an episode as a film of 25 frames per second, up to a second after success."""
    from rich.console import Console
    from rich.progress import Progress

    from fpo_ros.files import replace_file
    from fpo_ros.sim.film import film
    from fpo_ros.sim.observations import cell_camera
    from fpo_ros.sim.randomisation import randomisation_of
    from fpo_ros.sim.render import WorldRenderer
    from fpo_ros.sim.world import World

    if out.suffix != '.mp4':
        raise ValueError(f'{out} is no name of a film: end it in .mp4')
    if not out.absolute().parent.is_dir():
        raise ValueError(f'{out.parent} is no directory: make it first')
    world = World(task, seed, robot, 'clip', randomisation_of(randomisation))
    cameras = world.model.robot.cameras
    seen = next(iter(cameras)) if camera is None else cell_camera(camera, world.model.robot)
    moves, console = _actor(task, policy, expert), Console(stderr=True)
    with (WorldRenderer(task, height, width, 'fast' if fast else 'faithful', robot) as renderer,
          Progress(console=console, transient=True, disable=not console.is_terminal) as bar):
        filming = bar.add_task('filming', total=steps)
        made = film(world, moves, renderer, seen, steps, lambda done: bar.update(filming, completed=done))
    replace_file(out, made.data)
    end = (f'no success, stage {made.best_stage} of 4' if made.success_step is None
           else f'success at control step {made.success_step}')
    print(f'{out}: scene {seed} of {task}, {end}; {made.frames} frames')


def _actor(task: str, policy: Path | None, expert: bool) -> Actor:
    from fpo_ros.sim.actors import expert_of, hold, policy_of

    if policy is not None and expert:
        raise ValueError('--policy and --expert cannot both move the arms: choose one')
    if policy is not None:
        return policy_of(policy, task)
    return expert_of(task) if expert else hold


@app.command()
def tasks(as_json: Annotated[bool, typer.Option('--json', help='Print one JSON object last on standard '
                                                'output.')] = False) -> None:
    """List the tasks with their gymnasium ids, time limits and instructions, and the robots with their cameras."""
    from rich.console import Console
    from rich.table import Table

    from fpo_ros.policy.contract import OBJECTS, TASKS
    from fpo_ros.sim.registration import IDS
    from fpo_ros.sim.robots import ROBOTS
    from fpo_ros.sim.task import CAPS

    found = {'tasks': [{'task': task, 'id': IDS[task], 'instruction': prompt, 'objects': list(OBJECTS[task]),
                        'time_limits': list(CAPS)} for task, prompt in TASKS.items()],
             'robots': [{'robot': robot.name, 'cameras': robot.cameras} for robot in ROBOTS.values()]}
    if as_json:
        print(json.dumps(found), flush=True)
        return
    table, arms = Table(), Table('robot', 'cameras (name in the model)')
    for title in ('task', 'gymnasium id', 'time limits', 'instruction'):
        table.add_column(title, no_wrap=title in ('task', 'gymnasium id'))
    for one in found['tasks']:
        limits = ', '.join(map(str, one['time_limits']))
        table.add_row(one['task'], one['id'], f'{limits} steps', one['instruction'])
    for one in found['robots']:
        arms.add_row(one['robot'], ', '.join(f'{ours} ({theirs})' for ours, theirs in one['cameras'].items()))
    console = Console()
    console.print(table, arms)

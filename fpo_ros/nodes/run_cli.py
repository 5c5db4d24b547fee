"""``fpo-ros run``: episodes of the running cell, one after another, with their success."""

from __future__ import annotations

import json
import os
from typing import Annotated, Any

import typer

from fpo_ros.options import AsJson, display_of

app = typer.Typer(help='Run episodes in the running cell, driven by its policy or by an operator.')

#: Longest episode unless one is asked for: an operator needs longer than a policy [control periods].
_OPERATED_STEPS = 3000
#: Time given to everything around an episode: homing, a person who resets the scene, storing [s].
_AROUND_S = 3700.0
#: Time in which the cell must say which task it has [s].
_ABSENT_S = 10.0


@app.callback(invoke_without_command=True)
def run(episodes: Annotated[int, typer.Option(min=1, help='How many.')] = 1,
        seed: Annotated[int | None, typer.Option(
            min=0, help='Start position of the first; later ones count up.',
            show_default='of scenes that no training run sees; of an operator, of those that it may see')] = None,
        driver: Annotated[str, typer.Option(help='Who drives: policy, or operator, by the leaders.')] = 'policy',
        record: Annotated[bool, typer.Option(help='Whether the episodes are stored (record_dir of the cell).')] = False,
        max_steps: Annotated[int, typer.Option(min=0, help='Time-out [control periods].',
                                               show_default="the cell's; 3000 for an operator")] = 0,
        namespace: Annotated[str, typer.Option(help='Namespace of the cell.')] = '/',
        as_json: AsJson = False) -> None:
    """Run episodes and say how each ended; Ctrl-C ends the running one, and the arms hold.

    The cell runs already: fpo-ros up, or ros2 launch. Where a person resets the scene and judges, fpo-ros operator
    takes their answers. An operator who drives takes over by the leaders once the scene is reset: grippers squeezed.
    """
    if driver not in ('policy', 'operator'):
        raise ValueError(f"--driver {driver}: use 'policy' or 'operator'")
    try:
        from fpo_ros.msg import TaskReward
        from fpo_ros.nodes import qos
        from fpo_ros.nodes.client import EpisodeClient
    except ImportError as error:
        raise RuntimeError(f'ROS 2 is not importable ({error}): run "fpo-ros doctor"') from error
    from fpo_ros.sim.scenes import GRAPH_SEED, TELEOP_SEED

    display, operated, found = display_of(as_json), driver == 'operator', []
    first = seed if seed is not None else TELEOP_SEED if operated else GRAPH_SEED
    with EpisodeClient(namespace, name=f'episode_runner_{os.getpid()}') as client:
        reward = client.wait_for(client.latest(TaskReward, 'task_reward', qos.STATUS),
                                 'task_reward: is the cell running, in this ROS_DOMAIN_ID and namespace?', _ABSENT_S)
        for index in range(episodes):
            outcome = _one(client, first + index, reward.task, index, episodes, display, operated=operated,
                           record=record, max_steps=max_steps or (_OPERATED_STEPS if operated else 0))
            found.append({'seed': first + index, **vars(outcome)})
            display.line(_in_words(found[-1]))
    result = _summary(reward.task, driver, found)
    display.line(f'{result["successes"]} of {len(found)} succeeded '
                 f'({result["wilson_low"]:.1%} to {result["wilson_high"]:.1%})')
    if as_json:
        print(json.dumps(result), flush=True)


def _one(client: Any, seed: int, task: str, index: int, episodes: int, display: Any, **how: Any) -> Any:
    """Run one episode under a bar of its control periods."""
    total = how['max_steps'] or 400
    with display.bar(f'episode {index + 1} of {episodes}', total) as bar:
        def progress(step: int, stage: int, phase: str) -> None:
            words = {'taking over': 'squeeze both leader grippers to drive' if how['operated'] else phase}
            bar.update(min(step, total), f'({words.get(phase, phase)}, stage {stage})')

        handle = client.start_episode(seed, task, on_feedback=progress, **how)
        try:
            return client.finish_episode(handle, _AROUND_S)
        except KeyboardInterrupt:
            client.cancel(handle)
            display.line(_in_words({'seed': seed, **vars(client.finish_episode(handle, 20.0))}))
            raise


def _in_words(one: dict[str, Any]) -> str:
    stored = f', stored as {one["episode_id"]}' if one['episode_id'] else ''
    why = f' ({one["message"]})' if one['message'] else ''
    return f'seed {one["seed"]}: {one["reason"]} after {one["steps"] / 50:.1f} s{why}{stored}'


def _summary(task: str, driver: str, found: list[dict[str, Any]]) -> dict[str, Any]:
    from fpo_ros.releases.wilson import wilson_interval

    successes = sum(one['success'] for one in found)
    low, high = wilson_interval(successes, len(found))
    return {'task': task, 'driver': driver, 'episodes': len(found), 'successes': successes,
            'success_rate': successes / len(found), 'wilson_low': low, 'wilson_high': high, 'outcomes': found}

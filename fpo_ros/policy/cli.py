"""``fpo-ros pi0``: checkpoints of openpi and LeRobot become policies, and policies their checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fpo_ros.options import TaskName, display_of

app = typer.Typer(no_args_is_help=True, help='Read checkpoints of pi0 by openpi or LeRobot, and write them.')


@app.command('read')
def read(checkpoint: Annotated[Path, typer.Argument(help='Directory with config.json, model.safetensors and '
                                                    "statistics, as openpi's converter or LeRobot wrote it.")],
         out: Annotated[Path, typer.Option(help='Directory of the policy; made if missing.')],
         tokenizer: Annotated[Path, typer.Option(help='paligemma_tokenizer.model, the file that Google publishes.')],
         task: TaskName = 'transfer_cube',
         prompt: Annotated[str, typer.Option(help='What the policy is told.', show_default="the task's")] = '',
         cameras: Annotated[str | None, typer.Option(
             help='Cameras in the order base, left wrist, right wrist, comma-separated. LeRobot says them itself: '
             'where its names are not yours, bind each to one of them, as cam_high=base_0_rgb.',
             show_default="the checkpoint's")] = None,
         optional_cameras: Annotated[str, typer.Option(
             help='Those of the cameras that observations may lack, comma-separated: they are left out then.',
             show_default='none')] = '',
         units: Annotated[str | None, typer.Option(
             help="Of joints inside the network: pi (pi0's base weights, openpi's fine-tunes) or cell (ALOHA's own).",
             show_default='pi of openpi, cell of LeRobot')] = None,
         relative: Annotated[bool | None, typer.Option(
             '--relative/--absolute', help='Whether arm joints of a chunk count from those of its observation.',
             show_default="LeRobot's setting; absolute of openpi, which does not say")] = None,
         execute: Annotated[int | None, typer.Option(min=1, help='Rows executed of a chunk.',
                                                     show_default="LeRobot's setting; 25 of openpi")] = None,
         statistics: Annotated[Path | None, typer.Option(help="openpi's norm_stats.json, where it is elsewhere.",
                                                         show_default='with the checkpoint')] = None,
         least_std: Annotated[float | None, typer.Option(
             min=0.0, help='Floor of the deviations that states and actions are divided by.',
             show_default='deviations below 0.0001 are refused')] = None,
         dtype: Annotated[str | None, typer.Option(
             help='float32 or bfloat16, of all layers; norms and projections stay float32.',
             show_default='as in the file, the vision tower and the rest in a type each')] = None) -> None:
    """Read a checkpoint into the directory of a policy, which every verb with --policy takes."""
    from fpo_ros.policy.family_config import camera_choice
    from fpo_ros.policy.family_policy import read_policy
    from fpo_ros.policy.pretrained import DTYPES

    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"unknown type '{dtype}': use {' or '.join(DTYPES)}")
    seen = None if cameras is None else camera_choice(cameras)
    optional = tuple(name.strip() for name in optional_cameras.split(',') if name.strip())
    chosen = {'units': units, 'relative': relative, 'execute': execute, 'cameras': seen,
              'optional_cameras': optional or None}
    policy = read_policy(checkpoint, tokenizer, statistics=statistics, least_std=least_std, dtype=dtype, task=task,
                         prompt=prompt, **{name: value for name, value in chosen.items() if value is not None})
    out.mkdir(parents=True, exist_ok=True)
    policy.save(out)
    count = sum(parameter.numel() for parameter in policy.model.parameters())
    display_of(False).line(f'{out}: {count:,} parameters, {", ".join(policy.contract.cameras)}, chunks of '
                           f'{policy.contract.horizon}, units of the {policy.contract.units}')


@app.command('write')
def write(policy: Annotated[Path, typer.Argument(help='Directory of the policy.')],
          out: Annotated[Path, typer.Option(help='Directory of the checkpoint; made if missing.')],
          family: Annotated[str, typer.Option(help='Whose programs shall read it: openpi or lerobot.')]) -> None:
    """Write a policy as openpi or LeRobot reads it."""
    from fpo_ros.policy.checkpoint import FlowPolicy
    from fpo_ros.policy.families import FAMILIES
    from fpo_ros.policy.family_policy import write_policy

    if family not in FAMILIES:
        raise ValueError(f"unknown family '{family}': use {' or '.join(FAMILIES)}")
    write_policy(FlowPolicy.load(policy), out, family)
    display_of(False).line(f'{out}: written for {family}')

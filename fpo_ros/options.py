"""Options that several verbs of ``fpo-ros`` share, and what their words stand for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

AsJson = Annotated[bool, typer.Option('--json', help='Print one JSON object last on standard output.')]
Seed = Annotated[int, typer.Option(min=0, help='Seed of scenes, noise and minibatches.')]
Cameras = Annotated[str | None, typer.Option(help='Cameras for pixels, comma-separated.', show_default='cam_high')]
ClusterAddress = Annotated[str | None, typer.Option(
    '--cluster', metavar='HOST:PORT', help='Run the episodes on this Ray cluster; needs the extra [scale].')]
Workers = Annotated[int | None, typer.Option(min=1, help='Workers on the cluster, one core each.',
                                             show_default='all its cores')]
TaskName = Annotated[str, typer.Option(help='transfer_cube or insertion.')]
MaxSteps = Annotated[int | None, typer.Option(min=1, help='Time-out of an episode [control steps of 0.02 s]: 300 as '
                                              'gym-aloha, 400 as most publications, or any other.',
                                              show_default='300')]
Variant = Annotated[str, typer.Option(help='Size of the network: pi0_tiny or pi0_small.')]
RandomisationFile = Annotated[Path | None, typer.Option(
    '--randomisation', metavar='FILE', help='Draw the dynamics, delays, sensor errors and looks of every episode from '
    'the ranges in this YAML file, such as config/randomisation.yaml.', show_default='none')]
Observation = Annotated[str, typer.Option(help='What the policy sees: pixels (camera and joints) or state '
                                          '(joints and object poses).')]
Precision = Annotated[str, typer.Option(help='What projections are stored and multiplied in: float32, or float16 for '
                                        'GPUs. Norms, softmax and the flow stay float32.')]


def display_of(as_json: bool) -> Any:
    """Return where progress is shown: on standard error when standard output is for JSON."""
    from fpo_ros.demo.display import Display

    return Display(to_stderr=as_json)


def contract_of(task: str, observation: str, cameras: str | None) -> Any:
    """Return the contract of a policy or a recording with the cameras asked for."""
    from fpo_ros.policy.contract import ContractError, contract_for

    if observation != 'pixels' and cameras is not None:
        raise ContractError(f"--cameras {cameras} needs --observation pixels: '{observation}' looks at no camera")
    return contract_for(task, observation, tuple(name.strip() for name in (cameras or 'cam_high').split(',')))


def cluster_of(address: str | None, workers: int | None) -> Any:
    """Return where episodes run; None for this machine."""
    if address is None:
        if workers is not None:
            raise ValueError('--workers needs --cluster: on this machine episodes run in one process')
        return None
    from fpo_ros.learning.scale import Cluster

    return Cluster(address, workers)


def randomisation_of(path: Path | None) -> Any:
    """Return the randomisation of a file; None for none."""
    if path is None:
        return None
    from fpo_ros.sim import randomisation

    return randomisation.randomisation_of(path)

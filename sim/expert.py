"""The scripted expert of each task: joint targets planned from where the objects start.

What is recorded of it holds what a policy would see and the joint targets that were sent, nothing else.
"""

from __future__ import annotations

from fpo_ros.sim.expert_insertion import InsertionExpert
from fpo_ros.sim.expert_motion import InverseKinematicsError, ScriptedExpert
from fpo_ros.sim.expert_transfer_cube import TransferCubeExpert
from fpo_ros.sim.task import UnknownTaskError

__all__ = ['EXPERTS', 'InsertionExpert', 'InverseKinematicsError', 'ScriptedExpert', 'TransferCubeExpert', 'expert_for']

#: Task → its expert.
EXPERTS: dict[str, type[ScriptedExpert]] = {expert.TASK: expert for expert in (TransferCubeExpert, InsertionExpert)}


def expert_for(task: str, steps: int | None = None) -> ScriptedExpert:
    """Return the scripted expert of a task.

    :param task: key of ``TASKS``.
    :param steps: length of its plans in control steps; that of its script if None.
    :raises UnknownTaskError: if there is no such task.
    :raises ValueError: for plans that end before the script does.
    """
    if task not in EXPERTS:
        raise UnknownTaskError(task)
    return EXPERTS[task](steps)

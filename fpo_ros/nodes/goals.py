"""How the goal of an action ends."""

from __future__ import annotations

from typing import Any


def conclude(goal: Any, result: Any, *, succeeded: bool, canceled: bool) -> None:
    """Report the result of a goal that was accepted and not executed yet.

    :param goal: handle of the server.
    :param succeeded: what was asked for was done.
    :param canceled: it ended because a client asked for that; otherwise it was aborted.
    """
    def report(handle: Any) -> Any:
        if succeeded:
            handle.succeed()
        elif canceled and handle.is_cancel_requested:
            handle.canceled()
        else:
            handle.abort()
        return result

    goal.execute(report)

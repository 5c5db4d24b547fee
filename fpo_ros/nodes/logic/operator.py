"""What the operator of a cell is asked for and what they said: resets and marks. Time is an argument."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class OperatorState(enum.IntEnum):
    """What is asked of a person, numbered as OperatorStatus.STATE_*."""

    IDLE = 0
    RESET = 1
    READY = 2
    EPISODE = 3
    MARKED = 4


@dataclass(frozen=True)
class ResetAnswer:
    """Answer to a request for a reset; see srv/ResetScene.srv."""

    success: bool
    pending: bool
    message: str


class OperatorDesk:
    """Asks a person to reset the scene, and takes their marks. Feed it requests and the controller's state.

    A reset counts once: the next episode needs a confirmation of its own, also with the same seed.

    :param task: task of the cell.
    :param ask_limit_s: a request that nobody repeats for so long is withdrawn, as after a cancelled episode [s].
    """

    def __init__(self, task: str, ask_limit_s: float = 5.0) -> None:
        self.task, self.ask_limit_s = task, ask_limit_s
        self.state = OperatorState.IDLE
        self.seed = 0
        self.success = self.failure = False
        self._confirmed = False
        self._asked_ns = 0

    @property
    def request(self) -> str:
        """What a person shall do now; empty where there is nothing to do."""
        if self.state is OperatorState.RESET and not self._confirmed:
            return (f'put the objects of {self.task} at start position {self.seed}, leave the reach of the arms, '
                    'then confirm the reset')
        if self.state is OperatorState.READY:
            return 'keep clear: the arms move next'
        if self.state is OperatorState.EPISODE:
            return 'watch the arms, and mark the episode a success or a failure'
        return ''

    def ask_reset(self, task: str, seed: int, now_ns: int) -> ResetAnswer:
        """Take a request for a reset; it is repeated until it is done.

        :param now_ns: this instant [ns].
        """
        if task != self.task:
            return ResetAnswer(False, False, f"task '{task}' is not this cell's, which is {self.task}")
        self.tick(now_ns)
        if self.state is not OperatorState.RESET or seed != self.seed:
            self.state, self.seed = OperatorState.RESET, seed
            self.success = self.failure = self._confirmed = False
        self._asked_ns = now_ns
        if self._confirmed:
            self.state = OperatorState.READY
            return ResetAnswer(True, False, '')
        return ResetAnswer(False, True, f'the operator has not confirmed the reset: {self.request}')

    def confirm(self, now_ns: int) -> tuple[bool, str]:
        """Take the confirmation that the scene is reset.

        :returns: whether one was awaited, and why not.
        """
        self.tick(now_ns)
        if self.state is not OperatorState.RESET:
            return False, 'no reset is asked for: start an episode first'
        self._confirmed = True
        return True, ''

    def mark(self, success: bool) -> tuple[bool, str]:
        """Take the mark of the running episode; it stays until the next reset.

        :returns: whether it was taken, and why not.
        """
        if self.state is not OperatorState.EPISODE:
            already = ': it is marked already' if self.state is OperatorState.MARKED else ''
            return False, f'no episode awaits a mark{already}'
        self.success, self.failure = success, not success
        self.state = OperatorState.MARKED
        return True, ''

    def follow(self, driven: bool) -> None:
        """Take whether the controller follows a policy or an operator now."""
        if driven and self.state in (OperatorState.READY, OperatorState.IDLE):
            self.state, self.success, self.failure = OperatorState.EPISODE, False, False
        elif not driven and self.state in (OperatorState.EPISODE, OperatorState.MARKED):
            self.state = OperatorState.IDLE

    def tick(self, now_ns: int) -> None:
        """Withdraw a request that is not repeated any more; a confirmation that nobody fetched goes with it."""
        if self.state is OperatorState.RESET and (now_ns - self._asked_ns) * 1e-9 > self.ask_limit_s:
            self.state, self._confirmed = OperatorState.IDLE, False

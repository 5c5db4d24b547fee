"""What both leaders do: go with the followers, or be moved by an operator whom the followers go with."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np

from fpo_ros.policy.contract import GRIPPER_COLUMNS
from fpo_ros.policy.limits import JointLimits
from fpo_ros.runtime.controller_config import ArmState

#: States of the controller in which the leaders go with the followers.
FOLLOWED = (ArmState.HOMING, ArmState.POLICY, ArmState.HOLD)
#: The controller must have taken the leaders' word after so long [ns].
ANSWER_NS = 1_000_000_000


class LeaderState(enum.Enum):
    """What the leaders do."""

    #: Nothing: whatever torque they have they keep.
    RESTING = 'resting'
    #: Their torque is being switched on.
    ENGAGING = 'engaging'
    #: They go where the followers are, with torque.
    TRACKING = 'tracking'
    #: Their torque is being switched off, or gravity compensation on.
    RELEASING = 'releasing'
    #: An operator moves them.
    OPERATED = 'operated'


class Order(enum.Enum):
    """What the drivers of the leaders shall do."""

    ENGAGE = 'engage'
    RELEASE = 'release'


@dataclass(frozen=True)
class Step:
    """What to do in this period.

    :param target: (14,) where the leaders shall go [rad, grippers 0..1], or None.
    :param order: for their drivers, or None.
    :param ask: state to ask the controller for, or None.
    """

    target: np.ndarray | None = None
    order: Order | None = None
    ask: ArmState | None = None


@dataclass(frozen=True)
class LeaderSettings:
    """Settings of the leaders.

    :param speed: with which they go after the followers [rad/s].
    :param grab_distance: an operator has grabbed a leader when a joint stands so far from where it shall be [rad].
    :param grab_periods: for so many periods in a row.
    :param closed_below: both leader grippers below this are the start gesture [0..1].
    """

    speed: float = 1.0
    grab_distance: float = 0.15
    grab_periods: int = 5
    closed_below: float = 0.1


class Leaders:
    """State machine of both leaders. Feed it what arrives; carry out what :meth:`step` returns.

    An operator takes over by a pedal (:meth:`take_over`), by grabbing a leader while a policy drives, or, while the
    arms hold, by squeezing both grippers (aloha dual_side_teleop.py). Until then the leaders go with the followers, so
    that both stand alike when the operator takes over. Where nothing carries leaders that are let go, both must be
    grabbed: the other one would fall, and its follower with it.

    :param settings: see :class:`LeaderSettings`.
    :param period_s: between two steps [s].
    """

    def __init__(self, settings: LeaderSettings, period_s: float) -> None:
        self._settings, self._period_s = settings, period_s
        self._limits = JointLimits(speed=np.full(14, settings.speed))
        self.state = LeaderState.RESTING
        #: What went wrong last; empty once something has succeeded since.
        self.problem = ''
        self._goal: np.ndarray | None = None
        self._grabbed = 0
        self._pedal = self._hand_back = False
        self._back = ArmState.HOLD
        self._opened = False
        self._asked_ns = 0
        self._followed = False

    def take_over(self) -> tuple[bool, str]:
        """Take the wish of an operator to drive; returns whether it can be granted, and why not."""
        if self.state is not LeaderState.TRACKING:
            return False, f'the leaders are {self.state.value}, not tracking their followers: see the controller state'
        self._pedal = True
        return True, ''

    def hand_back(self) -> tuple[bool, str]:
        """Take the wish to give the arms back to what drove them before."""
        if self.state is not LeaderState.OPERATED:
            return False, f'no operator drives: the leaders are {self.state.value}'
        self._hand_back = True
        return True, ''

    def done(self, order: Order, problem: str) -> None:
        """Take how an order ended; an empty problem is success."""
        self.problem = problem
        if order is Order.ENGAGE and self.state is LeaderState.ENGAGING:
            self.state, self._goal = (LeaderState.RESTING if problem else LeaderState.TRACKING), None
        elif order is Order.RELEASE and self.state is LeaderState.RELEASING:
            self.state = LeaderState.RESTING if problem else LeaderState.OPERATED
            self._asked_ns, self._followed, self._hand_back = 0, False, False

    def refused(self, why: str) -> None:
        """Take the controller's refusal of what was asked for last."""
        self.problem = why
        if self.state is LeaderState.OPERATED and not self._followed:
            self._hand_back = True

    def step(self, now_ns: int, leaders: np.ndarray | None, command: np.ndarray | None,
             controller: ArmState | None, carried: bool = False) -> Step:
        """Decide what to do now.

        :param now_ns: this instant [ns].
        :param leaders: (14,) fresh joints of the leaders [rad, grippers 0..1], or None.
        :param command: (14,) target of the followers, or None where they have none.
        :param controller: its state, or None where nothing is known.
        :param carried: leaders that are let go stay where they are, by gravity compensation.
        """
        if leaders is None:
            self._grabbed = 0
            return Step()
        if self.state is LeaderState.RESTING and controller in FOLLOWED and command is not None and not self.problem:
            return self._engage()
        if self.state is LeaderState.RESTING and controller not in FOLLOWED:
            self.problem = ''  # whoever asks for the next motion tries again
        if self.state is LeaderState.TRACKING:
            return self._track(leaders, command, controller, carried)
        if self.state is LeaderState.OPERATED:
            return self._operated(now_ns, controller)
        return Step()

    def _engage(self, ask: ArmState | None = None) -> Step:
        self.state, self._pedal, self._grabbed, self._opened = LeaderState.ENGAGING, False, 0, False
        return Step(order=Order.ENGAGE, ask=ask)

    def _track(self, leaders: np.ndarray, command: np.ndarray | None, controller: ArmState | None,
               carried: bool) -> Step:
        if controller not in FOLLOWED or command is None:
            self.state = LeaderState.RESTING
            return Step()
        if self._goal is None:
            self._goal = leaders.copy()
        off = np.abs(leaders - self._goal).reshape(2, 7)[:, :6].max(axis=1) > self._settings.grab_distance
        self._grabbed = self._grabbed + 1 if (off.any() if carried else off.all()) else 0
        grabbed = controller is ArmState.POLICY and self._grabbed >= self._settings.grab_periods
        closed = bool((leaders[list(GRIPPER_COLUMNS)] < self._settings.closed_below).all())
        self._opened |= not closed  # grippers that were closed all along are no gesture
        squeezed = controller is ArmState.HOLD and closed and self._opened
        if self._pedal or grabbed or squeezed:
            self._back, self.state = controller, LeaderState.RELEASING
            return Step(order=Order.RELEASE)
        self._goal = self._limits.apply(self._goal, command[None], self._period_s)[0]
        return Step(target=self._goal)

    def _operated(self, now_ns: int, controller: ArmState | None) -> Step:
        self._followed |= controller is ArmState.TELEOP
        if self._hand_back:
            return self._engage(self._back if self._followed else None)
        if not self._asked_ns:
            self._asked_ns = now_ns
            return Step(ask=ArmState.TELEOP)
        late = not self._followed and now_ns - self._asked_ns > ANSWER_NS
        if late or (self._followed and controller is not ArmState.TELEOP):
            return self._engage()
        return Step()

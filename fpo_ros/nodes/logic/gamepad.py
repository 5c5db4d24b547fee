"""What the buttons of a gamepad or a pedal mean: stop, hold to run, and wishes of the operator. Time is an argument."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

#: The button that resets an emergency stop must be held for so long: a reset is deliberate [ns].
RESET_NS = 1_000_000_000
#: Wishes that a button can stand for → service that is called.
WISHES = {'take_over': 'take_over', 'hand_back': 'hand_back', 'confirm_reset': 'operator/confirm_reset',
          'mark_success': 'operator/mark_success', 'mark_failure': 'operator/mark_failure'}


@dataclass(frozen=True)
class Buttons:
    """Numbers of buttons in sensor_msgs/Joy; -1: none.

    :param stop: presses the emergency stop as long as it is down.
    :param reset: held for a second, resets a latched stop.
    :param hold: arms may move only while it is down, where the controller has a ``hold_to_run_limit``.
    :param wishes: name of :data:`WISHES` → button.
    """

    stop: int
    reset: int
    hold: int
    wishes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """What a message of the device means.

    :param pressed: the emergency stop is pressed.
    :param held: the button of hold-to-run is down.
    :param calls: services to call now.
    :param problem: which button the device does not have; empty for none. The others count.
    """

    pressed: bool
    held: bool
    calls: tuple[str, ...]
    problem: str = ''


class Gamepad:
    """Turns states of buttons into what is wanted. A button that is down from the start counts once it was up.

    The stop is the exception: it is pressed whenever it is down.

    :param buttons: which is which.
    """

    def __init__(self, buttons: Buttons) -> None:
        self._buttons = buttons
        self._named = {'stop': buttons.stop, 'reset': buttons.reset, 'hold': buttons.hold, **buttons.wishes}
        self._seen_up: set[str] = set()
        self._down: set[str] = set()
        self._reset_since: int | None = None

    def step(self, states: Sequence[int], now_ns: int) -> Step:
        """Take a message of the device.

        :param states: of all buttons, not 0 where down.
        """
        down, problem = set(), ''
        for name, number in self._named.items():
            if number >= len(states):
                problem = problem or (f'{name} is button {number}, and the device has {len(states)}: set another '
                                      'number, or -1 for none')
            elif number >= 0 and states[number]:
                down.add(name)
        self._seen_up |= set(self._named) - down
        new, self._down = down & self._seen_up - self._down, down
        calls = [WISHES[name] for name in self._buttons.wishes if name in new]
        if 'reset' not in down or 'stop' in down:
            self._reset_since = None
        elif 'reset' in new:
            self._reset_since = now_ns
        if self._reset_since is not None and now_ns - self._reset_since >= RESET_NS:
            self._reset_since = None
            calls.append('reset_emergency_stop')
        # A stop that the device does not have is pressed: nobody could press it.
        pressed = 'stop' in down or self._buttons.stop >= len(states)
        return Step(pressed, 'hold' in down & self._seen_up, tuple(calls), problem)

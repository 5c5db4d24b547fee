"""Sequences of the arms beside their control: prepare motors, home, park, rest. Each yields its steps in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from fpo_ros.hardware import xs
from fpo_ros.hardware.modes import MotorSettings
from fpo_ros.hardware.names import ARM_GROUP, GRIPPER_NAME
from fpo_ros.hardware.xs_client import XsClient
from fpo_ros.runtime.controller_config import ArmState
from fpo_ros.runtime.homing import AT_HOME, PARKED

#: Name → what it does.
SEQUENCES = {
    'prepare': 'reboot the grippers, see that no motor is hot or in error, modes and torque as configured',
    'reboot': 'reboot motors that have shut down: support the arms',
    'home': 'go to the start pose',
    'park': 'go to the pose in which motors may be switched off',
    'rest': 'park, then switch the torque off: the arms sink a little',
}
#: States in which the controller sends nothing.
_SILENT = (ArmState.IDLE, ArmState.STOPPED)


class SequenceError(RuntimeError):
    """A sequence cannot be carried out; the message says why and what to do."""


class Controller(Protocol):
    """The arm controller, as a sequence sees it."""

    def state(self) -> ArmState:
        """Return its state.

        :raises SequenceError: when nothing is heard of it.
        """

    def ask(self, state: ArmState, reason: str) -> None:
        """Ask for a state.

        :raises SequenceError: with its reason not to.
        """

    def ended(self, state: ArmState) -> str:
        """Wait until it leaves a state that was asked for; return why it did.

        :raises SequenceError: when it does not.
        """


class Sequences:
    """What can be done with both followers. The generators must be used up; closed early, they stop between two steps.

    :param arms: follower → client of its driver.
    :param controller: of both.
    :param settings: follower → those of its 7 motors; the arm has one mode.
    :param hottest_c: motors that are hotter are not put to work [degrees Celsius].
    """

    def __init__(self, arms: Mapping[str, XsClient], controller: Controller,
                 settings: Mapping[str, Sequence[MotorSettings]], hottest_c: float) -> None:
        self._arms, self._controller, self._settings, self._hottest_c = arms, controller, settings, hottest_c

    def steps(self, name: str) -> Iterator[str]:
        """Carry a sequence out; yields what is done next.

        :raises SequenceError: for an unknown name, or when it cannot go on.
        :raises fpo_ros.hardware.xs_types.XsError: for a motor that does not do as it is told.
        """
        if name not in SEQUENCES:
            raise SequenceError(f"unknown sequence '{name}': there are {', '.join(SEQUENCES)}")
        yield from getattr(self, f'_{name}')()

    def _prepare(self) -> Iterator[str]:
        self._silent()
        for arm, client in self._arms.items():
            yield f'{arm}: temperatures and errors'
            self._look(arm, client)
        for arm, client in self._arms.items():
            self._silent()  # somebody may have asked for a motion meanwhile
            yield f'{arm}: rebooting the gripper'
            client.reboot(GRIPPER_NAME)
            yield f'{arm}: operating modes'
            self._set_modes(arm, client)
            yield f'{arm}: torque on'
            if not all(client.torques().values()):
                client.set_torque('all', True)

    def _reboot(self) -> Iterator[str]:
        self._silent()
        for arm, client in self._arms.items():
            broken = client.errors()
            if broken:
                self._silent()
                yield f'{arm}: rebooting ' + ', '.join(f'{motor} ({", ".join(why)})' for motor, why in broken.items())
                client.reboot('all', only_in_error=True)
                self._set_modes(arm, client)

    def _home(self) -> Iterator[str]:
        yield from self._go(ArmState.HOMING, 'going to the start pose', AT_HOME)

    def _park(self) -> Iterator[str]:
        yield from self._go(ArmState.PARKING, 'going to the park pose', PARKED)

    def _rest(self) -> Iterator[str]:
        yield from self._park()
        yield 'switching the torque off'
        self._controller.ask(ArmState.IDLE, 'parked, torque off')
        for client in self._arms.values():
            client.set_torque('all', False)

    def _go(self, state: ArmState, words: str, wanted: str) -> Iterator[str]:
        yield words
        self._controller.ask(state, words)
        reason = self._controller.ended(state)
        if reason != wanted:
            raise SequenceError(f'the arms did not get there: {reason}')

    def _silent(self) -> None:
        state = self._controller.state()
        if state not in _SILENT:
            raise SequenceError(f'the arms are being commanded ({state.name}): run "rest", or ask for IDLE, first')

    def _look(self, arm: str, client: XsClient) -> None:
        hot = {motor: value for motor, value in client.temperatures_c().items() if value > self._hottest_c}
        if hot:
            motor, value = max(hot.items(), key=lambda item: item[1])
            raise SequenceError(f'{arm}: {motor} has {value} degrees Celsius, the limit is {self._hottest_c:g}: let it '
                                'cool down')
        broken = {motor: why for motor, why in client.errors().items() if motor != GRIPPER_NAME}
        if broken:
            words = ', '.join(f'{motor} has shut down ({", ".join(why)})' for motor, why in broken.items())
            raise SequenceError(f'{arm}: {words}: support the arm, which falls when its motors reboot, and run '
                                '"reboot"')

    def _set_modes(self, arm: str, client: XsClient) -> None:
        """See to the modes as configured. Profiles are written while the torque is on: a reboot clears them.

        :raises SequenceError: where the mode of an arm with torque must change, which would let it fall for a moment.
        """
        for part, one in ((ARM_GROUP, self._settings[arm][0]), (GRIPPER_NAME, self._settings[arm][-1])):
            modes = set(client.register(part, 'Operating_Mode').values())
            if modes != {xs.MODES[one.mode]} or client.info(part).profile_type != one.profile_type:
                if part == ARM_GROUP and any(client.register(part, 'Torque_Enable').values()):
                    raise SequenceError(f'{arm}: its mode is not "{one.mode}" with profile "{one.profile_type}", and '
                                        'changing it takes the torque away for a moment: run "rest" first')
                client.set_mode(part, one.mode, one.profile_type, one.profile_velocity, one.profile_acceleration)
                continue
            for register, wanted in (('Profile_Velocity', one.profile_velocity),
                                     ('Profile_Acceleration', one.profile_acceleration)):
                if set(client.register(part, register).values()) != {wanted}:
                    client.set_register(part, register, wanted)

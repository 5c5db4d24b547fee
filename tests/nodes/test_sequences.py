"""Sequences of the arms, against motors that remember what they were told."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from fpo_ros.hardware import xs
from fpo_ros.hardware.modes import MotorSettings, load_modes
from fpo_ros.hardware.xs_types import XsError
from fpo_ros.nodes.logic.sequences import SequenceError, Sequences
from fpo_ros.runtime.controller_config import ArmState

CONFIG = Path(__file__).parents[2] / 'config'
MODES = {'arm': MotorSettings(profile_velocity=63),
         'gripper': MotorSettings('current_based_position', profile_velocity=105)}
SETTINGS = (MODES['arm'],) * 6 + (MODES['gripper'],)


class Arm:
    """Motors of one arm: shoulder, elbow and gripper."""

    def __init__(self) -> None:
        self.told: list[tuple] = []
        self.temperature = dict.fromkeys(('shoulder', 'elbow', 'gripper'), 35)
        self.error: dict[str, tuple[str, ...]] = {}
        self.torque = dict.fromkeys(self.temperature, True)
        self.registers = {part: {'Operating_Mode': xs.MODES[mode.mode], 'Profile_Acceleration': 0,
                                 'Profile_Velocity': mode.profile_velocity} for part, mode in MODES.items()}

    def temperatures_c(self):
        return self.temperature

    def errors(self):
        return self.error

    def torques(self):
        return self.torque

    def register(self, part, name):
        if name == 'Torque_Enable':
            return {motor: int(on) for motor, on in self.torque.items()}
        return {part: self.registers[part][name]}

    def info(self, part):
        return SimpleNamespace(profile_type=MODES[part].profile_type)

    def set_register(self, part, register, value):
        self.told.append((register, part, value))
        self.registers[part][register] = value

    def reboot(self, name, enable=True, only_in_error=False):
        self.told.append(('reboot', name, only_in_error))
        self.registers['gripper']['Profile_Velocity'] = 0  # what is no EEPROM is lost
        self.error = {}

    def set_mode(self, part, mode, profile_type, velocity, acceleration):
        self.told.append(('mode', part, mode))
        self.registers[part]['Profile_Velocity'] = velocity

    def set_torque(self, name, enable):
        self.told.append(('torque', name, enable))
        self.torque = dict.fromkeys(self.torque, enable)


class Controller:
    """A controller whose motions end as a test wants."""

    def __init__(self, state: ArmState = ArmState.IDLE, outcome: str = '') -> None:
        self.now, self.outcome, self.asked = state, outcome, []

    def state(self):
        return self.now

    def ask(self, state, reason):
        self.asked.append(state)
        self.now = state

    def ended(self, state):
        self.now = ArmState.HOLD
        return self.outcome


def made(controller: Controller | None = None) -> tuple[Sequences, dict[str, Arm], Controller]:
    arms, controller = {'left': Arm(), 'right': Arm()}, controller or Controller()
    return Sequences(arms, controller, dict.fromkeys(arms, SETTINGS), 60.0), arms, controller


def test_preparing_reboots_grippers_and_gives_them_back_what_that_took() -> None:
    sequences, arms, _ = made()
    arms['right'].torque['elbow'] = False
    steps = list(sequences.steps('prepare'))
    assert steps[:2] == ['left: temperatures and errors', 'right: temperatures and errors'], 'before any is touched'
    mended = [('reboot', 'gripper', False), ('Profile_Velocity', 'gripper', 105)]
    assert arms['left'].told == mended, 'the mode of the arm is as wanted: changing it would let the arm fall'
    assert arms['right'].told == [*mended, ('torque', 'all', True)]


def test_an_arm_that_has_torque_is_not_let_fall_for_another_mode() -> None:
    sequences, arms, _ = made()
    arms['left'].registers['arm'] |= {'Operating_Mode': xs.MODES['velocity'], 'Profile_Velocity': 0}
    with pytest.raises(SequenceError, match='left: its mode is not "position" .* run "rest" first'):
        list(sequences.steps('prepare'))
    arms['left'].set_torque('all', False)
    list(sequences.steps('prepare'))
    assert ('mode', 'arm', 'position') in arms['left'].told


def test_a_profile_that_a_reboot_cleared_is_written_with_the_torque_on() -> None:
    sequences, arms, _ = made()
    arms['left'].registers['arm']['Profile_Velocity'] = 0
    list(sequences.steps('prepare'))
    assert ('Profile_Velocity', 'arm', 63) in arms['left'].told and ('mode', 'arm', 'position') not in arms['left'].told


@pytest.mark.parametrize('state', [ArmState.HOLD, ArmState.POLICY, ArmState.TELEOP])
@pytest.mark.parametrize('name', ['prepare', 'reboot'])
def test_motors_are_not_touched_while_they_are_commanded(name, state) -> None:
    sequences, arms, _ = made(Controller(state))
    with pytest.raises(SequenceError, match=f'being commanded .{state.name}'):
        list(sequences.steps(name))
    assert not arms['left'].told


def test_a_motion_that_is_asked_for_meanwhile_ends_the_preparation() -> None:
    sequences, arms, controller = made()
    steps = sequences.steps('prepare')
    next(steps), next(steps)
    controller.now = ArmState.HOMING
    with pytest.raises(SequenceError, match='being commanded .HOMING'):
        list(steps)
    assert not arms['left'].told


def test_hot_motors_and_those_that_shut_down_are_named_with_what_to_do() -> None:
    sequences, arms, _ = made()
    arms['right'].temperature['elbow'] = 61
    with pytest.raises(SequenceError, match='right: elbow has 61 degrees Celsius, the limit is 60: let it cool'):
        list(sequences.steps('prepare'))
    arms['right'].temperature['elbow'] = 40
    arms['right'].error = {'elbow': ('overload',), 'gripper': ('overload',)}
    with pytest.raises(SequenceError, match=r'elbow has shut down \(overload\): support the arm'):
        list(sequences.steps('prepare'))
    assert not arms['left'].told, 'nothing was done before all were looked at'
    assert list(sequences.steps('reboot')) == ['right: rebooting elbow (overload), gripper (overload)']
    assert arms['right'].told[0] == ('reboot', 'all', True) and not arms['left'].told
    arms['right'].error = {'gripper': ('overload',)}
    list(sequences.steps('prepare'))


def test_torque_goes_only_where_the_arms_are_parked_and_nothing_is_sent_any_more() -> None:
    sequences, arms, controller = made(Controller(ArmState.HOLD, 'parked'))
    list(sequences.steps('rest'))
    assert controller.asked == [ArmState.PARKING, ArmState.IDLE]
    assert all(arm.told == [('torque', 'all', False)] for arm in arms.values())
    sequences, arms, controller = made(Controller(ArmState.HOLD, 'left_elbow stands 1.2 rad from its target'))
    with pytest.raises(SequenceError, match='did not get there: left_elbow stands'):
        list(sequences.steps('rest'))
    assert controller.asked == [ArmState.PARKING] and not arms['left'].told


@pytest.mark.parametrize(('name', 'outcome', 'state'), [('home', 'home reached', ArmState.HOMING),
                                                        ('park', 'parked', ArmState.PARKING)])
def test_motions_are_the_controllers(name, outcome, state) -> None:
    sequences, _, controller = made(Controller(ArmState.IDLE, outcome))
    assert len(list(sequences.steps(name))) == 1 and controller.asked == [state]


def test_a_sequence_that_is_given_up_stops_between_two_steps() -> None:
    sequences, arms, _ = made()
    steps = sequences.steps('prepare')
    for _ in range(3):
        next(steps)
    steps.close()
    assert not arms['left'].told and not arms['right'].told


def test_a_motor_that_does_not_follow_ends_it() -> None:
    sequences, arms, _ = made()

    def refused(*_):
        raise XsError('left: gripper: register Torque_Enable: wanted 1, found 0')

    arms['left'].reboot = refused
    with pytest.raises(XsError, match='wanted 1, found 0'):
        list(sequences.steps('prepare'))


def test_modes_are_those_of_the_drivers_files() -> None:
    assert load_modes(CONFIG / 'follower_left_modes.yaml') == SETTINGS

"""The fault table: what strikes a driving cell, what must come of it, and how it recovers."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from fault_rig import STALL, STANDS, TRIES, FaultRig

from fpo_ros.episodes.store import EpisodeStore
from fpo_ros.nodes.graph import GraphError
from fpo_ros.runtime.controller_config import ArmState

#: Time for which the arms must stand after they have stopped, and an episode must go on after a fault [s].
STAND_S, GOES_ON_S = 0.3, 1.0
#: Columns of the left elbow and what it carries, in the twelve joints of the ground truth.
LEFT_ELBOW = (2, 3, 4, 5)
#: What the manager and the controller say of a controller that stood still.
SILENT, PAUSED = 'no controller status for 0.5 s', 'the control loop paused'
STARVED = r'arm_controller: .*POLICY -> HOLD: no chunk for 1\.0 s'
STARVED_OR_STALLED = rf'arm_controller: .*POLICY -> HOLD: (no chunk for 1\.0 s|{STALL})'
HELD = 'arm_controller: state: HOLD: '


@dataclass(frozen=True)
class Row:
    """One fault.

    :param name: of the fault.
    :param strike: lets it begin, while the policy moves the arms.
    :param ends: reason with which the episode ends; empty: it goes on; ``'lost'``: its manager is dead.
    :param message: what the message of the end must match.
    :param diagnosed: what /diagnostics must say.
    :param logged: what the log must say, each once.
    :param mend: ends it; what has died is started before the next row drives.
    :param prepare: brings about what it needs.
    :param verify: checks what is particular to it, since it struck.
    :param stand_in: whether the policy is the stand-in.
    :param arms: whether the physics survive it.
    :param stalls: joint states may stand still meanwhile, which then is the reason: after kill -9, Fast DDS may wait
        for the dead reader (docs/graph.md), and a process that starts keeps a core busy.
    :param free: joints without power.
    """

    name: str
    strike: Callable[[FaultRig], None]
    ends: str = ''
    message: str = ''
    diagnosed: str = ''
    logged: tuple[str, ...] = ()
    mend: Callable[[FaultRig], None] = lambda rig: None
    prepare: Callable[[FaultRig], None] = lambda rig: None
    verify: Callable[[FaultRig, float], None] = lambda rig, struck: None
    stand_in: bool = False
    arms: bool = True
    stalls: bool = False
    free: tuple[int, ...] = ()


def killed(name: str, **fields: object) -> Row:
    """Return the row of a process that is killed."""
    if 'message' in fields:
        fields['message'] = f'{fields["message"]}|{STALL}'
    logged = (rf'up: {name} ended \(killed by SIGKILL\)', *fields.pop('logged', ()))
    return Row(f'{name} killed', lambda rig: rig.kill(name), logged=logged, stalls=True, **fields)


def policy(mode: str, name: str, **fields: object) -> Row:
    """Return the row of a policy that misbehaves."""
    return Row(f'policy {name}', lambda rig: setattr(rig.stand_in, 'mode', mode), stand_in=True,
               mend=lambda rig: setattr(rig.stand_in, 'mode', ''), **fields)


def refused(mode: str, name: str, why: str) -> Row:
    """Return the row of a policy of whose chunks none is fit."""
    return policy(mode, name, ends='controller', message=f'no chunk for 1.0 s.*newest refusal: .*{why}',
                  diagnosed=f'{HELD}no chunk.*{why}', logged=(f'chunk refused: .*{why}', STARVED))


def drivers(name: str, fault: str, why: str, logged: tuple[str, ...] = (), **fields: object) -> Row:
    """Return the row of a fault of the drivers that the controller sees in joint states."""
    free, stand_in = fields.pop('free', ()), fields.pop('stand_in', False)
    return Row(name, lambda rig: rig.fault(fault, **fields), ends='controller',
               message=f'left POLICY for HOLD: .*{why}', diagnosed=f'{HELD}.*{why}',
               logged=(f'arm_controller: .*POLICY -> HOLD: .*{why}', *logged), mend=FaultRig.mend,
               free=free, stand_in=stand_in)


def cameras(name: str, fault: str, why: str, target: str = '') -> Row:
    """Return the row of a fault of cameras."""
    return Row(name, lambda rig: rig.fault(fault, target=target), ends='controller', message='no chunk for 1.0 s',
               diagnosed=f'proprio_ingest: observation: .*{why}',
               logged=(f'proprio_ingest: .*no observation: .*{why}', STARVED), mend=FaultRig.mend)


def _lose_commands(rig: FaultRig) -> None:
    rig.stand_in.mode = 'wide'
    rig.fault('dropped_commands', target='follower_left')


def _pause_controller(rig: FaultRig) -> None:
    rig.graph.signal('arm_controller', signal.SIGSTOP)
    time.sleep(1.0)
    rig.graph.signal('arm_controller', signal.SIGCONT)


def _starve_controller(rig: FaultRig) -> None:
    for _ in range(20):
        rig.graph.signal('arm_controller', signal.SIGSTOP)
        time.sleep(0.08)
        rig.graph.signal('arm_controller', signal.SIGCONT)
        time.sleep(0.02)


def _start_second_controller(rig: FaultRig) -> None:
    second = rig.another('arm_controller')
    second.popen.wait(30.0)
    assert second.popen.returncode == 1, second.describe_end()


def _start_two_controllers(rig: FaultRig) -> None:
    """Start two at once in place of the dead one; one of them must end, and both may."""
    second = rig.another('arm_controller')
    rig.graph.start_one(next(spec for spec in rig.graph.description.nodes if spec.name == 'arm_controller'))
    pair = [rig.graph.processes['arm_controller'], second]
    rig.client.wait_for(lambda: any(not process.running for process in pair), 'one of two controllers to end', 40.0)
    seen = len(rig.statuses)
    rig.client.wait_for(lambda: not any(process.running for process in pair) or len(rig.statuses) > seen + 100,
                        'the other one to end or to go on', 20.0)
    ended = [process for process in pair if not process.running]
    assert all('another arm_controller is active' in process.describe_end() for process in ended)
    rig.graph.ended()
    if second.running:
        rig.graph.processes['arm_controller'] = second


def _holds_within_two_periods(rig: FaultRig, struck: float) -> None:
    """The target stands at the latest two periods after the last fresh row."""
    driven = [status for at, status in list(rig.statuses) if at >= struck - 0.4 and status.state == ArmState.POLICY]
    last = max(index for index, status in enumerate(driven) if status.remaining > 0) + 1  # which sent the last row
    targets = np.array([status.command for status in driven])
    assert len(driven) > last + 10 and not np.ptp(targets[last + 2:], axis=0).any()


def _nothing_moves_without_joint_states(rig: FaultRig, struck: float) -> None:
    with pytest.raises(GraphError, match='joint states are'):
        rig.client.set_state(ArmState.HOMING)


def _record_enough(rig: FaultRig) -> None:
    """Wait for more steps than a recorder keeps to itself."""
    first = rig.client.controller_status().ticks
    rig.client.wait_for(lambda: rig.client.controller_status().ticks > first + 130, '130 more steps', 20.0)


def _salvages(rig: FaultRig, struck: float) -> None:
    store = EpisodeStore.open(rig.store)
    leftovers = store.leftovers()
    assert leftovers, 'what was recorded must be left'
    leftover = max(leftovers, key=lambda one: one.steps)
    assert leftover.steps >= 100 and store.read(store.salvage(leftover.name)).meta.extra['salvaged'] is True


def _reboot_elbow(rig: FaultRig) -> None:
    rig.client.wait_for(lambda: rig.motion(time.time() - 0.5).speeds[:, LEFT_ELBOW].max() < STANDS,
                        'the elbow to lie still', 5.0)
    rebooted = time.time()
    rig.reboot('follower_left', 'elbow')
    rig.health('arm_controller: safety: nothing stands in the way', time.time())
    time.sleep(0.3)
    fastest = rig.motion(rebooted).speeds[:, LEFT_ELBOW].max()
    assert fastest < STANDS, f'it leapt at {fastest:.2f} rad/s when its torque came back'


def _stop_learner(rig: FaultRig) -> None:
    rig.graph.signal('learner', signal.SIGSTOP)


def _let_learner_go_on(rig: FaultRig) -> None:
    rig.graph.signal('learner', signal.SIGCONT)
    let_learner_announce(rig)


def let_learner_announce(rig: FaultRig) -> None:
    """Assert that the learner answers."""
    for last in (False, False, True):  # a reply may be lost while the nodes find each other again
        try:
            assert rig.client.announce('v000001', 6.0) == 'v000001'
            return
        except GraphError:
            if last:
                raise


TABLE = (
    # What goes on runs in one episode, what needs the stand-in follows in one go: so no time is lost between rows.
    killed('learner', diagnosed=f'arm_controller: state: POLICY|{STALL}'),
    Row('learner stopped', _stop_learner, diagnosed='arm_controller: state: POLICY', mend=_let_learner_go_on),
    Row('second controller started', _start_second_controller, diagnosed=f'arm_controller: state: POLICY|{STALL}',
        stalls=True, logged=('second arm_controller: FATAL another arm_controller is active',)),
    drivers('joint states NaN', 'read_failure', 'not finite: waist is nan',
            ('arm_controller: ERROR follower left: joint_states is not finite',
             'proprio_ingest: ERROR follower left: joint_states is not finite'), target='follower_left', value=1.0),
    drivers('joint states -pi', 'read_failure', 'implausible: left_', target='follower_left'),
    drivers('a joint missing in joint states', 'missing_joint', "lacks 'elbow'",
            ("arm_controller: ERROR follower left: joint_states lacks 'elbow'",), target='follower_left',
            motor='elbow'),
    drivers("drivers' clocks 5 s ahead", 'clock_jump', r'lie [45]\.\d+ s in the future', value=5.0),
    drivers("drivers' clocks 5 s behind", 'clock_jump', r'are [45]\.\d+ s old', value=-5.0),
    cameras('one camera dead', 'camera_stall', 'cam_low is', 'cam_low'),
    cameras('all cameras dead', 'camera_stall', 'cam_high is'),
    cameras('one camera frozen', 'camera_frozen', 'cam_high shows the same picture', 'cam_high'),
    Row('motor overload', lambda rig: rig.fault('overload', target='follower_left', motor='elbow'), ends='controller',
        message=r'left_elbow has switched its torque off \(overload\): support the arm',
        diagnosed=f'{HELD}left_elbow has switched', logged=('POLICY -> HOLD: left_elbow has switched',),
        mend=_reboot_elbow, free=LEFT_ELBOW),
    Row('controller gets a fifth of its time', _starve_controller,
        diagnosed=f'arm_controller: (control loop: slow|state: .*{STALL})', stalls=True),
    # The manager says it after 0.5 s, the controller when it wakes: one of them is the first to.
    Row('controller paused for 1 s', _pause_controller, ends='stream|controller', message=f'{SILENT}|{PAUSED}',
        diagnosed=f'episode_manager: episode: .*(stream after .*{SILENT}|controller after .*{PAUSED})',
        logged=(f'episode_manager: .*ended: .*({SILENT}|{PAUSED})', r'arm_controller: .*POLICY -> HOLD: ')),
    killed('arm_controller', ends='stream', message=SILENT,
           diagnosed=f'episode_manager: episode: .*stream after .*{SILENT}',
           logged=(f'episode_manager: .*ended: stream .*{SILENT}',), mend=_start_two_controllers),
    killed('proprio_ingest', ends='controller', message='no chunk for 1.0 s', diagnosed=f'{HELD}(no chunk|{STALL})',
           logged=(STARVED_OR_STALLED,)),
    killed('camera_ingest', ends='controller', message='no chunk for 1.0 s',
           diagnosed=r'proprio_ingest: observation: cam_\w+ is',
           logged=('no observation: cam_high is', STARVED_OR_STALLED)),
    killed('driver_twin', ends='controller|stream', message='joint states are|no task reward', arms=False,
           diagnosed='arm_controller: joint_states left: nothing for', logged=('arm_controller: .*POLICY -> HOLD: ',),
           verify=_nothing_moves_without_joint_states),
    killed('episode_manager', ends='lost', message='no sign of the episode manager|joint states are',
           diagnosed=HELD, logged=('arm_controller: .*POLICY -> HOLD: ',), prepare=_record_enough, verify=_salvages),
    killed('policy', ends='controller', message='no chunk for 1.0 s', diagnosed=f'{HELD}(no chunk|{STALL})',
           logged=(STARVED_OR_STALLED,)),
    policy('slow', 'answers 0.3 s late', diagnosed='arm_controller: state: POLICY'),
    policy('reordered', 'reordered', diagnosed='arm_controller: state: POLICY.*refused_chunks=[1-9]',
           logged=('chunk refused: .*out of order',)),
    policy('jump', 'jumps by 1 rad', diagnosed=r'arm_controller: safety: .*last_projection=.*speed limit'),
    policy('silent', 'silent', ends='controller', message='no chunk for 1.0 s', diagnosed=f'{HELD}no chunk',
           logged=(STARVED,), verify=_holds_within_two_periods),
    refused('nan', 'sends NaN', 'not finite: row 4, left_elbow is nan'),
    refused('short', 'sends a wrong length', r'shape \(9, 14\)'),
    refused('stale', 'answers old observations', r'an observation 2\.\d+ s old'),
    # A policy that sees frozen joints may send them nowhere, and then nothing is wrong.
    drivers('joint states frozen', 'frozen_read', 'left arm did not change', target='follower_left', stand_in=True),
    Row('commands lost', _lose_commands, ends='controller', message='left_waist stands .* rad from its target',
        diagnosed=f'{HELD}left_waist stands', logged=('POLICY -> HOLD: left_waist stands',), mend=FaultRig.mend,
        stand_in=True),
)


def run_row(rig: FaultRig, row: Row, delay_s: float = 0.0) -> float | None:
    """Let a fault strike a driving cell, check what comes of it, and mend it; anew where a busy moment came between.

    :param delay_s: from when the arms are seen to move to the strike [s]: it decides where in a swing they are.
    :returns: from the strike to the end of the last motion [s]; None where the arms go on, or their physics end.
    :raises AssertionError: where something is not as the row says.
    """
    for _ in range(TRIES - 1):
        begun = time.time()
        try:
            return _run_row(rig, row, delay_s)
        except (AssertionError, GraphError) as error:
            if not rig.stalled(begun):
                raise
            print(f'{row.name}: once more, since the machine was busy: {error}')
    return _run_row(rig, row, delay_s)


def _run_row(rig: FaultRig, row: Row, delay_s: float) -> float | None:
    rig.drive(row.stand_in)
    row.prepare(rig)
    rig.drive(row.stand_in)  # goes on, unless a busy moment ended the episode meanwhile
    time.sleep(delay_s)
    struck = time.time()
    try:
        row.strike(rig)
        _check_end(rig, row, struck)
        if row.diagnosed:
            rig.health(row.diagnosed, struck)
        reaction = None
        if row.arms:
            rig.check_limits(struck - 0.5, row.free)
            reaction = _reaction_s(rig, row, struck)
        for pattern in row.logged:
            lines = rig.said(pattern, struck)
            assert len(lines) == 1, f'{row.name}: the log must say "{pattern}" once, not {lines}'
        row.verify(rig, struck)
    finally:
        row.mend(rig)
    return reaction


def _check_end(rig: FaultRig, row: Row, struck: float) -> None:
    if not row.ends:
        time.sleep(max(0.0, struck + GOES_ON_S - time.time()))
        if rig.ended:
            ended = rig.end.result().result
            assert row.stalls and re.search(STALL, ended.message), ended
            return
        assert (rig.motion(time.time() - 0.8).speeds > 0.5).any(), 'the arms go on'
        return
    if row.ends == 'lost':
        rig.handle = None
        reason = rig.client.wait_for_state(ArmState.HOLD, 5.0).reason
        assert re.search(row.message, reason), reason
        return
    outcome = rig.outcome()
    assert re.fullmatch(row.ends, outcome.reason) and re.search(row.message, outcome.message), outcome
    assert outcome.episode_id, f'what was recorded until then must be stored: {outcome}'


def _reaction_s(rig: FaultRig, row: Row, struck: float) -> float | None:
    if not row.ends:
        return None
    driven = [joint for joint in range(12) if joint not in row.free]
    rig.client.wait_for(lambda: (motion := rig.motion(struck)).at_s[-1] - motion.last_s(driven) >= STAND_S,
                        'the arms to stand', 5.0)
    return max(0.0, rig.motion(struck).last_s(driven) - struck)



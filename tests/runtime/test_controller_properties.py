"""Whatever comes in, in whatever order and at whatever time: no command violates a limit."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fpo_ros.policy.contract import START_JOINTS, PolicyContract
from fpo_ros.policy.limits import JointLimits
from fpo_ros.runtime.controller import ArmControllerCore, ArmState, ControllerConfig
from fpo_ros.runtime.safety_config import SafetyConfig, inside_registers

LIMITS = inside_registers(JointLimits(), SafetyConfig().position_margin)
STEP = LIMITS.speed * 0.02
S = 1_000_000_000
PERIOD_NS = 20_000_000
ACTIVE = (ArmState.HOMING, ArmState.POLICY, ArmState.HOLD, ArmState.TELEOP, ArmState.PARKING)

elapsed = st.one_of(st.just(PERIOD_NS), st.integers(-5 * S, 5 * S), st.just(0))
age = st.one_of(st.just(0), st.integers(-S, S))
joints = st.one_of(
    st.just(START_JOINTS), st.none(),
    arrays(np.float64, st.sampled_from([14, 13, (2, 7)]), elements=st.floats()),
    arrays(np.float64, 14, elements=st.floats(-2, 2)),
    st.floats(-0.4, 0.4).map(lambda shift: START_JOINTS + shift))
chunk = st.one_of(
    arrays(np.float32, (4, 14), elements=st.floats(width=32)),
    arrays(np.float32, st.sampled_from([(4, 14), (3, 14), (4, 13), (56,), (0, 14)]),
           elements=st.floats(-4, 4, width=32)),
    st.none(), st.just([[1.0] * 14] * 4))
events = st.lists(st.one_of(
    st.tuples(st.just('tick'), elapsed, joints, age),
    st.tuples(st.just('run'), st.integers(1, 6)),
    st.tuples(st.just('chunk'), chunk, st.integers(-3, 9), age, st.sampled_from(['v1', 'v2']),
              st.integers(0, 3)),
    st.tuples(st.just('good chunk'), arrays(np.float32, (4, 14), elements=st.floats(-4, 4, width=32)),
              st.sampled_from(['v1', 'v2']), st.integers(0, 2)),
    st.tuples(st.just('request'), st.integers(-1, 7)),
    st.tuples(st.just('leaders'), st.one_of(joints, st.just(START_JOINTS)), age),
    st.tuples(st.just('stop'), st.booleans()),
    st.tuples(st.just('reset'))), max_size=40)


class Watch:
    """Drives a controller and checks every command it gives."""

    def __init__(self):
        self.core = ArmControllerCore(PolicyContract(horizon=4, execute=3), LIMITS,
                                      ControllerConfig(starve_limit_s=0.1, settle_limit_s=0.1))
        self.now, self.sequence, self.last, self.latched = 1000 * S, 0, None, False

    def tick(self, step_ns, measured, measured_age):
        self.now += step_ns
        remaining, before = self.core.remaining, self.core.state
        takeovers = self.core.takeovers
        command = self.core.tick(self.now, measured, self.now - measured_age)
        if self.latched:
            assert command is None and self.core.state is ArmState.STOPPED
        if command is None:
            blind = self.core.state is ArmState.HOLD and self.core.joints.problem
            assert blind or self.core.state in (ArmState.IDLE, ArmState.STOPPED)
            self.last = self.last if blind else None
            return
        assert self.core.state in ACTIVE
        assert command.shape == (14,) and np.isfinite(command).all()
        assert (command >= LIMITS.lower).all() and (command <= LIMITS.upper).all()
        if self.core.takeovers != takeovers:
            pose = np.clip(self.core.joints.value, LIMITS.lower, LIMITS.upper)
            current = self.last is not None and (command == self.last).all()
            arms = [column for column in range(14) if column not in (6, 13)]
            assert current or (command[arms] == pose[arms]).all(), 'starts neither as measured nor as sent'
            if self.last is None:
                np.testing.assert_array_equal(command, pose)
        else:
            assert (np.abs(command - self.last) <= STEP + 1e-12).all()
            if remaining == 0 and before in (ArmState.POLICY, ArmState.HOLD):
                np.testing.assert_array_equal(command, self.last, 'moved without a fresh row')
        self.last = command

    def run(self, kind, *values):
        core = self.core
        if kind == 'tick':
            self.tick(*values)
        elif kind == 'run':
            for _ in range(values[0]):
                self.tick(PERIOD_NS, START_JOINTS if self.last is None else self.last, 0)
        elif kind == 'chunk':
            rows, sequence, observed, version, joining = values
            core.accept_chunk(rows, sequence, self.now - observed, self.now, policy_version=version,
                              joining=joining)
        elif kind == 'good chunk':
            self.sequence += 1
            core.accept_chunk(values[0], self.sequence, self.now + self.sequence, self.now,
                              policy_version=values[1], joining=values[2])
        elif kind == 'leaders':
            core.teleoperation.offer(values[0], self.now - values[1])
        elif kind == 'request':
            granted, why = core.request(values[0])
            assert granted or why
            self.latched |= granted and values[0] == ArmState.STOPPED
        elif kind == 'stop':
            core.emergency_stop(values[0])
            self.latched |= values[0]
        elif core.reset_emergency_stop()[0]:
            self.latched = False


@settings(max_examples=300, deadline=None)
@given(events)
def test_no_sequence_of_events_makes_a_bad_command(sequence):
    watch = Watch()
    for event in sequence:
        watch.run(*event)


@settings(max_examples=100, deadline=None)
@given(events)
def test_from_policy_on_no_sequence_of_events_makes_a_bad_command(sequence):
    watch = Watch()
    for event in [('run', 1), ('request', ArmState.POLICY), ('run', 1), *sequence]:
        watch.run(*event)
    assert watch.core.timing.ticks >= 2


@settings(max_examples=60, deadline=None)
@given(arrays(np.float32, (4, 14), elements=st.floats(-4, 4, width=32)), st.integers(0, 3), st.integers(1, 8))
def test_the_arms_hold_within_two_periods_of_the_last_fresh_row(rows, sent, silent):
    """After ``sent`` rows of a chunk the policy dies; once the rows are used up no command moves any more."""
    watch = Watch()
    for event in [('run', 1), ('request', ArmState.POLICY), ('run', 1), ('good chunk', rows, 'v1', 0)]:
        watch.run(*event)
    watch.run('run', max(1, sent))
    watch.run('run', watch.core.remaining + 1)
    held = watch.last
    watch.run('run', silent)
    np.testing.assert_array_equal(watch.last, held)

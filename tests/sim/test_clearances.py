"""Tools and gaps on the model of the cell, and the filter on it: no command comes nearer than a clearance."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fpo_ros.policy.contract import START_JOINTS
from fpo_ros.policy.limits import JointLimits
from fpo_ros.runtime.safety import SafetyFilter
from fpo_ros.runtime.safety_config import SafetyConfig
from fpo_ros.sim.clearances import CellGeometry, Clearances
from fpo_ros.sim.model import load_model

PERIOD = 0.02
LIMITS = JointLimits()


@pytest.fixture(scope='module')
def cell():
    return CellGeometry()


def pose(left=None, right=None):
    joints = np.array(START_JOINTS)
    for start, arm in ((0, left), (7, right)):
        if arm is not None:
            joints[start:start + 6] = arm
    return joints


def named(cell, joints):
    """Return pair → distance [m], which is cut off beyond 5 cm more than the clearance."""
    return dict(zip(cell.names, cell.look(joints).gaps + cell.least, strict=True))


def test_the_tool_of_a_straight_arm_by_hand(cell):
    """Links of vx300s_left.xml: 0.079 + 0.04805 + 0.3 up, 0.05955 + 0.2 + 0.1 + 0.069744 and 0.1347 ahead."""
    tools = cell.look(pose([0] * 6, [0] * 6)).tools
    by_hand = [0.05955 + 0.2 + 0.1 + 0.069744 + 0.1347, 0.0, 0.079 + 0.04805 + 0.3]
    np.testing.assert_allclose(tools, [by_hand, by_hand], atol=1e-5)


def test_each_arm_looks_from_its_own_base(cell):
    turned = cell.look(pose([0.5, 0, 0, 0, 0, 0], [0.5, 0, 0, 0, 0, 0])).tools
    np.testing.assert_allclose(turned[0], turned[1], atol=1e-5)
    assert turned[0, 1] == pytest.approx(np.sin(0.5) * 0.563994, abs=1e-4), 'a waist turned left moves the tool left'


def test_gaps_are_lower_bounds_of_the_models_distances_and_exact_where_it_matters(cell):
    model = load_model('transfer_cube')
    data, rng = mujoco.MjData(model.mj), np.random.default_rng(0)
    geoms = [(int(a), int(b)) for a, b in zip(cell._first, cell._second, strict=True)]
    near = 0
    for _ in range(60):
        joints = rng.uniform(LIMITS.lower, LIMITS.upper)
        data.qpos[:] = model.start_qpos(np.array([5.0, 5, 5, 1, 0, 0, 0]), joints)
        mujoco.mj_kinematics(model.mj, data)
        look = cell.look(joints)
        for pair, (one, other) in enumerate(geoms):
            if 'table' in cell.names[pair]:
                continue
            true = mujoco.mj_geomDistance(model.mj, data, one, other, 9.0, None) - cell.least[pair]
            assert look.gaps[pair] <= true + 1e-6, cell.names[pair]
            if true < 0.04:
                near += 1
                assert look.gaps[pair] == pytest.approx(true, abs=1e-6), cell.names[pair]
    assert near > 100


def test_nothing_is_free_below_the_table(cell):
    under = named(cell, pose([0, 0.9, 0.3, 0, 0.3, 0]))
    assert under['left gripper and table'] < 0 and under['left wrist and table'] < 0
    over = named(cell, pose([0, 0.45, 0.3, 0, 0.5, 0]))
    assert 0 < over['left gripper and table'] < 0.06


def test_what_is_watched_and_what_may_touch(cell):
    assert 'left wrist and right wrist' in cell.names and 'left gripper and table' in cell.names
    assert 'right wrist and right upper arm' in cell.names
    fingers = [name for name in cell.names if name.count('finger') == 2]
    assert not fingers, 'fingers of both arms hand over, and those of one arm close'
    assert not any('base and table' in name or 'box' in name for name in cell.names)


def test_where_the_cell_differs_its_measures_say(cell):
    apart, high = CellGeometry(base_distance_m=0.948), CellGeometry(table_height_m=0.1)
    reaching = pose([0, -0.2, 0.24, 0, 0, 0], [0, -0.2, 0.24, 0, 0, 0])
    pair = 'left gripper bar and right gripper bar'
    assert named(apart, reaching)[pair] == pytest.approx(named(cell, reaching)[pair] + 0.01, abs=2e-3)
    low = pose([0, 0.45, 0.3, 0, 0.5, 0])
    assert named(high, low)['left gripper and table'] == pytest.approx(
        named(cell, low)['left gripper and table'] - 0.1, abs=1e-6)
    np.testing.assert_array_equal(apart.look(reaching).tools, cell.look(reaching).tools)


def test_a_clearance_that_cannot_be_meant_is_refused():
    with pytest.raises(ValueError, match='clearance arm must be -0.1 to 0.2 m, got 2.0'):
        Clearances(arm=2.0)


def test_the_shipped_path_of_a_hand_over_is_left_alone(cell, plans):
    """The scripted expert without errors: what policies learn from must not be held up."""
    for plan in plans[:3]:
        gate = SafetyFilter(LIMITS, PERIOD, SafetyConfig(), cell)
        bare = SafetyFilter(LIMITS, PERIOD)
        gate.start(START_JOINTS)
        bare.start(START_JOINTS)
        for number, row in enumerate(plan):
            np.testing.assert_array_equal(gate.step(row, plan[number + 1:number + 6]), bare.step(row))


@pytest.mark.parametrize('target, pair', [
    (pose([0, 0.6, -0.6, 0, 0.5, 0], [0, 0.6, -0.6, 0, 0.5, 0]), 'right'),
    (pose([0, 1.2, 0.5, 0, 0.9, 0]), 'table'),
    (pose([0, -1.2, 1.55, 0, 2.2, 0]), 'left upper arm')])
def test_arms_stop_before_each_other_the_table_and_themselves(cell, target, pair):
    gate = SafetyFilter(LIMITS, PERIOD, SafetyConfig(acceleration=40.0), cell)
    gate.start(START_JOINTS)
    for _ in range(150):
        command = gate.step(target)
        assert cell.look(command).gaps.min() >= -1e-8
    assert gate.blocked and pair in gate.block, gate.block


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(arrays(np.float64, 14, elements=st.floats(-2.2, 2.2)), st.integers(1, 12)), min_size=1,
                max_size=5), st.sampled_from([30.0, 200.0]), st.sampled_from([1.0, 2.5]))
def test_no_sequence_of_targets_brings_parts_together_that_must_stay_apart(targets, acceleration, tcp_speed):
    cell = CellGeometry()
    config = SafetyConfig(acceleration=acceleration, tcp_speed=tcp_speed)
    gate = SafetyFilter(LIMITS, PERIOD, config, cell)
    last = gate.start(START_JOINTS)
    solid = cell.least > 0
    for target, times in targets:
        for _ in range(times):
            command = gate.step(target)
            look, before = cell.look(command), cell.look(last)
            assert look.gaps.min() >= -1e-8
            assert (look.tools >= config.workspace[0] - 1e-8).all() and (look.tools <= config.workspace[1] + 1e-8).all()
            assert (np.linalg.norm(look.tools - before.tools, axis=1) <= tcp_speed * PERIOD + 1e-8).all()
            for share in (0.25, 0.5, 0.75):
                between = cell.look(last + share * (command - last))
                assert (between.gaps + cell.least)[solid].min() > 0, 'they touch on the way'
            last = command


@pytest.mark.parametrize('asleep', [(0.0, -2.05, 1.7, 0.0, -2.0, 0.0), (0.0, -1.84, 1.6, 0.0, -1.8, 0.0)])
def test_arms_get_home_from_their_sleep_pose(cell, asleep):
    """Asleep, a forearm lies nearer to its upper arm than the clearance, and beyond limits (aloha_vx300s.yaml)."""
    from fpo_ros.policy.contract import PolicyContract
    from fpo_ros.runtime.controller import ArmControllerCore
    from fpo_ros.runtime.controller_config import ArmState, ControllerConfig

    core = ArmControllerCore(PolicyContract(), None, ControllerConfig(safety=SafetyConfig(acceleration=20.0)), cell)
    joints, now = pose(asleep, asleep), 10 ** 12
    core.tick(now, joints, now)
    assert core.request(ArmState.HOMING)[0]
    for _ in range(600):
        now += 20_000_000
        command = core.tick(now, joints, now)
        joints = joints if command is None else command
        if core.state is not ArmState.HOMING:
            break
    assert core.reason == 'home reached'

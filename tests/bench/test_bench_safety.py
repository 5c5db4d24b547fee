"""The study of the safety filter: the same scenes with and without it, and what a step costs."""

from __future__ import annotations

import json

import pytest

from fpo_ros import cli
from fpo_ros.bench.safety import broken_promises, measure
from fpo_ros.policy.checkpoint import FlowPolicy
from fpo_ros.runtime.safety_config import SafetyConfig


def test_the_shipped_policy_succeeds_as_often_and_is_limited_no_more_often():
    found = measure(FlowPolicy.load('fpo_state'), 4, SafetyConfig(), threads=1)
    bare, whole = found['position_and_speed'], found['whole_filter']
    assert whole['successes'] == bare['successes'] >= 3
    assert whole['acted'] == bare['acted'], 'nothing but position and speed acts'
    assert whole['targets'] == 4 * 290 and found['cost_ratio_p50'] > 1


def test_limits_that_are_set_are_kept():
    found = measure(FlowPolicy.load('fpo_state'), 1, SafetyConfig(acceleration=40.0, tcp_speed=0.5), threads=1)
    assert found['whole_filter']['largest_acceleration'] <= 40.0 + 1e-6 < found['position_and_speed'][
        'largest_acceleration']
    assert found['whole_filter']['acted'].keys() >= {'acceleration', 'TCP speed'}


def test_a_slow_filter_breaks_the_promise():
    assert broken_promises({'whole_filter': {'p99_ms': 1.9}}) == []
    assert broken_promises({'whole_filter': {'p99_ms': 2.5}}) == ['p99 of the filter is 2.50 ms, promised 2']


def test_the_command_line_prints_both(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(['bench', 'safety', '--episodes', '1', '--jerk', '5000', '--json'])
    assert end.value.code == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found['policy'] == 'fpo_state' and found['whole_filter']['largest_jerk'] <= 5000 * (1 + 1e-6)

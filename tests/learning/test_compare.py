"""Two policies on the same scenes."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import tiny_task
from hypothesis import given
from hypothesis import strategies as st

from fpo_ros import cli
from fpo_ros.learning.compare import paired


def test_paired_successes_by_hand():
    # 10 scenes: 3 both, 1 A alone, 4 B alone, 2 neither.
    a = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0], bool)
    b = np.array([1, 1, 1, 0, 1, 1, 1, 1, 0, 0], bool)
    result = paired(a, b)
    assert (result.both, result.only_a, result.only_b, result.neither) == (3, 1, 4, 2)
    assert result.difference == pytest.approx(0.3)
    # Adjusted shares 5/12 and 2/12: 0.25 -+ 1.96 sqrt((7/12 - (3/12)^2) / 12)
    half = 1.959964 * np.sqrt((7 / 12 - 1 / 16) / 12)
    assert (result.low, result.high) == (pytest.approx(0.25 - half), pytest.approx(0.25 + half))
    # Of 5 uneven pairs, at most one or at least four for A: 2 (1 + 5) / 32.
    assert result.p_value == pytest.approx(12 / 32)
    assert 'B succeeds in 7 of 10, A in 4: +30.0 points' in result.in_words()


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_swapping_policies_turns_the_sign(pairs):
    a, b = np.array(pairs).T
    one, other = paired(a, b), paired(b, a)
    assert one.difference == pytest.approx(-other.difference) and one.p_value == pytest.approx(other.p_value)
    assert (one.low, one.high) == (pytest.approx(-other.high), pytest.approx(-other.low))
    assert one.both + one.only_a + one.only_b + one.neither == len(pairs)
    assert -1 <= one.low <= one.high <= 1 and 0 < one.p_value <= 1


@pytest.mark.parametrize(('a', 'b'), [([True], [True, False]), ([], []), ([[True]], [[True]])])
def test_what_is_not_paired_is_refused(a, b):
    with pytest.raises(ValueError, match='are no pairs'):
        paired(np.array(a, bool), np.array(b, bool))


def test_the_command_compares_both_rules_on_the_same_scenes(tmp_path, capsys, waist_task):
    for seed in (0, 1):
        tiny_task.policy(seed).save(make(tmp_path / str(seed)))
    with pytest.raises(SystemExit) as end:
        cli.main(['compare', str(tmp_path / '0'), str(tmp_path / '1'), '--episodes', '12', '--json'])
    printed = capsys.readouterr()
    assert end.value.code == 0, printed.err
    result = json.loads(printed.out.splitlines()[-1])
    assert result['gym']['episodes'] == result['strict']['episodes'] == 12
    gym = result['gym']
    assert gym['both'] + gym['only_a'] == result['a']['successes']
    assert gym['both'] + gym['only_b'] == result['b']['successes']
    assert gym['only_a'] + gym['only_b'] > 0, 'the case needs policies that differ'
    assert 'gym rule: B succeeds in' in printed.err and 'strict rule:' in printed.err


def test_policies_of_two_tasks_are_not_compared(tmp_path, capsys):
    tiny_task.policy().save(make(tmp_path / 'cube'))
    tiny_task.policy(contract=replace(tiny_task.CONTRACT, task='insertion')).save(make(tmp_path / 'peg'))
    with pytest.raises(SystemExit) as end:
        cli.main(['compare', str(tmp_path / 'cube'), str(tmp_path / 'peg')])
    error = capsys.readouterr().err
    assert end.value.code == 1 and 'compare policies of one task' in error and len(error.strip().splitlines()) == 1


def make(directory):
    directory.mkdir()
    return directory

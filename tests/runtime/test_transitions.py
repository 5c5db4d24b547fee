"""Every cell of the table of transitions in docs/runtime.md, tried."""

from __future__ import annotations

from pathlib import Path

import pytest
from controller_rig import Rig, S, near

import fpo_ros
from fpo_ros.runtime.controller_config import ArmState

_CORNER, _SAME, _REFUSED = '| asked for ↓ in → |', '–', 'refused'
#: Marks of a cell: what must be there for the transition to be granted.
_JOINTS, _LEADERS = '¹', '²'


def table() -> list[tuple[str, ArmState, str]]:
    """Return what is asked for, the state it is asked for in, and what the document says comes of it."""
    document = Path(fpo_ros.__file__).parents[1] / 'docs' / 'runtime.md'
    if not document.is_file():
        return []
    lines = document.read_text(encoding='utf-8').split(_CORNER)[1].split('\n\n')[0].splitlines()
    states = [ArmState[name.strip()] for name in lines[0].split('|') if name.strip()]
    found = []
    for line in lines[2:]:
        asked, *cells = (cell.strip() for cell in line.strip().strip('|').split('|'))
        found += [(one.strip('`'), state, cell.partition(',')[0]) for one in asked.split(', ')
                  for state, cell in zip(states, cells, strict=True)]
    return found


TABLE = table()


def in_state(state: ArmState) -> Rig:
    """Return a controller that is in a state, with leaders that stand where their followers do."""
    rig = Rig(near(0.2))  # neither at home nor at the park pose, so that motions do not end at once
    rig.tick()
    offer_leaders(rig)
    if state is ArmState.STOPPED:
        rig.core.emergency_stop(True)
        rig.core.emergency_stop(False)
    elif state is not ArmState.IDLE:
        rig.enter(state)
    rig.tick()
    offer_leaders(rig)
    assert rig.core.state is state
    return rig


def offer_leaders(rig: Rig) -> None:
    assert rig.core.teleoperation.offer(rig.joints, rig.now), rig.core.teleoperation.last_refusal


def ask(rig: Rig, asked: str) -> bool:
    """Do what a row of the table says; return whether it was granted."""
    if asked.startswith('request('):
        return rig.core.request(ArmState[asked[len('request('):-1]])[0]
    if asked == 'emergency_stop(True)':
        rig.core.emergency_stop(True)
        return True
    assert asked == 'reset_emergency_stop()', f'a row that this test does not know: {asked}'
    return rig.core.reset_emergency_stop()[0]


def test_the_table_has_every_request_in_every_state() -> None:
    if not TABLE:
        pytest.skip('the documents lie in the checkout')
    asked = {f'request({state.name})' for state in ArmState} | {'emergency_stop(True)', 'reset_emergency_stop()'}
    assert {(one, state) for one in asked for state in ArmState} == {(one, state) for one, state, _ in TABLE}


@pytest.mark.parametrize('asked, state, cell', TABLE, ids=lambda value: getattr(value, 'name', str(value)))
def test_a_transition_is_as_the_document_says(asked, state, cell) -> None:
    rig = in_state(state)
    granted = ask(rig, asked)
    wanted = state if cell in (_SAME, _REFUSED) else ArmState[cell.rstrip(_JOINTS + _LEADERS)]
    assert granted is (cell != _REFUSED) or cell == _SAME
    assert rig.core.state is wanted
    rig.tick()
    assert rig.core.state is wanted, 'it lasts'


@pytest.mark.parametrize('asked, state, cell', [one for one in TABLE if one[2][-1] in _JOINTS + _LEADERS],
                         ids=lambda value: getattr(value, 'name', str(value)))
def test_a_transition_is_refused_without_what_it_needs(asked, state, cell) -> None:
    rig = in_state(state)
    if _LEADERS in cell:
        rig.now += S // 2
        rig.joints_stamp = None
        rig.core.tick(rig.now, rig.joints, rig.now)  # the leaders are silent, and TELEOP is what they are needed for
    else:
        rig.joints_stamp = rig.now - S
        rig.core.tick(rig.now + 1, rig.joints, rig.joints_stamp)
    before = rig.core.state
    assert not ask(rig, asked)
    assert rig.core.state is before

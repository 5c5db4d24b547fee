"""Whatever becomes of code that is tried, there is one answer."""

from __future__ import annotations

import pytest

from fpo_ros.trial import trial


@pytest.mark.parametrize(('code', 'answer'), [
    ('print("first"); print("last")', (True, 'last')), ('', (True, '')),
    ('raise ValueError("no such device")', (False, 'ValueError: no such device')),
    ('raise SystemExit(3)', (False, 'exit status 3')),
    ('import os; os.kill(os.getpid(), 11)', (False, 'crashed with signal 11')),
    ('import time; time.sleep(60)', (False, 'no answer within 1 s')),
    ('import os; print(os.environ["A"])', (True, 'b'))])
def test_a_trial_has_one_answer(code, answer):
    assert trial(code, 1.0 if 'sleep' in code else 30.0, A='b') == answer

"""The observations that wait for the policy, and which of them it answers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from fpo_ros.nodes.logic.chunk_gate import Question
from fpo_ros.runtime.timeline import Joining

#: Newest observations kept for a controller status that comes late [count].
RECENT = 8
#: Stamps count seconds up to here, so no age is longer [s].
LONGEST_AGE_S = 2.0**31


def age_problem(message: Any) -> str:
    """Say which age of an observation message is none; empty where all are.

    What an observation is put together of was measured before, so an age is at least 0; one that is no number would
    hide how old the rest is.
    """
    ages = [('joint_age', message.joint_age)]
    ages += [(f'{name}[{index}]', age) for name in ('image_ages', 'object_pose_ages')
             for index, age in enumerate(getattr(message, name))]
    for name, age in ages:
        if not 0 <= age <= LONGEST_AGE_S:
            return (f'observation {message.sequence} has {name} {age:g} s, and ages are finite and 0 or more: see what '
                    'publishes the topic observation')
    return ''


class Waiting:
    """Keeps the newest observations until the policy is free and the gate lets it answer one.

    :param max_age_s: older ones are not answered [s].
    """

    def __init__(self, max_age_s: float) -> None:
        self._max_age_s = max_age_s
        self._recent: deque[tuple[Any, int]] = deque(maxlen=RECENT)
        #: Due but not answered: a newer one was, or they were too old [count].
        self.dropped = 0
        #: Why the newest that was too old was not answered; empty if none was at the last :meth:`take`.
        self.stale = ''

    def clear(self) -> None:
        """Forget all; none of them was due."""
        self._recent.clear()

    def add(self, message: Any, oldest_part_ns: int, due: Callable[[Any], bool]) -> None:
        """Keep an observation message.

        :param oldest_part_ns: when its oldest part was measured [ns].
        :param due: whether the one that it displaces should have been answered.
        """
        if len(self._recent) == RECENT and due(self._recent[0][0]):
            self.dropped += 1
        self._recent.append((message, oldest_part_ns))

    def take(self, ask: Callable[[Any], Question | None], now_ns: int) -> tuple[Any, Question] | None:
        """Return the observation to answer now and what to ask, or None; all others are forgotten then.

        After the end of a chunk it is the earliest that the gate admits: later ones show arms that have come to rest.
        While a chunk is played it is the newest, and those passed over are dropped.

        :param ask: returns what to answer an observation with, or None: it is not to be answered, or not yet.
        """
        self.stale, asked, kept = '', [], []
        for message, oldest_ns in self._recent:
            question, age_s = ask(message), (now_ns - oldest_ns) * 1e-9
            if question is None or age_s <= self._max_age_s:
                kept.append((message, oldest_ns))
                asked += [(message, question)] if question else []
                continue
            self.dropped += 1
            self.stale = (f'observation {message.sequence} is {age_s:.2f} s old, the limit is {self._max_age_s:g} s: '
                          'see the health of proprio_ingest and the cameras')
        self._recent.clear()
        if not asked:
            self._recent.extend(kept)
            return None
        if asked[0][1].joining is Joining.AFTER:
            return asked[0]
        self.dropped += len(asked) - 1
        return asked[-1]

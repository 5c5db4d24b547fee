"""Several streams brought to one instant: the newest sample of each that is not later than it."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: A sample farther ahead of the clock than this is dropped [ns].
AHEAD_NS = 50_000_000
#: Kept samples farther ahead of the clock than this show that the clock was set back [ns].
JUMP_NS = 1_000_000_000


@dataclass(frozen=True)
class Sample:
    """One value and the instant it was measured.

    :param stamp_ns: instant [ns].
    :param value: whatever the stream carries.
    """

    stamp_ns: int
    value: Any


class StreamBuffer:
    """The last few samples of one stream, oldest first, with what it dropped.

    :param depth: samples kept.
    """

    def __init__(self, depth: int = 16) -> None:
        if depth < 1:
            raise ValueError(f'a stream buffer keeps at least 1 sample, got {depth}')
        self._samples: deque[Sample] = deque(maxlen=depth)
        self.received = 0
        #: Samples dropped because they were not newer than the one before, or lay ahead of the clock.
        self.out_of_order = self.ahead = 0
        #: How often the clock was set back so far that the stream began anew.
        self.restarts = 0
        #: Why the newest sample was dropped; empty if it was kept.
        self.refusal = ''

    @property
    def newest_ns(self) -> int | None:
        """Instant of the newest sample kept [ns]; None where there is none."""
        return self._samples[-1].stamp_ns if self._samples else None

    def push(self, stamp_ns: int, value: Any, now_ns: int) -> bool:
        """Add a sample. One that lies ahead of the clock, or is not newer than the last, is dropped and counted.

        Samples kept that lie more than a second ahead of the clock were measured before it was set back: the
        stream begins anew, for it would otherwise drop everything until the clock is there again.

        :param stamp_ns: instant it was measured [ns].
        :param now_ns: this instant, of the same clock [ns].
        :returns: whether it was kept; :attr:`refusal` says why not.
        """
        self.received += 1
        self.refusal = ''
        newest = self.newest_ns
        if newest is not None and newest - now_ns > JUMP_NS:
            self._samples.clear()
            self.restarts += 1
            newest = None
        if stamp_ns - now_ns > AHEAD_NS:
            self.ahead += 1
            self.refusal = (f'stamp lies {(stamp_ns - now_ns) * 1e-6:.0f} ms ahead of the clock: synchronise the '
                            'clocks')
        elif newest is not None and stamp_ns <= newest:
            self.out_of_order += 1
            self.refusal = f'stamp lies {(newest - stamp_ns) * 1e-6:.0f} ms before the one received last'
        else:
            self._samples.append(Sample(stamp_ns, value))
        return not self.refusal

    def at(self, stamp_ns: int) -> Sample | None:
        """Return the newest sample not later than an instant, or None."""
        for sample in reversed(self._samples):
            if sample.stamp_ns <= stamp_ns:
                return sample
        return None

    def missing(self, stamp_ns: int) -> str:
        """Return why :meth:`at` has no sample for an instant."""
        if not self.received:
            return 'nothing received'
        if not self._samples:
            return f'none of {self.received} samples usable: {self.refusal}'
        ahead = (self._samples[0].stamp_ns - stamp_ns) * 1e-6
        return f'all samples kept lie ahead of the instant, by {ahead:.0f} ms and more'


@dataclass(frozen=True)
class Aligned:
    """Samples of all streams at one instant.

    :param stamp_ns: the instant [ns].
    :param values: stream name → value.
    :param ages_s: stream name → age of its sample at the instant [s].
    """

    stamp_ns: int
    values: Mapping[str, Any]
    ages_s: Mapping[str, float]


class Aligner:
    """Aligns streams to an instant and says which one is missing or too old.

    :param max_age_s: stream name → oldest sample accepted [s]. These streams are required.
    :param optional: stream name → oldest sample accepted [s]; absent from the result when older.
    """

    def __init__(self, max_age_s: Mapping[str, float], optional: Mapping[str, float] | None = None,
                 depth: int = 16) -> None:
        self._required = dict(max_age_s)
        self._limits = self._required | dict(optional or {})
        self.streams = {name: StreamBuffer(depth) for name in self._limits}

    def push(self, name: str, stamp_ns: int, value: Any, now_ns: int) -> bool:
        """Add a sample of a stream; see :meth:`StreamBuffer.push`."""
        return self.streams[name].push(stamp_ns, value, now_ns)

    def align(self, stamp_ns: int) -> tuple[Aligned | None, str]:
        """Return the samples at an instant and '', or None and the reason.

        :param stamp_ns: the instant [ns].
        """
        values, ages = {}, {}
        for name, limit in self._limits.items():
            sample = self.streams[name].at(stamp_ns)
            age = None if sample is None else (stamp_ns - sample.stamp_ns) * 1e-9
            if age is not None and age <= limit:
                values[name], ages[name] = sample.value, age
            elif name in self._required:
                if sample is None:
                    return None, f'{name}: {self.streams[name].missing(stamp_ns)}'
                return None, f'{name} is {age * 1e3:.0f} ms old, the limit is {limit * 1e3:.0f} ms'
        return Aligned(stamp_ns, values, ages), ''

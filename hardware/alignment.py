"""Several streams brought to one instant: the newest sample of each that is not later than it."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


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
        self.out_of_order = 0

    def push(self, stamp_ns: int, value: Any) -> bool:
        """Add a sample; one that is not newer than the last is dropped and counted.

        :returns: whether it was kept.
        """
        self.received += 1
        if self._samples and stamp_ns <= self._samples[-1].stamp_ns:
            self.out_of_order += 1
            return False
        self._samples.append(Sample(stamp_ns, value))
        return True

    def at(self, stamp_ns: int) -> Sample | None:
        """Return the newest sample not later than an instant, or None."""
        for sample in reversed(self._samples):
            if sample.stamp_ns <= stamp_ns:
                return sample
        return None

    def clear(self) -> None:
        """Forget the samples, as after a jump of the clock."""
        self._samples.clear()


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

    def push(self, name: str, stamp_ns: int, value: Any) -> bool:
        """Add a sample of a stream; see :meth:`StreamBuffer.push`."""
        return self.streams[name].push(stamp_ns, value)

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
                    return None, f'nothing received from {name}'
                return None, f'{name} is {age * 1e3:.0f} ms old, the limit is {limit * 1e3:.0f} ms'
        return Aligned(stamp_ns, values, ages), ''

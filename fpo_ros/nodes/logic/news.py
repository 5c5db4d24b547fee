"""Sentences that come again and again while something lasts: which of them are news."""

from __future__ import annotations

import re
import threading

#: Numbers in a sentence change while what it tells of does not.
_NUMBER = re.compile(r'[+-]?\d+(\.\d+)?(e[+-]?\d+)?')


class News:
    """Tells which sentences were not heard of late, whatever the numbers in them, so that a log holds each once.

    Any thread may ask.

    :param quiet_s: a sentence that was not heard for so long is news again [s].
    """

    def __init__(self, quiet_s: float = 1.0) -> None:
        self._quiet_ns = round(quiet_s * 1e9)
        self._heard: dict[str, int] = {}
        self._lock = threading.Lock()

    def fresh(self, sentence: str, now_ns: int) -> bool:
        """Note a sentence and return whether it is news.

        :param now_ns: this instant, of a clock that nobody sets [ns].
        """
        key = _NUMBER.sub('#', sentence)
        with self._lock:
            self._heard = {known: at for known, at in self._heard.items() if now_ns - at <= self._quiet_ns}
            fresh = key not in self._heard
            self._heard[key] = now_ns
        return fresh

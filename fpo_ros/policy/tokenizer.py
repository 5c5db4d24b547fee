"""Byte-level prompt tokenizer of the small models (numpy only)."""

from __future__ import annotations

import numpy as np

#: Token ids: 0 pad, 1 begin, 2 end, then one id per byte.
VOCABULARY_SIZE = 259


def tokenize(prompt: str) -> np.ndarray:
    """Return the (n,) int64 ids of a prompt: begin, its UTF-8 bytes, end.

    The prompt is cleaned as pi0's is: surrounding blanks dropped, "_" and newlines read as blanks
    (openpi models/tokenizer.py).
    """
    cleaned = prompt.strip().replace('_', ' ').replace('\n', ' ')
    return np.array([1, *(3 + byte for byte in cleaned.encode()), 2], np.int64)

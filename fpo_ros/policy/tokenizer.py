"""Prompts as token ids (numpy only): those that a contract holds, or the bytes that the small models read."""

from __future__ import annotations

import numpy as np

from fpo_ros.policy.contract import PolicyContract

#: Token ids of the small models: 0 pad, 1 begin, 2 end, then one id per byte.
VOCABULARY_SIZE = 259


def cleaned(prompt: str) -> str:
    """Return a prompt without surrounding blanks, "_" and newlines read as blanks (openpi models/tokenizer.py)."""
    return prompt.strip().replace('_', ' ').replace('\n', ' ')


def tokenize(prompt: str) -> np.ndarray:
    """Return the (n,) int64 ids of a prompt: begin, the UTF-8 bytes of what :func:`cleaned` returns, end."""
    return np.array([1, *(3 + byte for byte in cleaned(prompt).encode()), 2], np.int64)


def tokens_of(contract: PolicyContract) -> np.ndarray:
    """Return the (n,) int64 ids of a contract's prompt."""
    return np.array(contract.prompt_tokens, np.int64) if contract.prompt_tokens else tokenize(contract.prompt)

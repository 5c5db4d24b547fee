"""Prompts as token ids (numpy only): those that a contract holds, or the bytes that the small models read."""

from __future__ import annotations

import numpy as np

from fpo_ros.policy.contract import ContractError, PolicyContract

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


def checked_tokens(contract: PolicyContract, vocabulary_size: int) -> np.ndarray:
    """Return the (n,) int64 ids of a contract's prompt, which a network of that vocabulary knows.

    :param vocabulary_size: rows of the token embedding.
    :raises ContractError: for bytes where the network knows other tokens, and for ids that it does not know.
    """
    if not contract.prompt_tokens and vocabulary_size != VOCABULARY_SIZE:
        raise ContractError(f'the contract has no prompt_tokens, and a network of {vocabulary_size} tokens does not '
                            f'read bytes: split the prompt {contract.prompt!r} with its tokenizer (fpo_ros.policy.'
                            'paligemma.paligemma_tokens) and keep the ids in the contract')
    tokens = tokens_of(contract)
    unknown = tokens[(tokens < 0) | (tokens >= vocabulary_size)]
    if len(unknown):
        raise ContractError(f'the contract has the prompt token {unknown[0]}, and the network knows 0 to '
                            f'{vocabulary_size - 1}: split the prompt with the tokenizer of this network')
    return tokens

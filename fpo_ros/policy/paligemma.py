"""Prompts as PaliGemma splits them, read from the file that Google publishes (openpi models/tokenizer.py)."""

from __future__ import annotations

from pathlib import Path

from fpo_ros.policy.contract import ContractError
from fpo_ros.policy.tokenizer import cleaned

#: Ids that pi0's weights were trained with.
PAD, END, BEGIN = 0, 1, 2
#: Longest prompt of pi0 [tokens].
MAX_TOKENS = 48
#: Pieces of the published tokenizer, and its newline.
PUBLISHED_SIZE, NEWLINE = 257152, 108


class TokenizerError(ContractError):
    """A tokenizer is missing or not pi0's, or a prompt is too long; the message says which."""


def paligemma_tokens(prompt: str, tokenizer: Path, vocabulary_size: int, longest: int = MAX_TOKENS) -> tuple[int, ...]:
    """Return the ids of a prompt: begin, its pieces, a newline.

    :param tokenizer: ``paligemma_tokenizer.model``.
    :param vocabulary_size: rows of the network's token embedding.
    :param longest: tokens that the policy was trained with at most.
    :raises TokenizerError: for a file that is missing or damaged, a tokenizer of another model, or a prompt that is
        too long.
    """
    from sentencepiece import SentencePieceProcessor

    try:
        processor = SentencePieceProcessor(model_proto=tokenizer.read_bytes())
    except (OSError, RuntimeError) as error:
        raise TokenizerError(f'{tokenizer} cannot be read as a tokenizer ({str(error).strip()}): copy '
                             'paligemma_tokenizer.model again') from error
    ids = processor.pad_id(), processor.eos_id(), processor.bos_id()
    if ids != (PAD, END, BEGIN) or processor.get_piece_size() > vocabulary_size:
        raise TokenizerError(f'{tokenizer} is not the tokenizer of this network: it has {processor.get_piece_size()} '
                             f'pieces and pads, ends and begins with {ids}, the network knows {vocabulary_size} and '
                             f'was trained with {(PAD, END, BEGIN)}')
    newline = processor.encode('\n')
    if processor.unk_id() in newline:
        raise TokenizerError(f'{tokenizer} does not know a newline, with which every prompt of pi0 ends')
    if vocabulary_size == PUBLISHED_SIZE and newline != [NEWLINE]:
        raise TokenizerError(f'{tokenizer} is not the published one: its newline is {newline}, and pi0 was trained '
                             f'with [{NEWLINE}]: use paligemma_tokenizer.model')
    found = BEGIN, *processor.encode(cleaned(prompt)), *newline
    if len(found) > longest:
        raise TokenizerError(f'the prompt {prompt!r} has {len(found)} tokens, and the policy was trained with '
                             f'{longest} at most: shorten it')
    return found

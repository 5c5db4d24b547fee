"""Numbers that must be finite before anything is done with them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class NotFiniteError(RuntimeError):
    """A number is NaN or infinite; the message says which, where, and what to do."""


def check_finite(tensors: Mapping[str, Tensor], where: str, advice: str) -> None:
    """Refuse tensors with NaN or infinity.

    :param where: what the tensors belong to.
    :param advice: what to do.
    :raises NotFiniteError: naming the first such tensor and how many of its values are not finite.
    """
    for name, value in tensors.items():
        if not value.numel() or all(torch.isfinite(end) for end in torch.aminmax(value.detach())):
            continue  # NaN is passed on; takes no memory, which masks of all weights would
        bad = int((~torch.isfinite(value)).sum())
        if bad:
            raise NotFiniteError(f'{where}: {bad} of {value.numel()} values of {name} are not finite: {advice}')

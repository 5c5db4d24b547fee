"""Networks without weights: what an exporter traces, whatever the size of the policy.

Every parameter of a hollow network has its shape and takes no memory: all its numbers are one and the same zero.
"""

from __future__ import annotations

import copy
from functools import partial

import torch
from torch import Tensor, nn

from fpo_ros.policy.expert import GemmaLayer

_JOINED = 'joined_weight'


def hollow(module: nn.Module) -> nn.Module:
    """Return a copy in single precision whose parameters have shapes and no numbers of their own.

    Layers of Gemma have their joined projection as a parameter, which a graph then holds as one weight.
    """
    memo = {id(parameter): _hollow(parameter.shape) for parameter in module.parameters()}
    copied = copy.deepcopy(module, memo)
    for layer in copied.modules():
        if isinstance(layer, GemmaLayer):
            layer.register_parameter(_JOINED, _hollow(layer.joined().shape))
            layer.joined = partial(getattr, layer, _JOINED)
    return copied


def _hollow(shape: torch.Size) -> nn.Parameter:
    return nn.Parameter(torch.zeros(1).expand(shape), requires_grad=False)


def weight_of(module: nn.Module, name: str) -> Tensor:
    """Return the numbers that belong to a parameter or a buffer of the hollow copy, in the module's own type.

    :param module: the network itself.
    :param name: of the parameter or buffer in its hollow copy.
    """
    owner, _, last = name.rpartition('.')
    if last == _JOINED:
        return module.get_submodule(owner).joined().detach()
    return getattr(module.get_submodule(owner), last).detach()

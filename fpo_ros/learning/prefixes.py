"""What a policy of pictures sees with before its expert learns: another policy's prefix, a grounded one, or nothing."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch

from fpo_ros.learning.grounding import GroundingConfig, grounded, labelled_frames
from fpo_ros.policies import names
from fpo_ros.policy.adapted import merged
from fpo_ros.policy.checkpoint import FlowPolicy
from fpo_ros.policy.config import Pi0Config
from fpo_ros.policy.contract import ContractError, PolicyContract
from fpo_ros.policy.pi0 import Pi0

#: Ways to a prefix that are no name of a policy.
NEW, UNTRAINED = 'new', 'untrained'
#: The policy of the package whose prefix is taken where it fits.
SHIPPED = 'sft_pixels'
#: Entries of the contract that a prefix depends on.
_ENTRIES = ('task', 'prompt', 'prompt_tokens', 'cameras', 'image_height', 'image_width')


class Progress(Protocol):
    """Shows what takes long."""

    def bar(self, text: str, total: int) -> AbstractContextManager[Any]:
        """Return what has ``update(done, note)``."""

    def line(self, text: str) -> None:
        """Say something."""


def prefix_of(policy: FlowPolicy, contract: PolicyContract, seed: int = 0) -> Pi0:
    """Return a network with the prefix of a policy and a new expert.

    :raises ContractError: where the policy sees something else than the contract says, naming it.
    """
    for name in _ENTRIES:
        wanted, found = getattr(contract, name), getattr(policy.contract, name)
        if wanted != found:
            raise ContractError(f"the prefix of a policy whose {name} is {found!r} does not serve one whose {name} is "
                                f"{wanted!r}: take another policy's, or --prefix {NEW}")
    torch.manual_seed(seed)
    network = Pi0(policy.model.config, contract)
    expert = {id(parameter) for parameter in network.expert_parameters()}
    kept = {name for name, parameter in network.named_parameters() if id(parameter) not in expert}
    theirs = policy.model.state_dict()
    network.load_state_dict({name: theirs[name] for name in kept}, strict=False)
    return network


def new_prefix(contract: PolicyContract, model: Pi0Config, config: GroundingConfig, progress: Progress,
               seed: int = 0) -> Pi0:
    """Return a network whose prefix has learned, in simulation, to tell where objects are."""
    with progress.bar('pictures', config.episodes) as bar:
        frames = labelled_frames(contract, config, progress=bar.update)
    with progress.bar('grounding', config.training.steps) as bar:
        network, error = grounded(contract, model, frames, config, seed,
                                  lambda step, loss: bar.update(step, f'(loss {loss:.3f})'))
    progress.line(f'objects are told to {error * 1e3:.1f} mm on episodes that were kept back')
    return network


def network_for(contract: PolicyContract, model: Pi0Config, how: str | None, progress: Progress,
                seed: int = 0) -> Pi0 | None:
    """Return the network whose expert is to be trained, or None: all of a new one is.

    :param model: sizes of the network.
    :param how: a policy's directory or name in the package, :data:`NEW` or :data:`UNTRAINED`; None: the package's own
        where it fits, otherwise a new one; for a policy without cameras there is nothing to choose.
    :raises ContractError: for a policy that does not fit, or a choice where there are no cameras.
    """
    if not contract.cameras:
        if how is not None:
            raise ContractError(f'--prefix {how}: a policy that looks at no camera has no prefix to choose')
        return None
    if how is None and SHIPPED in names():
        try:
            network = prefix_of(_of_sizes(SHIPPED, model), contract, seed)
        except ContractError as error:
            progress.line(f'a new prefix is trained: {error}')
        else:
            progress.line(f'pictures are seen with the prefix of {SHIPPED}, which stays as it is')
            return network
    if how == UNTRAINED:
        return None
    if how is None or how == NEW:
        return new_prefix(contract, model, GroundingConfig(), progress, seed)
    return prefix_of(_of_sizes(how, model), contract, seed)


def _of_sizes(where: str, model: Pi0Config) -> FlowPolicy:
    """Load a policy whose network has the sizes that are asked for; it may have an actor over its start noise."""
    policy = merged(FlowPolicy.load(Path(where)))
    if replace(policy.model.config, latent_actor='') != model:
        raise ContractError(f'the prefix of {where} belongs to a network of other sizes than the one to be trained: '
                            f"take another policy's, --prefix {NEW}, or the --variant of that policy")
    return policy

"""A policy on disk: safetensors weights beside a JSON that says what they are."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fpo_ros.files import replace_file
from fpo_ros.policies import directory_of, names
from fpo_ros.policy.config import Pi0Config
from fpo_ros.policy.contract import ACTION_DIM, ContractError, PolicyContract
from fpo_ros.policy.finite import check_finite
from fpo_ros.policy.flow import Sampling, sample, trajectory
from fpo_ros.policy.latent import GaussianLatent
from fpo_ros.policy.normalisation import NormStats
from fpo_ros.policy.pi0 import Pi0
from fpo_ros.policy.saving import saving, write_tensors
from fpo_ros.policy.tokenizer import checked_tokens
from fpo_ros.policy.transforms import image_tensor, known_actions, known_state, state_vector, targets_of

#: What the contract of a policy says.
DEFAULT_SAMPLING = Sampling()


@dataclass(frozen=True)
class Drawn:
    """Chunks, and what an update must know of how they were drawn.

    :param chunks: (N, H, action_dim) normalised.
    :param path: (N, S, H, action_dim): of a policy with a latent actor its latent (S = 1); where noise was injected
        the states before each step (S = steps); otherwise nothing (S = 0).
    """

    chunks: Tensor
    path: Tensor


class FlowPolicy:
    """A pi0 network with the contract and statistics that give its numbers a meaning.

    :param model: the network.
    :param stats: normalisation of states and actions.
    :raises ContractError: for statistics of other shapes, or a prompt whose tokens the network does not know.
    """

    def __init__(self, model: Pi0, stats: NormStats) -> None:
        stats.check(model.contract)
        self.model, self.stats, self.contract = model, stats, model.contract
        self.tokens = torch.as_tensor(checked_tokens(self.contract, model.config.vocabulary_size))[None]

    def states(self, joints: np.ndarray, object_pose: np.ndarray | None) -> Tensor:
        """Return (N, state_dim) normalised states of (N, 14) joints and (N, 7) poses."""
        raw = state_vector(joints, object_pose, self.contract)
        return self.known_states(raw)

    def known_states(self, raw: np.ndarray) -> Tensor:
        """Return (N, state_dim) raw states, normalised."""
        return torch.as_tensor(self.stats.normalise_state(known_state(raw, self.contract)), dtype=torch.float32)

    def known_chunks(self, targets: np.ndarray, joints: np.ndarray) -> Tensor:
        """Return (N, H, 14) targets as normalised (N, H, action_dim) chunks.

        :param joints: (N, 14) of the observation that each chunk answers.
        """
        actions = known_actions(targets, joints, self.contract)
        return torch.as_tensor(self.stats.normalise_action(actions, self.contract.action_dim), dtype=torch.float32)

    def prefix(self, images: np.ndarray | None, batch: int = 64) -> Tensor:
        """Return the prefix cache of (N, cameras, H, W, 3) uint8 images, or of the prompt alone (batch axis 1)."""
        if not self.contract.cameras:
            return self.model.prefix(self.tokens)
        return torch.cat([self.model.prefix(self.tokens, torch.as_tensor(image_tensor(images[i:i + batch])))
                          for i in range(0, len(images), batch)], 2)

    def act(self, states: Tensor, prefix_kv: Tensor, noise: Tensor) -> Tensor:
        """Return (N, H, 14) normalised chunks for normalised states, integrated from (N, H, 14) noise."""
        return self.draw(states, prefix_kv, noise).chunks

    @torch.no_grad()
    def draw(self, states: Tensor, prefix_kv: Tensor, noise: Tensor, injected: Tensor | None = None,
             sampling: Sampling = DEFAULT_SAMPLING) -> Drawn:
        """Return chunks, and what a flow that is trained went through to draw them.

        :param states: (N, state_dim) normalised.
        :param prefix_kv: of :meth:`prefix`.
        :param noise: (N, H, 14) start noise.
        :param injected: (N, steps, H, 14) standard normal numbers, where the sampling injects noise.
        :param sampling: of the flow that is trained: the latent actor's where there is one.
        """
        model, steps = self.model, self.contract.flow_steps
        actor = model.latent_actor
        if isinstance(actor, GaussianLatent):
            latent = actor.latent(noise, states, prefix_kv)
            return Drawn(self._decode(states, prefix_kv, latent), latent[:, None])
        trained = actor or model
        cache = trained.with_state(states, prefix_kv)
        padding = self.contract.action_dim - ACTION_DIM
        added = [F.pad(torch.tensor(std), (0, padding)) * injected[:, index]
                 for index, std in enumerate(sampling.noise_std)]
        passed = trajectory(lambda x, time: trained.denoise(x, time, cache), noise, sampling.count(steps), added,
                            sampling.beyond, sampling.beyond_size)
        if actor is not None:
            return Drawn(self._decode(states, prefix_kv, passed[-1]), passed[-1][:, None])
        chain = passed[:len(added)]
        return Drawn(passed[-1], torch.stack(chain, 1) if chain else noise.new_zeros(len(noise), 0, *noise.shape[1:]))

    def _decode(self, states: Tensor, prefix_kv: Tensor, latent: Tensor) -> Tensor:
        cache = self.model.with_state(states, prefix_kv)
        return sample(lambda x, time: self.model.denoise(x, time, cache), latent, self.contract.flow_steps)

    def to_raw(self, chunks: Tensor, joints: np.ndarray | None = None) -> np.ndarray:
        """Return normalised chunks in rad and gripper units, float32.

        :param joints: (N, 14) of the observations they answer, which relative actions count from.
        """
        actions = self.stats.unnormalise_action(chunks.detach().numpy())
        return targets_of(actions, joints, self.contract).astype(np.float32)

    def save(self, directory: Path) -> None:
        """Write ``policy.safetensors`` and ``policy.json`` into an existing directory.

        :raises NotFiniteError: for weights that are not finite; nothing is written then.
        :raises SaveError: when the disk refuses.
        """
        weights = self.model.state_dict()
        check_finite(weights, f'{directory}: policy not saved', 'train again from the last good policy, '
                     'with a lower learning rate')
        document = {'model': self.model.config.to_dict(), 'contract': self.contract.to_dict(),
                    **json.loads(self.stats.to_json())}
        with saving(directory):
            write_tensors(directory / 'policy.safetensors', weights)
            replace_file(directory / 'policy.json', (json.dumps(document, indent=2) + '\n').encode())

    def digest(self) -> str:
        """Return the SHA-256 of weights, contract and statistics, in hexadecimal."""
        sha = hashlib.sha256(f'{self.contract.to_json()}{self.stats.to_json()}'.encode())
        for name, value in sorted(self.model.state_dict().items()):
            sha.update(f'{name}{tuple(value.shape)}{value.dtype}'.encode())
            sha.update(value.contiguous().flatten().view(torch.uint8).numpy().data)
        return sha.hexdigest()

    @classmethod
    def load(cls, directory: Path) -> FlowPolicy:
        """Read what :meth:`save` wrote.

        :param directory: or the name of a policy of :mod:`fpo_ros.policies`.
        :raises ContractError: naming the file that is missing, truncated, not finite or does not fit.
        """
        path = directory_of(directory) / 'policy.json'
        try:
            text = path.read_text()
            document = json.loads(text)
            with torch.device('meta'):
                model = Pi0(Pi0Config.from_dict(document['model']), PolicyContract.from_dict(document['contract']))
            stats = NormStats.from_json(text)
            stats.check(model.contract)
            checked_tokens(model.contract, model.config.vocabulary_size)
            path = path.with_name('policy.safetensors')
            # Of the types in the file, and without a second copy in memory.
            model.load_state_dict(load_file(path), assign=True)
            check_finite(model.state_dict(), 'weights', 'use another policy or an earlier checkpoint')
        except FileNotFoundError as error:
            raise ContractError(f'{path} does not exist: is this the directory of a policy? Those of the package are '
                                f'{", ".join(names())}') from error
        except (KeyError, TypeError, ValueError, RuntimeError, OSError, SafetensorError) as error:
            reason = ' '.join(str(error).split())
            raise ContractError(f'{path}: not a readable policy: {reason}') from error
        return cls(model, stats)

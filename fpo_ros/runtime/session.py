"""Inference of an exported policy: ONNX graphs of the prefix and the flow, run by onnxruntime.

Sampling is Euler integration of the learned velocity from noise (t = 1) to an action chunk (t = 0), as pi0
does (Black et al. 2024, arXiv 2410.24164, section IV, with openpi's direction of time), in the graph where it holds
all steps. A policy with an actor over its start noise has a third graph, which runs first; see
:mod:`fpo_ros.policy.latent`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import numpy as np
import onnxruntime

from fpo_ros.policy.contract import ContractError, Observation, PolicyContract, check_chunk
from fpo_ros.policy.normalisation import NormStats
from fpo_ros.policy.realtime import Leftover, decided_rows, entry_mask, guidance_weight, padded
from fpo_ros.policy.tokenizer import tokens_of
from fpo_ros.policy.transforms import image_tensor, known_actions, model_inputs, targets_of
from fpo_ros.releases import Release
from fpo_ros.runtime.graphs import GraphError, Graphs
from fpo_ros.runtime.interfaces import STEP, check_graphs, steps_per_token
from fpo_ros.runtime.providers import DEFAULT_OPTIONS, SINGLE, PolicyError, ProviderOptions
from fpo_ros.runtime.release_files import (
    CONTINUED_FILE,
    DENOISE_FILE,
    GUIDED_FILE,
    LATENT_FILE,
    PREFIX_FILE,
    ReleaseFiles,
)
from fpo_ros.runtime.vectors import read_vectors

T = TypeVar('T')


class PolicySession:
    """A loaded policy. Use :meth:`load`; :meth:`infer` may be called from one thread at a time."""

    def __init__(self, files: ReleaseFiles, contract: PolicyContract, stats: NormStats,
                 graphs: Graphs) -> None:
        self._files = files
        self.path: Path = files.path
        self.version = files.version
        #: Digest of the release's manifest [lowercase hex]; empty for a plain directory.
        self.manifest_sha256 = files.manifest_sha256
        self.contract = contract
        self.stats = stats
        self._graphs = graphs
        self._tokens = tokens_of(contract)[None]
        self._text_prefix: onnxruntime.OrtValue | None = None
        self._interfaces = check_graphs(graphs, files.path, contract, self._tokens.shape[1])
        noted = steps_per_token(graphs, files.path, contract) if CONTINUED_FILE in graphs else 1
        self._steps_per_token = noted
        steps = np.arange(contract.flow_steps, dtype=np.float32)
        self._times = (1 - steps / np.float32(contract.flow_steps))[:, None]

    @classmethod
    def load(cls, release: str | os.PathLike[str] | Release, provider: str = 'cpu', threads: int = 1,
             options: ProviderOptions = DEFAULT_OPTIONS, serving: PolicySession | None = None) -> PolicySession:
        """Open a release.

        :param release: a verified release, of which no byte is used that is not as signed; or a directory of
            such files, which is *not* verified.
        :param provider: 'cpu', 'cuda', 'tensorrt', 'auto' (the fastest of these on which all graphs open), or
            'tensorrt_refit'.
        :param threads: threads of one inference on the CPU.
        :param options: of the provider.
        :param serving: a session that runs already: graphs that verified releases share, such as the prefix of a
            policy whose expert alone was trained, are in memory once. The new one takes no slower provider than that
            one's before :meth:`verify_vectors` has passed; later it falls back as the options say.
        :raises PolicyError: for an absent provider, options that do not fit it, or a missing or unfit file, naming it;
            and where only a provider is left that is slower than that of ``serving``.
        """
        options.check(provider)
        files = ReleaseFiles(release)
        contract = files.contract()
        stats = files.stats(contract)
        some = (name for name in (LATENT_FILE, GUIDED_FILE, CONTINUED_FILE) if files.has(name))
        names = (PREFIX_FILE, DENOISE_FILE, *some)
        lengths = {**SINGLE, 'text': tokens_of(contract).shape[-1]}
        if contract.cameras and not contract.optional_cameras:
            lengths['cameras'] = len(contract.cameras)
        return cls(files, contract, stats, Graphs(files, names, provider, threads, options, lengths,
                                                  serving._graphs if serving else None))

    @property
    def provider(self) -> str:
        """Provider that runs the graphs: 'cpu', 'cuda', 'tensorrt' or 'tensorrt_refit'."""
        return self._graphs.provider

    @property
    def problem(self) -> str:
        """Why the policy does not run on what was asked for, or on the fastest that is there; empty if it does."""
        return self._graphs.problem

    def infer(self, observation: Observation, noise: np.ndarray | None = None,
              rng: np.random.Generator | None = None, leftover: Leftover | None = None) -> np.ndarray:
        """Sample one action chunk.

        :param observation: what the policy sees, in units of the cell.
        :param noise: (horizon, action_dim) start of the flow, standard normal; None: drawn from ``rng``, or
            zeros (the flow's mode-like, repeatable sample) when that is None, too.
        :param rng: generator of the noise.
        :param leftover: rows that are executed while the chunk is made, which it shall go on from.
        :returns: (horizon, 14) float32 joint targets [rad, grippers 0..1].
        :raises ContractError: when the observation lacks something.
        :raises PolicyError: when the policy's output is not finite, or it cannot go on from the leftover.
        :raises GraphError: when a graph fails.
        """
        shape = (self.contract.horizon, self.contract.action_dim)
        if noise is None:
            noise = np.zeros(shape) if rng is None else rng.standard_normal(shape)
        if noise.shape != shape:
            raise PolicyError(f'noise has shape {noise.shape}, the contract wants {shape}')
        inputs = model_inputs(observation, self.contract, self.stats)
        images = inputs.get('images')
        if leftover is not None and (problem := self.objection(observation.images, leftover.delay)):
            raise PolicyError(f'{problem}: give no leftover')
        joints = np.asarray(observation.joint_positions)[None]
        chunk = self._run(lambda: self._sample(self._prefix_of(images), inputs['state'], noise[None],
                                               joints, leftover)[0])
        try:
            check_chunk(chunk, self.contract)
        except ContractError as error:
            raise PolicyError(f'policy {self.version}: {error}') from error
        return chunk

    def verify_vectors(self, atol: float | None = None, cosine: float = -1.0) -> float:
        """Run the release's test vectors.

        :param atol: largest difference that passes [rad, grippers 0..1]; None: as the vectors say.
        :param cosine: least cosine that passes, between chunks as the network knows them.
        :returns: largest absolute difference from the stored chunks [rad, grippers 0..1].
        :raises PolicyError: when the vectors are missing or unfit, or a chunk differs too much; or where it had to
            fall back behind the session that served as it was loaded.
        """
        worst = self._run(lambda: self._verify_vectors(atol, cosine))
        self._graphs.proven()
        return worst

    def _verify_vectors(self, atol: float | None, cosine: float) -> float:
        vectors = read_vectors(self._files, self.contract, self._tokens, self.goes_on)
        expected, tokens, images = vectors['chunk'], vectors['tokens'], vectors.get('images')
        worst, atol = 0.0, float(vectors['atol']) if atol is None else atol
        for index in range(len(expected)):
            one = slice(index, index + 1)
            whole, seen = None if images is None else image_tensor(images[one]), vectors['seen'][index]
            prefix = self._run_prefix(tokens[one], whole)
            part = prefix if seen.all() else self._run_prefix(tokens[one], whole[:, seen])
            wanted = [(expected[index], part, None)]
            if self.goes_on:
                wanted.append((vectors['guided'][index], prefix,
                               Leftover(vectors['leftover'][index], int(vectors['delay']))))
            for chunk, seen_prefix, leftover in wanted:
                joints, which = vectors['joints'][one], f'{index} of {len(expected)}{" (guided)" if leftover else ""}'
                found = self._sample(seen_prefix, vectors['state'][one], vectors['noise'][one], joints, leftover)[0]
                worst = max(worst, self._difference(found, chunk, atol, which))
                self._check_cosine(found, chunk, joints, cosine, which)
        return worst

    def _check_cosine(self, found: np.ndarray, expected: np.ndarray, joints: np.ndarray, least: float,
                      which: str) -> None:
        a, b = (self.stats.normalise_action(known_actions(one[None], joints, self.contract), self.contract.action_dim)
                for one in (found, expected))
        cosine = float(np.sum(a * b) / max(np.sqrt(np.sum(a * a) * np.sum(b * b)), np.finfo(np.float32).tiny))
        if not cosine >= least:
            raise PolicyError(f'policy {self.version}: test vector {which} does not reproduce on {self.provider}: the '
                              f'cosine between chunks is {cosine:.6f}, wanted is {least} at least')

    def _difference(self, found: np.ndarray, expected: np.ndarray, atol: float, which: str) -> float:
        """Return the largest difference between two chunks.

        :raises PolicyError: where it exceeds the tolerance.
        """
        difference = np.abs(found - expected)
        if not difference.max() <= atol:
            worst_place = np.argmax(np.where(np.isfinite(difference), difference, np.inf))
            row, column = np.unravel_index(worst_place, difference.shape)
            raise PolicyError(
                f'policy {self.version}: test vector {which} does not reproduce on {self.provider}: row {row}, column '
                f'{column} is {found[row, column]:.6f} instead of {expected[row, column]:.6f} (tolerance {atol})')
        return float(difference.max())

    def _prefix_of(self, images: np.ndarray | None) -> onnxruntime.OrtValue:
        """Run the prefix graph for the contract's prompt; once only for a policy that sees no images."""
        if images is not None:
            return self._run_prefix(self._tokens, images)
        if self._text_prefix is None:
            self._text_prefix = self._run_prefix(self._tokens, None)
        return self._text_prefix

    def _run_prefix(self, tokens: np.ndarray, images: np.ndarray | None) -> onnxruntime.OrtValue:
        binding = self._graphs[PREFIX_FILE].io_binding()
        binding.bind_cpu_input('tokens', tokens)
        if images is not None:
            binding.bind_cpu_input('images', np.ascontiguousarray(images))
        binding.bind_output('prefix_kv', self._graphs.device)
        self._graphs.run(PREFIX_FILE, binding)
        return binding.get_outputs()[0]

    @property
    def goes_on(self) -> bool:
        """Whether chunks can go on from a leftover."""
        return GUIDED_FILE in self._graphs or CONTINUED_FILE in self._graphs

    def objection(self, cameras: Iterable[str], delay: int) -> str:
        """Say why a chunk cannot go on from a leftover; empty when it can.

        :param cameras: names of those that its observation has: guidance takes all cameras alone.
        :param delay: of the leftover; a flow that was trained to go on knows delays up to the contract's ``max_delay``.
        """
        if not self.goes_on:
            return (f'policy {self.version} has neither {GUIDED_FILE} nor {CONTINUED_FILE}: chunks cannot go on from '
                    'the one before; export the policy again, or execute its chunks synchronously')
        if CONTINUED_FILE in self._graphs:
            most = self.contract.max_delay
            return '' if delay <= most else (
                f'policy {self.version} was trained to go on over {most} control periods at most, and chunks take '
                f'{delay}')
        missing = [name for name in self.contract.cameras if name not in set(cameras)]
        return missing and (f'policy {self.version} goes on from a leftover with all cameras alone, and {missing[0]} '
                            'is missing') or ''

    def _sample(self, prefix: onnxruntime.OrtValue, state: np.ndarray, noise: np.ndarray, joints: np.ndarray | None,
                leftover: Leftover | None = None) -> np.ndarray:
        """Integrate the flow; (1, ...) inputs, returns (1, horizon, 14) float32 in raw units."""
        x, state = np.array(noise, np.float32), np.array(state, np.float32)
        if LATENT_FILE in self._graphs:
            x = self._flow(LATENT_FILE, prefix, state, x)
        if leftover is None or not len(leftover.rows):
            x = self._flow(DENOISE_FILE, prefix, state, x)
        elif CONTINUED_FILE in self._graphs:
            x = self._flow(CONTINUED_FILE, prefix, state, x, self._decided(leftover, joints))
        else:
            x = self._integrate(GUIDED_FILE, prefix, state, x, self._decided(leftover, joints))
        actions = self.stats.unnormalise_action(x)
        return targets_of(actions, joints, self.contract).astype(np.float32, copy=False)

    def _flow(self, name: str, prefix: onnxruntime.OrtValue, state: np.ndarray, noise: np.ndarray,
              decided: dict[str, np.ndarray] | None = None) -> np.ndarray:
        """Return where (1, horizon, action_dim) noise, which may change, arrives."""
        if self._interfaces[name] is STEP:
            return self._integrate(name, prefix, state, noise)
        binding = self._binding(name, prefix, state)
        for part, value in {'noise': noise, **(decided or {})}.items():
            binding.bind_cpu_input(part, value)
        self._graphs.run(name, binding)
        return np.array(binding.get_outputs()[0].numpy())

    def _decided(self, leftover: Leftover, joints: np.ndarray | None) -> dict[str, np.ndarray]:
        """Return what guides a step, or what a flow goes on from, as the network knows it."""
        contract = self.contract
        rows = known_actions(padded(np.asarray(leftover.rows, np.float32), contract.horizon)[None], joints, contract)
        known = self.stats.normalise_action(rows, contract.action_dim).astype(np.float32)
        if CONTINUED_FILE in self._graphs:
            return {'rows': known, 'decided': decided_rows(len(leftover.rows), leftover.delay, contract.horizon,
                                                           self._steps_per_token)[None]}
        mask = entry_mask(min(len(leftover.rows), contract.horizon), leftover.delay, contract.horizon,
                          contract.action_dim)
        return {'decided': known, 'mask': mask[None]}

    def _integrate(self, name: str, prefix: onnxruntime.OrtValue, state: np.ndarray, x: np.ndarray,
                   decided: dict[str, np.ndarray] | None = None) -> np.ndarray:
        """Take the Euler steps of a flow from (1, horizon, action_dim) noise, which changes.

        The prefix stays on the device that computed it over all steps.
        """
        step = np.float32(1 / self.contract.flow_steps)
        binding = self._binding(name, prefix, state)
        for part, value in (decided or {}).items():
            binding.bind_cpu_input(part, value)
        for time in self._times:
            if decided:
                binding.bind_cpu_input('weight', np.array([guidance_weight(float(time[0]))], np.float32))
            binding.bind_cpu_input('x_t', x)
            binding.bind_cpu_input('time', time)
            self._graphs.run(name, binding)
            x -= binding.get_outputs()[0].numpy() * step
        return x

    def _binding(self, name: str, prefix: onnxruntime.OrtValue, state: np.ndarray) -> onnxruntime.IOBinding:
        binding = self._graphs[name].io_binding()
        binding.bind_ortvalue_input('prefix_kv', prefix)
        binding.bind_cpu_input('state', state)
        binding.bind_output(self._interfaces[name][1], 'cpu')
        return binding

    def _run(self, work: Callable[[], T]) -> T:
        """Do what runs graphs; once more on the CPU where one fails and that is allowed."""
        try:
            return work()
        except GraphError as error:
            self._graphs.fall_back(error)
            self._text_prefix = None  # it lies on the device that failed
            return work()

"""The graphs of one release and what runs them: opened together, and moved to the CPU together."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence

import onnxruntime

from fpo_ros.runtime.providers import (
    DEFAULT_OPTIONS,
    REFIT,
    SINGLE,
    PolicyError,
    ProviderOptions,
    open_graph,
    providers_for,
    slower,
)
from fpo_ros.runtime.refit import RefitGraph, engine_layer, open_refit_graph
from fpo_ros.runtime.release_files import ReleaseFiles

_LOG = logging.getLogger(__name__)


def check_provider(provider: str) -> None:
    """Refuse a provider that is not there, before anything is done for it.

    :raises PolicyError: naming it and what it needs.
    """
    if provider == REFIT:
        engine_layer()
    else:
        providers_for(provider)


class GraphError(PolicyError):
    """A graph failed while it ran."""


class Graphs:
    """Open graphs.

    :param files: of the release; needed again for a fall back to the CPU.
    :param names: of the graphs' files.
    :param provider: 'cpu', 'cuda', 'tensorrt', 'auto' (the fastest of these on which all graphs open), or
        'tensorrt_refit'.
    :param threads: threads of one inference on the CPU.
    :param options: of the provider.
    :param lengths: see :func:`fpo_ros.runtime.providers.open_graph`.
    :param serving: open graphs of another verified release: those that are the same to the byte, weights included, are
        not opened again where the provider is the same, but used by both. Until :meth:`proven` no provider is taken
        that is slower than theirs.
    :raises PolicyError: for an absent provider or a missing or unfit file, naming it, or where only a provider is left
        that is slower than that of the serving ones.
    """

    def __init__(self, files: ReleaseFiles, names: Sequence[str], provider: str = 'cpu', threads: int = 1,
                 options: ProviderOptions = DEFAULT_OPTIONS, lengths: Mapping[str, int] = SINGLE,
                 serving: Graphs | None = None) -> None:
        self._files, self._names, self._threads, self._options = files, tuple(names), threads, options
        self._lengths = dict(lengths)
        self._slowest = '' if serving is None else serving.provider
        #: Why the graphs do not run on what was asked for, or on the fastest that is there; empty if they do.
        self.problem = ''
        *tried, last = providers_for(provider)
        for one, following in zip(tried, (*tried, last)[1:], strict=True):
            try:
                self._open(one, serving)
            except PolicyError as error:
                self._refuse_slower(following, error)
                why = ' '.join(str(error).split())
                _LOG.warning('provider %s passed over: %s', one, why)
                self.problem = f'{self.problem}provider {one} passed over: {why}; '
            else:
                break
        else:
            self._open(last, serving)
        if self.problem:
            self.problem += f'it runs on {self.provider}'

    def _open(self, provider: str, serving: Graphs | None = None) -> None:
        graphs: dict[str, onnxruntime.InferenceSession | RefitGraph] = {}
        digests = {}
        layer, lengths = (engine_layer() if provider == REFIT else None), self._lengths
        for name in self._names:
            if self._files.manifest_sha256 or self._options.engine_cache:
                digests[name] = self._files.digest(name)
            known = None if serving is None else serving._same(name, digests.get(name), provider, self)
            if known is not None:
                graphs[name] = known
                lengths = lengths | getattr(known, 'lengths', {})
                continue
            with self._files.graph(name) as (file, mapped):
                if layer is not None:
                    graphs[name] = open_refit_graph(layer, file, self._files.path / name, lengths,
                                                    self._options.engine_cache, serving and serving._graphs.get(name))
                    lengths = lengths | graphs[name].lengths  # the prefix comes first, and others take its length
                    continue
                graphs[name] = open_graph(file, self._files.path / name, provider, self._threads, self._options,
                                          mapped=mapped, lengths=self._lengths, digest=digests.get(name, ''))
        self._graphs, self._digests = graphs, digests
        #: Provider that runs the graphs: 'cpu', 'cuda', 'tensorrt' or 'tensorrt_refit'.
        self.provider = provider

    def _same(self, name: str, digest: str | None, provider: str, other: Graphs) -> onnxruntime.InferenceSession | None:
        """Return the graph of that name if another release's is the same, and is to run in the same way."""
        verified = self._files.manifest_sha256 and other._files.manifest_sha256
        alike = (self.provider, self._threads, self._options, self._lengths) == (
            provider, other._threads, other._options, other._lengths)
        return self._graphs[name] if verified and alike and digest and self._digests.get(name) == digest else None

    def __contains__(self, name: str) -> bool:
        return name in self._graphs

    def __getitem__(self, name: str) -> onnxruntime.InferenceSession:
        return self._graphs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._graphs)

    def note(self, name: str, key: str) -> str:
        """Return what a graph notes about itself under a key; empty for nothing."""
        return self._graphs[name].get_modelmeta().custom_metadata_map.get(key, '')

    @property
    def device(self) -> str:
        """Where the graphs' values lie: 'cpu' or 'cuda'."""
        return 'cpu' if self.provider == 'cpu' else 'cuda'

    def run(self, name: str, binding: onnxruntime.IOBinding) -> None:
        """Run a graph.

        :raises GraphError: when it fails.
        """
        try:
            self._graphs[name].run_with_iobinding(binding)
        except Exception as error:  # onnxruntime raises many unrelated types
            raise GraphError(f'policy {self._files.version}: {name} failed on {self.provider}: {error}') from error

    def _refuse_slower(self, provider: str, error: PolicyError) -> None:
        """Refuse to take a provider after an error, where those graphs that serve meanwhile run on a faster one.

        :raises PolicyError: naming the error and both.
        """
        if self._slowest and slower(provider, self._slowest):
            why = ' '.join(str(error).split())
            raise PolicyError(f'{why}. It was not tried on {provider}: the policy that serves runs on {self._slowest}, '
                              'which is faster. Repair what is named, or free memory of the GPU, which holds both '
                              'policies during a swap, and announce the release again') from error

    def proven(self) -> None:
        """From now on the graphs fall back as the options say, whatever others ran on when they were opened."""
        self._slowest = ''

    def fall_back(self, error: GraphError) -> None:
        """Move all graphs to the CPU after one failed, if the options allow that; values bound before are void then.

        :raises GraphError: the error, where they do not or the graphs run on the CPU already.
        :raises PolicyError: when the release cannot be opened again, or graphs that serve meanwhile run on what is
            faster.
        """
        if self.provider == 'cpu' or not self._options.cpu_fallback:
            raise error
        self._refuse_slower('cpu', error)
        failed, why = self.provider, ' '.join(str(error).split())
        _LOG.error('%s: it goes on on the CPU, which is slower. Repair %s and load the policy again', why, failed)
        self._open('cpu')
        self.problem = f'{why}: it runs on the CPU instead of {failed}, which is slower'

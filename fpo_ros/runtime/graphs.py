"""The graphs of one release and what runs them: opened together, and moved to the CPU together."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import onnxruntime

from fpo_ros.runtime.providers import DEFAULT_OPTIONS, SINGLE, PolicyError, ProviderOptions, open_graph
from fpo_ros.runtime.release_files import ReleaseFiles

_LOG = logging.getLogger(__name__)


class GraphError(PolicyError):
    """A graph failed while it ran."""


class Graphs:
    """Open graphs.

    :param files: of the release; needed again for a fall back to the CPU.
    :param names: of the graphs' files.
    :param provider: 'cpu', 'cuda', 'tensorrt' or 'auto' (the fastest of these that works).
    :param threads: threads of one inference on the CPU.
    :param options: of the provider.
    :param lengths: see :func:`fpo_ros.runtime.providers.open_graph`.
    :raises PolicyError: for an absent provider or a missing or unfit file, naming it.
    """

    def __init__(self, files: ReleaseFiles, names: Sequence[str], provider: str = 'cpu', threads: int = 1,
                 options: ProviderOptions = DEFAULT_OPTIONS, lengths: Mapping[str, int] = SINGLE) -> None:
        self._files, self._names, self._threads, self._options = files, tuple(names), threads, options
        self._lengths = lengths
        #: Why the graphs were moved to the CPU; empty if they were not.
        self.problem = ''
        self._open(provider)

    def _open(self, provider: str) -> None:
        graphs = {}
        for name in self._names:
            with self._files.graph(name) as (file, mapped):
                graphs[name], provider = open_graph(file, self._files.path / name, provider, self._threads,
                                                    self._options, mapped=mapped, lengths=self._lengths)
        self._graphs: dict[str, onnxruntime.InferenceSession] = graphs
        #: Provider that runs the graphs: 'cpu', 'cuda' or 'tensorrt'.
        self.provider = provider

    def __contains__(self, name: str) -> bool:
        return name in self._graphs

    def __getitem__(self, name: str) -> onnxruntime.InferenceSession:
        return self._graphs[name]

    def __iter__(self):  # noqa: ANN204
        return iter(self._graphs)

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

    def fall_back(self, error: GraphError) -> None:
        """Move all graphs to the CPU after one failed, if the options allow that; values bound before are void then.

        :raises GraphError: the error, where they do not or the graphs run on the CPU already.
        :raises PolicyError: when the release cannot be opened again.
        """
        if self.provider == 'cpu' or not self._options.cpu_fallback:
            raise error
        failed, why = self.provider, ' '.join(str(error).split())
        _LOG.error('%s: it goes on on the CPU, which is slower. Repair %s and load the policy again', why, failed)
        self._open('cpu')
        self.problem = f'{why}: it runs on the CPU instead of {failed}, which is slower'

"""Recording an episode step by step."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from fpo_ros.episodes.errors import EpisodeStoreError
from fpo_ros.episodes.incoming import Incoming, system_errors
from fpo_ros.episodes.layout import FRAME_STEPS, FRAMES, check_frames, check_steps
from fpo_ros.episodes.meta import EpisodeMeta

#: Steps per chunk of a recorded episode: what a killed writer can lose at most.
FLUSH_STEPS = 50
#: Frames per chunk.
FRAME_CHUNK = 16
_LOST = 'this episode was dropped, every committed one is safe'


class EpisodeWriter:
    """Writes one episode; made by :meth:`EpisodeStore.writer`. One thread at a time.

    Every :data:`FLUSH_STEPS` steps go to disk at once. If the process dies, ``fpo-ros episodes salvage``
    recovers the flushed steps. Used as a context manager, it drops the episode unless it was committed.
    """

    def __init__(self, root: Path, meta: EpisodeMeta) -> None:
        self.meta = meta
        self.steps = 0
        self._incoming: Incoming | None = Incoming(root, meta)
        self._form: dict[str, tuple[tuple[int, ...], np.dtype]] | None = None
        self._frame_shapes: dict[str, tuple[int, ...]] = {}
        self._last_time = -np.inf

    def append(self, step: Mapping[str, Any], images: Mapping[str, np.ndarray] | None = None) -> None:
        """Add one step.

        :param step: array name → value of this step, without the time axis. The first step fixes which
            arrays there are, and their shapes.
        :param images: camera → (H, W, 3) uint8 RGB frame that is new at this step; a camera may skip steps.
        :raises EpisodeStoreError: for data that do not fit (nothing is added then, and the episode goes on),
            or when the disk refuses (the episode is dropped then).
        """
        incoming = self._open()
        rows = check_steps({name: np.array(value)[None] for name, value in step.items()})
        self._check_form(rows)
        frames = {camera: self._check_frame(camera, frame) for camera, frame in (images or {}).items()}
        try:
            with system_errors(incoming.path, _LOST):
                for name, value in rows.items():
                    incoming.extend(name, value, FLUSH_STEPS)
                for camera, (frame, index) in frames.items():
                    incoming.extend(FRAMES + camera, frame, FRAME_CHUNK)
                    incoming.extend(FRAME_STEPS + camera, index, FRAME_CHUNK)
                self.steps += 1
                if self.steps % FLUSH_STEPS == 0:
                    incoming.publish_progress(self.steps)
        except BaseException:
            self.abort()
            raise
        self._form = {name: (value.shape, value.dtype) for name, value in rows.items()}
        self._frame_shapes |= {camera: frame.shape for camera, (frame, _) in frames.items()}
        self._last_time = rows['timestamp'][0]

    def commit(self, **final_meta: Any) -> str:
        """Finish the episode; once this returns it survives a kill and a power cut.

        :param final_meta: entries of :class:`EpisodeMeta` known only now, such as ``success``.
        :returns: the id of the episode.
        :raises EpisodeStoreError: for wrong entries or no steps (the writer stays open then), or when the
            disk refuses (the episode is dropped then).
        """
        incoming = self._open()
        if not self.steps:
            raise EpisodeStoreError('episode has no steps: append at least one, or abort')
        meta = self.meta.replace(**final_meta | {'steps': self.steps})
        try:
            with system_errors(incoming.path, _LOST):
                episode_id = incoming.commit(meta)
        except BaseException:
            self.abort()
            raise
        self._incoming = None
        return episode_id

    def abort(self) -> None:
        """Drop the episode; does nothing once committed or aborted."""
        if self._incoming is not None:
            self._incoming.discard()
            self._incoming = None

    def __enter__(self) -> EpisodeWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.abort()

    def _open(self) -> Incoming:
        if self._incoming is None:
            raise EpisodeStoreError('this episode is finished: ask the store for a new writer')
        return self._incoming

    def _check_form(self, rows: dict[str, np.ndarray]) -> None:
        form = {name: (value.shape, value.dtype) for name, value in rows.items()}
        if self._form is not None and form != self._form:
            differing = sorted(name for name in form.keys() | self._form.keys()
                               if form.get(name) != self._form.get(name))
            raise EpisodeStoreError(f'step {self.steps}: array {differing[0]} is missing, new or of another '
                                    f'shape or type than in step 0')
        if rows['timestamp'][0] < self._last_time:
            raise EpisodeStoreError(f'step {self.steps}: timestamp runs backwards, '
                                    f'{self._last_time} s to {rows["timestamp"][0]} s')

    def _check_frame(self, camera: str, frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        frames, steps = check_frames(camera, np.array(frame)[None], np.array([self.steps]), self.steps + 1)
        if self._frame_shapes.get(camera, frames.shape) != frames.shape:
            raise EpisodeStoreError(f'step {self.steps}: frame of camera {camera} is {frames.shape[1:]}, '
                                    f'the first was {self._frame_shapes[camera][1:]}')
        return frames, steps

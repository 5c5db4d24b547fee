"""Recording an episode step by step."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from fpo_ros.episodes.errors import EpisodeStoreError, UnconfirmedEpisode
from fpo_ros.episodes.incoming import Incoming
from fpo_ros.episodes.layout import FRAME_STEPS, FRAMES, OBJECT_POSE, check_frames, check_object_pose, check_steps
from fpo_ros.episodes.meta import EpisodeMeta
from fpo_ros.files import explain

#: Steps per chunk of a recorded episode: what a killed writer can lose at most.
FLUSH_STEPS = 50
#: Frames per chunk.
FRAME_CHUNK = 16


class EpisodeWriter:
    """Writes one episode; made by :meth:`EpisodeStore.writer`. One thread at a time.

    Every :data:`FLUSH_STEPS` steps go to disk at once. If the process dies or the disk refuses, ``fpo-ros
    episodes salvage`` recovers the flushed steps. Used as a context manager, it drops an episode that is
    neither committed nor left.
    """

    def __init__(self, root: Path, meta: EpisodeMeta) -> None:
        self.meta = meta
        self.steps = 0
        self._incoming: Incoming | None = Incoming(root, meta)
        self._form: dict[str, tuple[tuple[int, ...], np.dtype]] | None = None
        self._frame_shapes: dict[str, tuple[int, ...]] = {}
        self._last_time = -np.inf

    @property
    def closed(self) -> bool:
        """Whether the episode was committed, left or aborted; the writer takes no steps then."""
        return self._incoming is None

    def append(self, step: Mapping[str, Any], images: Mapping[str, np.ndarray] | None = None) -> None:
        """Add one step.

        :param step: array name → value of this step, without the time axis. The first step fixes which
            arrays there are, and their shapes.
        :param images: camera → (H, W, 3) uint8 RGB frame that is new at this step; a camera may skip steps.
        :raises EpisodeStoreError: for data that do not fit (nothing is added then, and the episode goes on),
            or when the disk refuses (the writer is closed then, and the message says which steps are safe).
        """
        incoming = self._open()
        rows = check_steps({name: np.array(value)[None] for name, value in step.items()}, self.meta.task,
                           self.steps)
        self._check_form(rows)
        frames = {camera: self._check_frame(camera, frame) for camera, frame in (images or {}).items()}
        try:
            for name, value in rows.items():
                incoming.extend(name, value, FLUSH_STEPS)
            for camera, (frame, index) in frames.items():
                incoming.extend(FRAMES + camera, frame, FRAME_CHUNK)
                incoming.extend(FRAME_STEPS + camera, index, FRAME_CHUNK)
            self.steps += 1
            if self.steps % FLUSH_STEPS == 0:
                incoming.publish_progress(self.steps)
        except Exception as error:
            raise self._ended(incoming, error) from error
        except BaseException:
            self.leave()
            raise
        self._form = {name: (value.shape, value.dtype) for name, value in rows.items()}
        self._frame_shapes |= {camera: frame.shape for camera, (frame, _) in frames.items()}
        self._last_time = rows['timestamp'][0]

    def commit(self, **final_meta: Any) -> str:
        """Finish the episode; once this returns it survives a kill and a power cut.

        :param final_meta: entries of :class:`EpisodeMeta` known only now, such as ``success``.
        :returns: the id of the episode.
        :raises EpisodeStoreError: for wrong entries or no steps (the writer stays open then), or when the
            disk refuses (the writer is closed then, and the message says which steps are safe).
        :raises UnconfirmedEpisode: when the episode is stored, but may not survive a power cut.
        """
        incoming = self._open()
        if not self.steps:
            raise EpisodeStoreError('episode has no steps: append at least one, or abort')
        meta = self.meta.replace(**final_meta | {'steps': self.steps})
        if OBJECT_POSE in self._form:
            check_object_pose(self._form[OBJECT_POSE][0][1:], meta.task)
        try:
            episode_id = incoming.commit(meta)
        except UnconfirmedEpisode:
            self._incoming = None
            raise
        except Exception as error:
            raise self._ended(incoming, error) from error
        except BaseException:
            self.leave()
            raise
        self._incoming = None
        return episode_id

    def leave(self) -> str:
        """Stop writing; the flushed steps stay for ``fpo-ros episodes salvage``.

        :returns: what became of the steps, for a message; empty if the writer was closed already.
        """
        incoming, self._incoming = self._incoming, None
        if incoming is None:
            return ''
        if not incoming.safe_steps:
            incoming.discard()
            return (f'this episode was dropped, none of its {self.steps} steps had reached the disk yet; '
                    'every committed one is safe')
        incoming.leave()
        command = shlex.join(['fpo-ros', 'episodes', 'salvage', str(incoming.root.absolute()), incoming.path.name])
        return (f'{incoming.safe_steps} of its {self.steps} steps are safe in {incoming.path}: "{command}" makes an '
                'episode of them; every committed one is safe')

    def abort(self) -> None:
        """Drop the episode; does nothing once committed, left or aborted."""
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

    def _ended(self, incoming: Incoming, error: Exception) -> EpisodeStoreError:
        """Leave the episode and return the error that says why, and what became of its steps."""
        why = explain(error, incoming.path) if isinstance(error, OSError) else f'{type(error).__name__}: {error}'
        return EpisodeStoreError(f'{why}; {self.leave()}')

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

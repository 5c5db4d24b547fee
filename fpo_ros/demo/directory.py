"""The directory of a demo: earlier results are moved aside, and one demo runs in it at a time."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from fpo_ros.files import replace_file, try_lock

_MARK = 'demo.json'
_LOCK = '.lock'


class DemoError(ValueError):
    """The demo cannot run; the message says what to do."""


def default_directory(quick: bool) -> Path:
    """Return where a demo goes unless the user says otherwise."""
    return Path('runs/demo-quick' if quick else 'runs/demo')


def program() -> str:
    """Return the command of this installation, for a shell."""
    script = Path(sys.executable).with_name('fpo-ros')
    return shlex.quote(str(script)) if script.exists() else 'fpo-ros'


def check_directory(work: Path, settings: dict, resume: bool) -> bool:
    """Return whether the directory holds a demo; nothing is changed.

    :param settings: what a resumed demo must have been started with.
    :raises DemoError: when it holds something else, or a demo of other settings is to be resumed.
    """
    if work.exists() and not work.is_dir():
        raise DemoError(f'{work} is no directory: choose one with --dir')
    mark = work / _MARK
    if not mark.exists():
        # A demo that was killed at its very start leaves a lock and perhaps a mark under its temporary name.
        if work.exists() and any(entry.name != _LOCK and not entry.name.startswith(f'.{_MARK}.')
                                 for entry in work.iterdir()):
            raise DemoError(f'{work} holds other files: choose an empty directory with --dir')
        return False
    if resume:
        found = read_object(mark, 'start afresh without --resume')
        if found != settings:
            raise DemoError(f'{work} holds a demo of other settings ({json.dumps(found)}): resume with those, or '
                            'start afresh without --resume')
    return True


@contextlib.contextmanager
def claimed(work: Path, settings: dict, resume: bool, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the directory of a demo for the duration of a ``with`` block, empty unless the demo resumes.

    Earlier results, signing keys among them, are moved to ``<work>.1``, ``<work>.2`` and so on; nothing is deleted.

    :param say: called with one line when something is moved aside, or there is nothing to resume.
    :raises DemoError: when another demo holds it; see also :func:`check_directory`.
    """
    known, place = check_directory(work, settings, resume), work.resolve()
    with contextlib.ExitStack() as held:
        if known:
            _hold(place, held)
        if not known or not resume:
            if known:
                _move_aside(place, say)
            elif resume:
                say(f'there is nothing to resume in {work}: this demo starts at its beginning')
            place.mkdir(parents=True, exist_ok=True)
            _hold(place, held)
            replace_file(place / _MARK, json.dumps(settings).encode() + b'\n')
        yield


def _hold(place: Path, held: contextlib.ExitStack) -> None:
    """Take the lock of a directory until the stack is closed."""
    descriptor = try_lock(place / _LOCK)
    if descriptor is not None:
        held.callback(os.close, descriptor)
        # Another demo may have moved the directory aside since its lock was opened here.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(place / _LOCK)):
                return
    raise DemoError(f'another demo is running in {place}: wait for its end, or choose another directory with --dir')


def _move_aside(place: Path, say: Callable[[str], None]) -> None:
    taken = [int(entry.name.rpartition('.')[2]) for entry in place.parent.glob(f'{place.name}.*')
             if entry.name.removeprefix(f'{place.name}.').isdecimal()]
    aside = place.with_name(f'{place.name}.{max(taken, default=0) + 1}')
    place.rename(aside)
    more = f', {len(taken) + 1} such directories in all: remove those you no longer need' if taken else ''
    say(f'the earlier results are now in {aside}{more}')


def read_object(path: Path, advice: str) -> dict:
    """Return the JSON object of a file of a demo.

    :param advice: what to do when it is damaged.
    :raises DemoError: naming the file.
    """
    try:
        value = json.loads(path.read_text(encoding='utf-8'))
        if isinstance(value, dict):
            return value
        reason = 'no JSON object'
    except ValueError as error:
        reason = str(error)
    raise DemoError(f'{path} is damaged ({reason}): {advice}')

"""``fpo-ros episodes``."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import subprocess
from os import scandir
from pathlib import Path

import numpy as np
import pytest
from episode_data import META, frames, row, steps
from typer.testing import CliRunner

from fpo_ros.episodes import EpisodeStoreError, incoming
from fpo_ros.episodes import salvage as salvaging
from fpo_ros.episodes.cli import app
from fpo_ros.episodes.incoming import INCOMING, lock_path
from fpo_ros.episodes.writer import FLUSH_STEPS
from fpo_ros.files import try_lock


def call(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(result.exception, EpisodeStoreError):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def filled(store):
    store.write(steps(30), META | {'success': True}, {'cam_high': (frames(3), np.array([0, 10, 20]))})
    store.write(steps(20), META | {'success': False, 'source': 'policy', 'policy_version': 'v000002',
                                   'seed': None})
    return store


@pytest.fixture
def abandoned(filled):
    """The store with an episode whose writer vanished after a flush, without a chance to clean up."""
    data, writer = steps(FLUSH_STEPS + 5), filled.writer(META)
    for index in range(FLUSH_STEPS + 5):
        writer.append(row(data, index))
    (leftover,) = filled.leftovers()
    moved = 'f' * 32  # a name that no lock is held for
    (filled.path / INCOMING / leftover.name).rename(filled.path / INCOMING / moved)
    yield filled, moved
    lock_path(filled.path / INCOMING / leftover.name).unlink(missing_ok=True)


def test_list_shows_and_filters(filled):
    text = call('list', filled.path)
    assert 'ep_000001' in text and 'ep_000002' in text and '2 episodes, 1 succeeded, 50 steps' in text
    listed = json.loads(call('list', filled.path, '--json'))
    assert [(entry['id'], entry['steps'], entry['success']) for entry in listed['episodes']] == [
        ('ep_000001', 30, True), ('ep_000002', 20, False)]
    for option, name in (('--success', 'ep_000001'), ('--failure', 'ep_000002'),
                         ('--source=policy', 'ep_000002')):
        (entry,) = json.loads(call('list', filled.path, option, '--json'))['episodes']
        assert entry['id'] == name
    assert 'use one of expert' in call('list', filled.path, '--source', 'dream', code=2)


def test_show_describes_one_episode(filled):
    shown = json.loads(call('show', filled.path, 'ep_000001', '--json'))
    action = steps(30)['action']
    assert shown['arrays']['action'] == {'shape': [30, 14], 'dtype': 'float32', 'min': float(action.min()),
                                         'max': float(action.max())}
    assert shown['cameras'] == {'cam_high': {'frames': 3, 'height': 6, 'width': 8}}
    assert shown['meta']['seed'] == 7 and shown['bytes'] > 30 * 28 * 4
    assert 'camera cam_high: 3 frames, 8 x 6 pixels' in call('show', filled.path, 'ep_000001')


def test_show_of_numbers_that_are_not_finite_is_still_json(filled):
    identity = filled.write(steps(2) | {'note': np.array([np.nan, np.inf])}, META)
    shown = json.loads(call('show', filled.path, identity, '--json'))
    assert shown['arrays']['note']['min'] is None
    assert 'no finite value' in call('show', filled.path, identity)


def test_verify_fails_when_anything_is_damaged(filled):
    assert '2 episodes checked, 0 damaged' in call('verify', filled.path)
    (filled.path / 'ep_000002' / 'action' / 'c.0.0').write_bytes(b'')
    assert 'ep_000002: ' in call('verify', filled.path, code=1)
    result = json.loads(call('verify', filled.path, '--json', code=1))
    assert result['checked'] == 2 and list(result['damaged']) == ['ep_000002']
    call('verify', filled.path, 'ep_000001')


def test_salvage_lists_then_saves(abandoned):
    store, name = abandoned
    assert 'unfinished' in call('list', store.path)
    assert f'{name}: {FLUSH_STEPS} steps can be saved' in call('salvage', store.path, '--dry-run')
    assert store.ids() == ['ep_000001', 'ep_000002']
    (result,) = json.loads(call('salvage', store.path, '--json'))['unfinished']
    assert (result['name'], result['result'], result['episode']) == (name, 'saved', 'ep_000003')
    assert store.verify('ep_000003') == [] and len(store.read('ep_000003')) == FLUSH_STEPS
    assert 'nothing unfinished' in call('salvage', store.path)


def test_salvage_discards_on_request(abandoned):
    store, name = abandoned
    assert f'{name}: removed' in call('salvage', store.path, '--discard')
    assert store.leftovers() == [] and len(store) == 2
    assert 'exclude each other' in call('salvage', store.path, '--discard', '--dry-run', code=2)


def test_salvage_says_what_it_cannot_save(filled):
    (filled.path / INCOMING / 'unreadable').mkdir(parents=True, exist_ok=True)
    assert 'nothing to save' in call('salvage', filled.path, code=1)
    assert 'removed' in call('salvage', filled.path, '--discard')
    with pytest.raises(EpisodeStoreError, match='no unfinished episode'):
        call('salvage', filled.path, 'unknown')


def test_salvage_leaves_a_running_recording_alone(filled):
    with filled.writer(META) as writer:
        writer.append(row(steps(1), 0))
        assert 'is being recorded' in call('salvage', filled.path, '--discard')
        assert writer.commit() == 'ep_000003'


@pytest.fixture
def read_only(monkeypatch):
    """A system that refuses to create or change anything, as read-only media do."""
    real = os.open

    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, 'open', lambda path, flags, *rest, **options: (refuse if flags & (
        os.O_CREAT | os.O_WRONLY | os.O_RDWR) else real)(path, flags, *rest, **options))
    for name in ('mkdir', 'unlink', 'rename', 'replace', 'rmdir'):
        monkeypatch.setattr(os, name, refuse)


def test_looking_works_on_read_only_media(abandoned, read_only):
    store, name = abandoned
    assert '2 episodes, 1 succeeded, 50 steps; 1 unfinished' in call('list', store.path)
    assert '2 episodes checked, 0 damaged' in call('verify', store.path)
    call('show', store.path, 'ep_000001')
    assert f'{name}: {FLUSH_STEPS} steps can be saved\n' in call('salvage', store.path, '--dry-run')
    assert f'{name}: ' in call('salvage', store.path, '--discard', code=1)
    assert 'Read-only file system' in call('salvage', store.path, code=1)


def test_looking_works_on_really_read_only_media(filled, tmp_path):
    writer = filled.writer(META)
    mount = tmp_path / 'mount'
    mount.mkdir()
    made = [subprocess.run(['mount', *arguments], capture_output=True, timeout=60, check=False).returncode
            for arguments in (['--bind', str(filled.path), str(mount)], ['-o', 'remount,bind,ro', str(mount)])
            ] if os.geteuid() == 0 else [1]
    try:
        if any(made):
            pytest.skip('mounting read-only is not permitted here')
        assert '2 episodes, 1 succeeded, 50 steps; 1 unfinished' in call('list', mount)
        assert 'is being recorded' in call('salvage', mount, '--dry-run')
    finally:
        writer.abort()
        if made[0] == 0:
            subprocess.run(['umount', str(mount)], timeout=60, check=True)


@pytest.mark.parametrize('code', [errno.EACCES, errno.EROFS, errno.ENOLCK])
def test_what_cannot_be_told_is_said_so(filled, monkeypatch, code):
    writer, real = filled.writer(META), fcntl.flock

    def refuse(fd: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, 'flock', refuse)
    (leftover,) = filled.leftovers()
    assert leftover.alive is None and os.strerror(code) in leftover.doubt
    assert '1 unfinished' in call('list', filled.path)
    assert 'it cannot be told whether it is still being recorded' in call('salvage', filled.path, '--dry-run')
    monkeypatch.setattr(fcntl, 'flock', real)
    writer.abort()


def test_unfinished_episodes_that_cannot_be_listed_do_not_hide_the_others(filled, monkeypatch):
    def refuse(path: object) -> None:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(salvaging.os, 'scandir', lambda path: (refuse if INCOMING in str(path) else scandir)(path))
    assert '2 episodes' in call('list', filled.path)
    assert 'unfinished episodes cannot be listed' in call('list', filled.path)
    assert json.loads(call('list', filled.path, '--json'))['unfinished'] is None


def test_one_leftover_that_cannot_be_saved_does_not_keep_the_others(abandoned):
    store, name = abandoned
    shutil.copytree(store.path / INCOMING / name, store.path / INCOMING / ('e' * 32))
    (store.path / INCOMING / ('e' * 32) / 'action' / 'c.0.0').write_bytes(b'')
    text = call('salvage', store.path, code=1)
    assert 'c.0.0 is damaged' in text and f'{name}: {FLUSH_STEPS} steps saved as ep_000003' in text


def test_salvage_clears_lock_files_that_killed_writers_left(filled):
    (filled.path / INCOMING / ('a' * 32 + '.lock')).touch()
    with filled.writer(META) as writer:
        assert 'is being recorded' in call('salvage', filled.path)
        writer.append(row(steps(1), 0))
        assert writer.commit() == 'ep_000003'
    assert list((filled.path / INCOMING).iterdir()) == []


def test_a_look_does_not_disturb_a_writer_that_begins(filled, monkeypatch):
    """Whoever looks holds a shared lock for a moment; a writer or a salvage that meets it goes on."""
    seen: list[Path] = []

    def looked_at(path: Path) -> int | None:
        if len(seen) < 2:
            seen.append(path)
            path.touch()
            return None
        return try_lock(path)

    monkeypatch.setattr(incoming, 'try_lock', looked_at)
    filled.writer(META).abort()
    assert len(seen) == 2 and list((filled.path / INCOMING).iterdir()) == []


@pytest.mark.parametrize('command', ['list', 'verify', 'salvage'])
def test_a_missing_store_is_one_error(tmp_path, command):
    with pytest.raises(EpisodeStoreError, match='no such directory'):
        call(command, tmp_path / 'nowhere')


@pytest.mark.parametrize('command', ['list', 'show', 'verify', 'salvage'])
def test_help_teaches_by_example(command):
    assert f'fpo-ros episodes {command}' in call(command, '--help')

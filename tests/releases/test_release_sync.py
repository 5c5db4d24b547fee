"""What the disk must have before a release or a promotion counts, and what is said when it does not confirm."""

from __future__ import annotations

import os

import pytest
from episodes.disk_log import DiskLog
from release_data import evaluation, publish

import fpo_ros.files
from fpo_ros.releases import ReleaseError, ReleaseStore, generate_keypair


@pytest.fixture
def disk(tmp_path, monkeypatch, keys, staging):
    return DiskLog(monkeypatch, tmp_path)


def test_a_release_is_on_the_disk_before_it_appears_and_its_entry_after(tmp_path, disk, staging, keys):
    store = ReleaseStore(tmp_path / 'new' / 'store')
    path = publish(store, staging, keys.private_path).path
    assert [target for _, target in disk.moved] == [path]
    assert disk.dirty == set() and {tmp_path, tmp_path / 'new', store.path} <= set(disk.synced)


def test_a_promotion_and_a_rollback_are_on_the_disk(releases, disk, staging, keys, trusted):
    for successes in (100, 120):
        publish(releases, staging, keys.private_path, evaluation(successes))
    for change in (lambda: releases.promote('v000001', trusted), lambda: releases.promote('v000002', trusted),
                   releases.rollback):
        before = len(disk.moved)
        change()
        assert [target for _, target in disk.moved[before:]] == [releases.path / 'promoted']
        assert disk.dirty == set()


def test_keys_are_on_the_disk(tmp_path, disk):
    generate_keypair(tmp_path / 'a' / 'keys')
    assert disk.dirty == set() and {tmp_path, tmp_path / 'a', tmp_path / 'a' / 'keys'} <= set(disk.synced)


@pytest.fixture
def unconfirmed(releases, staging, keys, trusted, monkeypatch):
    """Return a function that does something in a store whose directory the disk does not confirm any more."""
    for successes in (100, 120):
        publish(releases, staging, keys.private_path, evaluation(successes))
    releases.promote('v000001', trusted)
    real = os.fsync

    def fsync(fd: int) -> None:
        if os.readlink(f'/proc/self/fd/{fd}') == str(releases.path):
            raise OSError(5, 'Input/output error')
        real(fd)

    def does(action) -> str:
        with monkeypatch.context() as patch:
            patch.setattr(fpo_ros.files.os, 'fsync', fsync)
            with pytest.raises(ReleaseError) as caught:
                action()
        return str(caught.value)
    return does


def test_a_release_that_appeared_unconfirmed_is_reported_as_published(unconfirmed, releases, staging, keys, trusted):
    said = unconfirmed(lambda: publish(releases, staging, keys.private_path))
    assert 'published as v000003, but the disk did not confirm it (Input/output error)' in said
    assert 'nothing was published' not in said
    assert releases.load('v000003', trusted) and not list(releases.path.glob('.incoming-*'))


def test_a_promotion_that_is_unconfirmed_is_reported_as_made_and_can_be_repeated(unconfirmed, releases, trusted):
    said = unconfirmed(lambda: releases.promote('v000002', trusted))
    assert 'v000002 serves now, but that may not survive a power cut' in said and 'nothing was changed' not in said
    assert releases.history() == ['v000001', 'v000002']
    said = unconfirmed(lambda: releases.promote('v000002', trusted))
    assert 'may not survive' in said, 'a repetition must not acknowledge what the disk did not confirm'
    releases.promote('v000002', trusted)
    assert releases.history() == ['v000001', 'v000002']


def test_a_rollback_that_is_unconfirmed_is_reported_as_made(unconfirmed, releases, trusted):
    releases.promote('v000002', trusted)
    assert 'v000001 serves now' in unconfirmed(releases.rollback)
    assert releases.history() == ['v000001']

"""Keys that others could read, write or exchange are refused; keys are never overwritten and never half made."""

from __future__ import annotations

import errno
import hashlib
import os

import pytest

import fpo_ros.files
from fpo_ros.releases import ReleaseError, generate_keypair, load_private_key, load_trusted_keys
from fpo_ros.releases.keys import key_id


def test_keys_are_private_and_never_overwritten(tmp_path, keys):
    assert keys.private_path.stat().st_mode & 0o777 == 0o600
    secret = keys.private_path.read_bytes()
    with pytest.raises(ReleaseError, match='never overwritten'):
        generate_keypair(keys.private_path.parent)
    assert keys.private_path.read_bytes() == secret
    assert b'PRIVATE' not in keys.public_path.read_bytes()
    assert list(load_trusted_keys(keys.private_path.parent)) == [keys.key_id]
    raw = load_private_key(keys.private_path).public_key().public_bytes_raw()
    assert keys.key_id == hashlib.sha256(raw).hexdigest()[:16]
    with pytest.raises(ReleaseError, match='key name'):
        generate_keypair(tmp_path, '../evil')


def test_keys_that_cannot_be_used_are_named(tmp_path, keys):
    keys.private_path.chmod(0o640)
    with pytest.raises(ReleaseError, match='chmod 600'):
        load_private_key(keys.private_path)
    with pytest.raises(ReleaseError, match='nothing.key: No such file'):
        load_private_key(tmp_path / 'nothing.key')
    with pytest.raises(ReleaseError, match='nothing.pub: No such file'):
        load_trusted_keys(tmp_path / 'nothing.pub')
    with pytest.raises(ReleaseError, match='holds no trusted key'):
        load_trusted_keys(tmp_path)
    tmp_path.chmod(0o775)
    with pytest.raises(ReleaseError, match=f'{tmp_path} can be changed by other users.*"chmod go-w {tmp_path}"'):
        load_trusted_keys(tmp_path)
    tmp_path.chmod(0o755)
    (tmp_path / 'bad.pub').write_text('-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n')
    with pytest.raises(ReleaseError, match='bad.pub is not a PEM public key'):
        load_trusted_keys(tmp_path)
    (tmp_path / 'bad.key').write_text('secret')
    (tmp_path / 'bad.key').chmod(0o600)
    with pytest.raises(ReleaseError, match=f'bad.key is not a PEM private key.*fpo-ros releases keygen {tmp_path}'):
        load_private_key(tmp_path / 'bad.key')
    os.mkfifo(tmp_path / 'pipe.key', 0o600)
    with pytest.raises(ReleaseError, match='pipe.key is not a key file'):
        load_private_key(tmp_path / 'pipe.key')


@pytest.mark.parametrize('mode', [0o664, 0o646])
def test_a_trusted_key_that_others_may_change_is_refused(keys, mode):
    keys.public_path.chmod(mode)
    for path in (keys.public_path, keys.public_path.parent):
        with pytest.raises(ReleaseError, match='release.pub can be changed by other users.*"chmod go-w '):
            load_trusted_keys(path)
    keys.public_path.chmod(0o444)
    assert list(load_trusted_keys(keys.public_path)) == [keys.key_id]


def test_keys_of_another_user_are_refused_and_those_of_root_are_not(keys, monkeypatch):
    monkeypatch.setattr(os, 'geteuid', lambda: 4711)
    if keys.private_path.stat().st_uid == 0:  # root's files are as trustworthy as the system
        assert load_private_key(keys.private_path) and load_trusted_keys(keys.public_path.parent)
    real = os.fstat
    monkeypatch.setattr(os, 'fstat', lambda fd: owned(real(fd), 4712))
    for load, path in ((load_private_key, keys.private_path), (load_trusted_keys, keys.public_path)):
        with pytest.raises(ReleaseError, match=r'belongs to another user \(id 4712\): run "chown 4711 '):
            load(path)


def owned(status: os.stat_result, user: int) -> os.stat_result:
    return os.stat_result((*status[:4], user, *status[5:10]))


def test_the_key_that_is_read_is_the_one_that_was_checked(keys, tmp_path, monkeypatch):
    """A path that is exchanged between check and reading gains nothing."""
    other = generate_keypair(tmp_path / 'other')
    real = os.fstat

    def exchange(fd: int) -> os.stat_result:
        status = real(fd)
        os.replace(other.private_path, keys.private_path)
        monkeypatch.setattr(os, 'fstat', real)
        return status

    monkeypatch.setattr(os, 'fstat', exchange)
    assert key_id(load_private_key(keys.private_path).public_key()) == keys.key_id


def test_keygen_makes_a_directory_that_others_may_not_change(tmp_path):
    old = os.umask(0o002)
    try:
        made = generate_keypair(tmp_path / 'a' / 'keys')
    finally:
        os.umask(old)
    assert made.public_path.parent.stat().st_mode & 0o777 == 0o755
    assert list(load_trusted_keys(made.public_path.parent)) == [made.key_id]


def test_a_full_disk_makes_no_keys_and_leaves_none(tmp_path, monkeypatch):
    real, writes = os.write, []

    def write(fd: int, data: memoryview) -> int:
        writes.append(fd)
        if len(writes) > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd, data)

    with monkeypatch.context() as patch:
        patch.setattr(fpo_ros.files.os, 'write', write)
        with pytest.raises(ReleaseError, match='no keys were made: .* disk full'):
            generate_keypair(tmp_path / 'keys')
    assert list((tmp_path / 'keys').iterdir()) == []
    generate_keypair(tmp_path / 'keys')

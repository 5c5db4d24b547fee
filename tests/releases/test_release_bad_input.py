"""A release that is not exactly what a trusted key signed is refused; the message names the file."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from release_data import CREATED, evaluation, publish, stage

import fpo_ros.files
from fpo_ros.policy.contract import PolicyContract
from fpo_ros.releases import (
    ReleaseError,
    ReleaseStore,
    generate_keypair,
    load_private_key,
    load_release,
    load_trusted_keys,
)
from fpo_ros.releases.manifest import REQUIRED_FILES

FILES = ('manifest.json', 'manifest.sig', *REQUIRED_FILES)


@pytest.fixture
def release(releases, staging, keys) -> Path:
    return publish(releases, staging, keys.private_path).path


def sign_again(path: Path, private: Path, change) -> None:
    """Change the manifest and sign it with a trusted key, as a careless or hostile signer could."""
    data = json.loads((path / 'manifest.json').read_text())
    change(data)
    raw = json.dumps(data).encode()
    (path / 'manifest.json').write_bytes(raw)
    (path / 'manifest.sig').write_bytes(load_private_key(private).sign(raw))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_flipped_byte_in_any_file_is_refused(release, trusted, data):
    file = release / data.draw(st.sampled_from(FILES))
    good = file.read_bytes()
    position, mask = data.draw(st.integers(0, len(good) - 1)), data.draw(st.integers(1, 255))
    bad = bytearray(good)
    bad[position] ^= mask
    file.write_bytes(bad)
    with pytest.raises(ReleaseError, match='manifest.json' if 'manifest' in file.name else file.name):
        load_release(release, trusted)
    file.write_bytes(good)
    load_release(release, trusted)


@pytest.mark.parametrize('name', FILES)
@pytest.mark.parametrize('change', ['missing', 'empty', 'shorter', 'longer', 'link', 'pipe', 'directory'])
def test_files_that_are_not_as_signed_are_refused(release, trusted, tmp_path, name, change):
    file = release / name
    good = file.read_bytes()
    file.unlink()
    if change == 'link':
        (tmp_path / 'same').write_bytes(good)
        file.symlink_to(tmp_path / 'same')
    elif change == 'pipe':
        os.mkfifo(file)
    elif change == 'directory':
        file.mkdir()
    elif change != 'missing':
        file.write_bytes({'empty': b'', 'shorter': good[:-1], 'longer': good + b'\n'}[change])
    with pytest.raises(ReleaseError) as caught:
        load_release(release, trusted)
    named = 'manifest.json' if name == 'manifest.sig' and change in ('empty', 'shorter', 'longer') else name
    assert named in str(caught.value) and '\n' not in str(caught.value)


def test_a_file_larger_than_signed_is_refused_before_it_is_read(release, trusted, monkeypatch):
    with open(release / 'denoise.onnx', 'r+b') as file:
        file.truncate(40 << 30)  # sparse: takes no room
    read: list[int] = []
    real = os.fdopen
    monkeypatch.setattr(os, 'fdopen', lambda fd, *arguments, **options: (
        read.append(os.fstat(fd).st_size), real(fd, *arguments, **options))[1])
    with pytest.raises(ReleaseError, match=f'denoise.onnx has {40 << 30} bytes, the manifest says 13'):
        load_release(release, trusted)
    assert read and max(read) < 1 << 20


@pytest.mark.parametrize('name', ['extra.bin', '.hidden', 'prefix.onnx.data', 'sub/denoise.onnx'])
def test_files_that_were_not_signed_are_refused(release, trusted, name):
    (release / name).parent.mkdir(exist_ok=True)
    (release / name).write_bytes(b'surplus')
    with pytest.raises(ReleaseError, match=f'{name.split("/")[0]} is not in the manifest'):
        load_release(release, trusted)


def test_an_unsigned_release_is_named_so(release, trusted):
    (release / 'manifest.sig').unlink()
    with pytest.raises(ReleaseError, match='is not signed .manifest.sig is missing.'):
        load_release(release, trusted)


def test_another_key_is_not_trusted(release, tmp_path, trusted):
    other = generate_keypair(tmp_path / 'other')
    with pytest.raises(ReleaseError, match=f'not by a trusted key .{other.key_id}.'):
        load_release(release, load_trusted_keys(other.public_path))
    with pytest.raises(ReleaseError, match='no trusted keys were given'):
        load_release(release, {})
    both = trusted | load_trusted_keys(other.public_path)
    assert load_release(release, both).version == 'v000001'


@pytest.mark.parametrize(('change', 'reason'), [
    (lambda data: data['files'].update({'../up': data['files']['prefix.onnx']}), r"lists '\.\./up'"),
    (lambda data: data['files'].update({'/etc/passwd': data['files']['prefix.onnx']}), "lists '/etc/passwd'"),
    (lambda data: data['files'].update({'a/b': data['files']['prefix.onnx']}), "lists 'a/b'"),
    (lambda data: data['files'].update({'..': data['files']['prefix.onnx']}), r"lists '\.\.'"),
    (lambda data: data['files'].update({'': data['files']['prefix.onnx']}), "lists ''"),
    (lambda data: data['files'].update({'manifest.json': data['files']['prefix.onnx']}),
     "lists 'manifest.json'"),
    (lambda data: data['files'].pop('vectors.npz'), 'does not list vectors.npz'),
    (lambda data: data['files']['prefix.onnx'].update(size=1), 'has 12 bytes, the manifest says 1'),
    (lambda data: data['files']['prefix.onnx'].update(size=True), 'must give its size and sha256'),
    (lambda data: data['files']['prefix.onnx'].update(sha256='0' * 64), 'does not have the digest'),
    (lambda data: data['files']['prefix.onnx'].update(sha256='0'), 'must give its size and sha256'),
    (lambda data: data.update(files=[]), 'does not list contract.json'),
    (lambda data: data.update(format_version=2), 'has format 2, this program reads 1'),
    (lambda data: data.update(format='other'), 'is not the manifest of a release'),
    (lambda data: data.update(version='../v000001'), 'is not like v000001'),
    (lambda data: data.update(parent='v1'), 'is not like v000001'),
    (lambda data: data.update(version='v00000\u0661'), 'is not like v000001'),
    (lambda data: data.update(metrics=[]), 'metrics must be an object'),
    (lambda data: data.update(created=5), 'must be text'),
    (lambda data: data.update(key_id='0' * 16), 'names key 0000000000000000'),
    (lambda data: data.update(note=''), r"unknown: \['note'\]"),
    (lambda data: data.pop('parent'), r"missing: \['parent'\]"),
])
def test_a_signature_does_not_excuse_a_wrong_manifest(release, trusted, keys, change, reason):
    sign_again(release, keys.private_path, change)
    with pytest.raises(ReleaseError, match=reason):
        load_release(release, trusted)


@pytest.mark.parametrize(('name', 'content', 'reason'), [
    ('contract.json', b'{}', r'contract.json: contract entries missing'),
    ('contract.json', b'not json', r'contract.json: '),
    ('contract.json', b'\xff\xfe', r'contract.json: '),
    ('contract.json', json.dumps(PolicyContract().to_dict() | {'task': 'fold_laundry'}).encode(),
     "unknown task 'fold_laundry'"),
    ('norm_stats.json', b'{}', 'norm_stats.json'),
    ('norm_stats.json', b'\xff', 'norm_stats.json'),
])
def test_a_signature_does_not_excuse_a_wrong_interface(release, trusted, keys, name, content, reason):
    (release / name).write_bytes(content)
    entry = {'size': len(content), 'sha256': hashlib.sha256(content).hexdigest()}
    sign_again(release, keys.private_path, lambda data: data['files'].update({name: entry}))
    with pytest.raises(ReleaseError, match=reason):
        load_release(release, trusted)


def test_statistics_of_another_size_are_refused_at_publication(releases, tmp_path, keys):
    staging = stage(tmp_path / 'other', PolicyContract(observation='pixels', cameras=('cam_high',)))
    with pytest.raises(ReleaseError, match='state_mean has 14 entries, the contract wants 21'):
        publish(releases, staging, keys.private_path)
    assert not releases.path.exists()


def test_an_old_release_under_a_new_name_is_refused(releases, release, trusted):
    shutil.copytree(release, releases.path / 'v000002')
    with pytest.raises(ReleaseError, match='holds release v000001 under the name v000002'):
        releases.load('v000002', trusted)
    for wrong in ('../v000001', '', 'v1', 'v0000001', 'v00000\u0661', None):
        with pytest.raises(ReleaseError, match='is not a version'):
            releases.load(wrong, trusted)
    with pytest.raises(ReleaseError, match='has no release v000007: it has v000001, v000002'):
        releases.load('v000007', trusted)


def test_a_file_changed_after_loading_is_refused_when_read(release, trusted):
    loaded = load_release(release, trusted)
    (release / 'denoise.onnx').write_bytes(b'changed graph')
    with pytest.raises(ReleaseError, match='denoise.onnx does not have the digest'):
        loaded.read_bytes('denoise.onnx')
    with pytest.raises(ReleaseError, match='has no file'):
        loaded.read_bytes('../v000001/denoise.onnx')


@pytest.mark.parametrize(('change', 'reason'), [
    (lambda path: (path / 'denoise.onnx').unlink(), 'denoise.onnx is missing'),
    (lambda path: (path / 'manifest.json').write_text(''), 'plain names'),
    (lambda path: (path / '.swp').write_text(''), 'plain names'),
    (lambda path: (path / 'folder').mkdir(), 'folder is not a plain file'),
    (lambda path: (path / 'limits.json').symlink_to('/etc/hostname'), 'limits.json is a symbolic link'),
    (lambda path: (path / 'contract.json').write_text('{}'), 'differs from the contract'),
    (lambda path: (path / 'vectors.npz').write_bytes(b'PK'), 'not an .npz archive of plain arrays'),
    (lambda path: np.savez(path / 'vectors.npz', chunk=np.array([{}], object)), 'not an .npz archive'),
    (lambda path: shutil.rmtree(path), 'staging directory'),
])
def test_what_cannot_be_a_release_is_not_published(releases, staging, keys, change, reason):
    change(staging)
    with pytest.raises(ReleaseError, match=reason):
        publish(releases, staging, keys.private_path)
    assert not releases.path.exists()


def test_metrics_that_json_cannot_hold_are_not_published(releases, staging, keys):
    for metrics in ({'a': float('nan')}, {'a': object()}):
        with pytest.raises(ReleaseError, match='must be JSON values'):
            publish(releases, staging, keys.private_path, metrics)
    assert releases.versions() == []


def test_a_full_disk_publishes_and_promotes_nothing(releases, staging, keys, trusted, monkeypatch):
    for successes in (100, 120):
        publish(releases, staging, keys.private_path, evaluation(successes))
    releases.promote('v000001', trusted)
    before = sorted(path.name for path in releases.path.iterdir())

    def full(fd: int, data: memoryview) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(fpo_ros.files.os, 'write', full)
    with pytest.raises(ReleaseError, match='nothing was published: .* disk full'):
        publish(releases, staging, keys.private_path)
    with pytest.raises(ReleaseError, match='nothing was changed: .* disk full'):
        releases.promote('v000002', trusted)
    monkeypatch.undo()
    assert sorted(path.name for path in releases.path.iterdir()) == before
    assert releases.promoted() == 'v000001'


@pytest.mark.parametrize('content', ['v000001\n../etc\n', '\n', 'v000001 \n', '\xff'])
def test_a_damaged_promotion_list_is_named(releases, release, trusted, content):
    (releases.path / 'promoted').write_text(content, encoding='latin-1')
    for ask in (releases.promoted, releases.rollback, lambda: releases.promote('v000001', trusted)):
        with pytest.raises(ReleaseError, match='promoted'):
            ask()


def test_a_release_that_does_not_verify_is_not_promoted(releases, release, trusted):
    (release / 'denoise.onnx').write_bytes(b'changed graph')
    with pytest.raises(ReleaseError, match='denoise.onnx'):
        releases.promote('v000001', trusted)
    assert releases.promoted() is None


def test_a_missing_store_is_named(tmp_path, trusted):
    missing = ReleaseStore(tmp_path / 'nowhere')
    for ask in (missing.versions, missing.rollback, lambda: missing.promote('v000001', trusted)):
        with pytest.raises(ReleaseError, match='nowhere'):
            ask()
    assert not missing.path.exists()


PUBLISH_MANY = """
    import sys
    from release_data import publish
    from fpo_ros.releases import ReleaseStore
    for _ in range(6):
        print(publish(ReleaseStore(sys.argv[1]), sys.argv[2], sys.argv[3]).version)
"""


@pytest.mark.timeout(120)
def test_publishers_in_several_processes_never_share_a_version(releases, staging, keys, trusted):
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    processes = [subprocess.Popen([sys.executable, '-c', textwrap.dedent(PUBLISH_MANY), str(releases.path),
                                   str(staging), str(keys.private_path)], stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, text=True, env=os.environ | {'PYTHONPATH': path})
                 for _ in range(3)]
    printed = []
    for process in processes:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        printed += out.split()
    assert sorted(printed) == releases.versions() == [f'v{number:06d}' for number in range(1, 19)]
    for version in printed:
        assert releases.load(version, trusted).manifest.created == CREATED

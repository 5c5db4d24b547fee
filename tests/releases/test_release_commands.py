"""``fpo-ros releases``."""

from __future__ import annotations

import json

import pytest
from release_data import evaluation, publish
from typer.testing import CliRunner

from fpo_ros.releases import PromotionRefused, ReleaseError
from fpo_ros.releases.cli import app


def call(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(result.exception, ReleaseError):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def filled(releases, staging, keys):
    for successes in (100, 120, 60):
        publish(releases, staging, keys.private_path, evaluation(successes))
    return releases


def test_keygen_makes_keys_that_sign_and_verify(tmp_path, releases, staging):
    made = json.loads(call('keygen', tmp_path / 'new', '--name', 'lab', '--json'))
    assert made['private'].endswith('lab.key') and made['public'].endswith('lab.pub')
    release = publish(releases, staging, made['private'])
    shown = json.loads(call('verify', release.path, '--trusted', made['public'], '--json'))
    assert shown == {'version': 'v000001', 'key_id': made['key_id'], 'verified': True,
                     'manifest_sha256': release.manifest_sha256}
    with pytest.raises(ReleaseError, match='never overwritten'):
        call('keygen', tmp_path / 'new', '--name', 'lab')


def test_promote_and_roll_back(filled, keys):
    trusted = ('--trusted', keys.public_path)
    assert 'v000001 serves' in call('promote', filled.path, 'v000001', *trusted)
    assert json.loads(call('promote', filled.path, 'v000002', *trusted, '--json'))['promoted'] == 'v000002'
    with pytest.raises(PromotionRefused, match='30.0 points below'):
        call('promote', filled.path, 'v000003', *trusted)
    call('promote', filled.path, 'v000003', *trusted, '--max-drop', 30.1)
    assert 'v000002 serves' in call('rollback', filled.path)
    assert json.loads(call('rollback', filled.path, '--json')) == {'promoted': 'v000001'}


@pytest.mark.parametrize('option', [('--min-episodes', 201), ('--min-success', 0.51)])
def test_gate_options_reach_the_gate(filled, keys, option):
    with pytest.raises(PromotionRefused, match='the gate wants'):
        call('promote', filled.path, 'v000001', '--trusted', keys.public_path, *option)
    assert filled.promoted() is None


def test_list_marks_what_serves_and_names_what_does_not_verify(filled, keys, trusted):
    filled.promote('v000001', trusted)
    arguments = ('list', filled.path, '--trusted', keys.public_path)
    text = call(*arguments)
    assert '* v000001' in text and '120/200 succeeded' in text and '3 releases, v000001 serves' in text
    (filled.path / 'v000002' / 'denoise.onnx').write_bytes(b'changed graph')
    listed = json.loads(call(*arguments, '--json', code=1))
    assert listed['promoted'] == 'v000001'
    named = ['denoise.onnx' in (entry['problem'] or '') for entry in listed['releases']]
    assert named == [False, True, False]
    assert 'DOES NOT VERIFY' in call(*arguments, code=1)


def test_show_tells_origin_contract_and_files(filled, keys):
    shown = json.loads(call('show', filled.path, 'v000002', '--trusted', keys.public_path, '--json'))
    assert (shown['version'], shown['successes'], shown['episodes']) == ('v000002', 120, 200)
    assert shown['contract']['task'] == 'transfer_cube' and shown['files']['prefix.onnx']['size'] == 12
    text = call('show', filled.path, 'v000002', '--trusted', keys.public_path)
    assert shown['files']['prefix.onnx']['sha256'] in text


def test_verify_refuses_what_was_changed(filled, keys):
    (filled.path / 'v000001' / 'extra').write_text('')
    with pytest.raises(ReleaseError, match='extra is not in the manifest'):
        call('verify', filled.path / 'v000001', '--trusted', keys.public_path)


@pytest.mark.parametrize('command', ['keygen', 'publish', 'list', 'show', 'verify', 'promote', 'rollback'])
def test_help_teaches_by_example(command):
    assert f'fpo-ros releases {command}' in call(command, '--help')

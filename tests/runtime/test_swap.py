"""Hot swap: only verified, admitted, fitting, reproducing releases serve; the old one serves until then."""

from __future__ import annotations

import dataclasses
import shutil
import threading
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from release_shop import WAIT_S, Shop, offered, value

from fpo_ros.policy.contract import Observation, PolicyContract
from fpo_ros.policy.realtime import Leftover
from fpo_ros.runtime import graphs
from fpo_ros.runtime.providers import PolicyError
from fpo_ros.runtime.session import PolicySession
from fpo_ros.runtime.swap import CELL_ENTRIES, PolicySlot, SlotState, misfit


def test_a_good_release_serves_from_the_next_chunk_on(shop, slot, observation):
    assert slot.state is SlotState.IDLE and slot.version == ''
    with pytest.raises(PolicyError, match='no policy is loaded'):
        slot.infer(observation)
    first = shop.publish(1.0)
    offered(slot, first.path, manifest_sha256=first.manifest_sha256, version='v000001')
    assert slot.session is None, 'swapped outside a chunk edge'
    assert value(slot, observation) == -1.0
    assert (slot.version, slot.swaps, slot.state) == ('v000001', 1, SlotState.SERVING)
    offered(slot, shop.publish(2.0))
    assert slot.version == 'v000001'
    assert slot.at_chunk_edge() and not slot.at_chunk_edge()
    assert value(slot, observation) == -2.0
    assert (slot.version, slot.swaps, slot.refusals, slot.last_refusal) == ('v000002', 2, 0, '')


def _flip(path, name):
    data = bytearray((path / name).read_bytes())
    data[len(data) // 2] ^= 1
    (path / name).write_bytes(data)


@pytest.mark.parametrize('damage, message', [
    (lambda path: _flip(path, 'denoise.onnx'), 'denoise.onnx'),
    (lambda path: _flip(path, 'norm_stats.json'), 'norm_stats.json'),
    (lambda path: _flip(path, 'manifest.json'), 'manifest'),
    (lambda path: (path / 'manifest.sig').unlink(), 'manifest.sig'),
    (lambda path: (path / 'prefix.onnx').unlink(), 'prefix.onnx'),
    (lambda path: (path / 'extra').write_text('x'), 'extra'),
    (shutil.rmtree, 'v000002'),
])
def test_a_tampered_release_is_refused_and_the_old_one_serves(shop, slot, observation, damage, message):
    offered(slot, shop.publish(1.0))
    slot.at_chunk_edge()
    bad = shop.publish(2.0)
    damage(bad.path)
    offered(slot, bad.path)
    assert value(slot, observation) == -1.0
    assert message in slot.last_refusal
    assert (slot.refusals, slot.swaps) == (1, 1)


def test_an_unsigned_directory_is_refused(shop, slot, tmp_path, make_release):
    offered(slot, make_release(tmp_path / 'plain'))
    assert slot.refusals == 1 and 'plain' in slot.last_refusal


def test_a_foreign_key_is_refused(shop, slot, tmp_path, make_release):
    other = tmp_path / 'other'
    other.mkdir()
    offered(slot, Shop(other, make_release).publish(1.0))
    assert slot.refusals == 1 and 'key' in slot.last_refusal


def test_without_trusted_keys_nothing_is_accepted(shop, small_contract):
    slot = PolicySlot(small_contract, {})
    offered(slot, shop.publish(1.0))
    assert slot.last_refusal == ('no trusted release keys are configured, so no release can be verified: '
                                 'name them in parameter trusted_keys')
    assert slot.close(WAIT_S)


def test_the_announced_digest_must_be_the_manifests(shop, slot):
    offered(slot, shop.publish(1.0), manifest_sha256='0' * 64)
    assert 'announced was 000000000000' in slot.last_refusal and not slot.at_chunk_edge()


def test_the_announced_version_must_be_the_releases(shop, slot):
    first = shop.publish(1.0)
    offered(slot, first, version='v000002')
    assert slot.last_refusal == (f'{first.path} holds release v000001, announced was v000002: '
                                 'announce the directory of that version')
    assert not slot.at_chunk_edge()


def test_the_gate_can_be_left_out_deliberately(shop, small_contract, observation):
    slot = PolicySlot(small_contract, shop.trusted, admit=None)
    offered(slot, shop.publish(1.0, promote=False))
    assert value(slot, observation) == -1.0
    assert slot.close(WAIT_S)


def test_a_gate_of_the_callers_own(shop, small_contract):
    slot = PolicySlot(small_contract, shop.trusted, admit=lambda release, configured: f'{release.parent} has no parent')
    offered(slot, shop.publish(1.0))
    assert slot.last_refusal == 'release v000001 is not admitted: None has no parent'
    assert slot.close(WAIT_S)


@pytest.mark.parametrize('change, message', [
    ({'horizon': 5}, 'horizon is 5, the cell has 4'),
    ({'execute': 4}, 'execute is 4, the cell has 3'),
    ({'control_rate_hz': 25.0}, 'control_rate_hz is 25.0, the cell has 50.0'),
    ({'observation': 'pixels', 'cameras': ('cam_high',), 'image_height': 8, 'image_width': 8},
     "observation is 'pixels', the cell has 'state'"),
])
def test_a_release_that_does_not_fit_the_cell_is_refused(shop, slot, small_contract, change, message):
    offered(slot, shop.publish(1.0, contract=dataclasses.replace(small_contract, **change)))
    assert slot.last_refusal.startswith(f'release v000001 does not fit the cell: {message}. Announce a policy made ')
    assert str(shop.store.path / 'v000001') in slot.last_refusal
    assert not slot.at_chunk_edge()


@pytest.mark.parametrize('entry', CELL_ENTRIES)
def test_every_entry_of_the_cell_is_compared(small_contract, entry):
    same = {name: getattr(small_contract, name) for name in CELL_ENTRIES}
    assert misfit(small_contract, SimpleNamespace(**same)) == ''
    other = SimpleNamespace(**same | {entry: 'else'})
    assert misfit(small_contract, other).startswith(f"{entry} is 'else', the cell")


def test_prompt_and_flow_steps_are_the_policys_own(small_contract):
    other = dataclasses.replace(small_contract, prompt='other', flow_steps=3, action_width=32)
    assert misfit(small_contract, other) == ''
    entries = {field.name for field in dataclasses.fields(PolicyContract)}
    assert entries <= {*CELL_ENTRIES, 'prompt', 'prompt_tokens', 'flow_steps', 'action_width', 'units', 'relative',
                       'optional_cameras', 'max_delay'}


@pytest.mark.parametrize('options', [{'shift': 0.01}, {'time_gain': float('nan')}])
def test_test_vectors_must_reproduce(shop, slot, observation, options):
    offered(slot, shop.publish(1.0))
    offered(slot, shop.publish(2.0, **options))
    assert value(slot, observation) == -1.0
    assert 'v000002' in slot.last_refusal or 'not finite' in slot.last_refusal


def test_the_same_release_announced_again_changes_nothing(shop, slot, observation):
    release = shop.publish(1.0)
    for _ in range(3):
        offered(slot, release)
        slot.at_chunk_edge()
    assert (slot.swaps, slot.refusals) == (1, 0)


def test_rollback_returns_to_the_previous_policy_and_sticks(shop, slot, observation):
    with pytest.raises(PolicyError, match='no earlier policy'):
        slot.rollback()
    for bias in (1.0, 2.0):
        second = shop.publish(bias)
        offered(slot, second)
        slot.at_chunk_edge()
    assert slot.rollback() == 'v000001'
    assert value(slot, observation) == -1.0
    offered(slot, second)
    assert value(slot, observation) == -1.0
    assert 'v000002 was rolled back here' in slot.last_refusal
    offered(slot, shop.publish(3.0))
    assert value(slot, observation) == -3.0


def test_a_chunk_made_during_a_rollback_is_known_by_its_maker(shop, slot, observation, monkeypatch):
    for bias in (1.0, 2.0):
        offered(slot, shop.publish(bias))
        slot.at_chunk_edge()
    real = PolicySession.infer

    def interrupted(session, *arguments):
        thread = threading.Thread(target=slot.rollback)
        thread.start()
        thread.join(WAIT_S)
        return real(session, *arguments)

    monkeypatch.setattr(PolicySession, 'infer', interrupted)
    assert value(slot, observation) == -2.0
    assert (slot.answered.version, slot.version) == ('v000002', 'v000001')


def test_rollback_discards_a_release_that_waits(shop, slot, observation):
    for bias in (1.0, 2.0):
        offered(slot, shop.publish(bias))
        slot.at_chunk_edge()
    offered(slot, shop.publish(3.0))
    slot.rollback()
    assert value(slot, observation) == -1.0


def test_files_changed_between_check_and_load_are_noticed(shop, small_contract):
    def tamper(release, configured):
        _flip(release.path, 'denoise.onnx')
        return ''

    slot = PolicySlot(small_contract, shop.trusted, admit=tamper)
    offered(slot, shop.publish(1.0))
    assert 'denoise.onnx' in slot.last_refusal and not slot.at_chunk_edge()
    assert slot.close(WAIT_S)


def test_the_old_policy_answers_while_a_new_one_is_checked(shop, small_contract, observation):
    entered, leave = threading.Event(), threading.Event()

    def slow(release, configured):
        if release.version == 'v000002':
            entered.set()
            assert leave.wait(WAIT_S)
        return ''

    slot = PolicySlot(small_contract, shop.trusted, admit=slow)
    offered(slot, shop.publish(1.0))
    assert value(slot, observation) == -1.0
    slot.offer(shop.publish(2.0))
    assert entered.wait(WAIT_S)
    assert slot.state is SlotState.VERIFYING
    assert value(slot, observation) == -1.0
    assert not slot.wait(0.01)
    leave.set()
    assert slot.wait(WAIT_S)
    assert value(slot, observation) == -2.0
    assert slot.close(WAIT_S)


def test_an_unforeseen_failure_keeps_the_old_policy_and_the_worker(shop, slot, observation, monkeypatch):
    offered(slot, shop.publish(1.0))
    with monkeypatch.context() as patch:
        patch.setattr(PolicySession, 'verify_vectors', lambda self: 1 / 0)
        offered(slot, shop.publish(2.0))
    assert slot.last_refusal == 'ZeroDivisionError: division by zero'
    assert value(slot, observation) == -1.0
    offered(slot, shop.publish(3.0))
    assert value(slot, observation) == -3.0


def test_ten_swaps_in_a_row(shop, slot, observation):
    for cycle in range(1, 11):
        offered(slot, shop.publish(float(cycle)))
        assert value(slot, observation) == -cycle
    assert (slot.swaps, slot.refusals) == (10, 0)


def test_a_bad_observation_does_not_cost_the_policy(shop, slot, observation):
    offered(slot, shop.publish(1.0))
    with pytest.raises(ValueError, match='not finite'):
        slot.infer(Observation(np.full(14, np.nan), object_pose=observation.object_pose))
    assert value(slot, observation) == -1.0


def test_a_closed_slot_takes_no_offers(shop, small_contract):
    slot = PolicySlot(small_contract, shop.trusted)
    assert slot.close(WAIT_S)
    with pytest.raises(PolicyError, match='closed'):
        slot.offer(shop.store.path)


def test_a_release_with_the_same_prefix_uses_that_of_the_serving_one(shop, slot, observation, monkeypatch):
    opened, real = [], graphs.open_graph
    monkeypatch.setattr(graphs, 'open_graph', lambda file, path, *rest, **given: (
        opened.append(path.name), real(file, path, *rest, **given))[1])
    offered(slot, shop.publish(1.0, prefix_gain=0.01))
    assert value(slot, observation) < -1.0
    first = slot.session
    offered(slot, shop.publish(2.0, prefix_gain=0.01))
    assert value(slot, observation) < -2.0
    assert opened == ['prefix.onnx', 'denoise.onnx', 'denoise.onnx']
    assert slot.session._graphs['prefix.onnx'] is first._graphs['prefix.onnx']
    assert slot.rollback() == 'v000001' and value(slot, observation) < -1.0
    other = PolicyContract(horizon=4, execute=3, prompt='Ab')
    opened.clear()
    release = shop.publish(3.0, contract=other, prefix_heavy=1)
    offered(slot, release)
    assert slot.last_refusal == '' and opened == ['prefix.onnx', 'denoise.onnx'], 'another prefix is opened'


def test_a_shared_prefix_is_in_memory_once(shop, slot, observation):
    offered(slot, shop.publish(1.0, prefix_heavy=64 << 20))
    slot.at_chunk_edge()
    process, before = psutil.Process(), psutil.Process().memory_info().rss
    offered(slot, shop.publish(2.0, prefix_heavy=64 << 20))
    shared = process.memory_info().rss - before
    offered(slot, shop.publish(3.0, prefix_heavy=(64 << 20) + 4))
    assert slot.refusals == 0
    another = process.memory_info().rss - before - shared
    assert shared < 48e6 < another, (shared, another)  # a copy is 67e6


def test_an_announcement_of_what_serves_already_drops_the_one_that_waits(shop, slot, observation):
    first = shop.publish(1.0)
    offered(slot, first)
    assert value(slot, observation) == -1.0
    second = shop.publish(2.0)
    offered(slot, second)
    shop.store.promote(first.version, shop.trusted)
    offered(slot, first)
    assert not slot.at_chunk_edge() and value(slot, observation) == -1.0
    assert (slot.swaps, slot.refusals) == (1, 0)
    with pytest.raises(PolicyError, match='no earlier policy'):
        slot.rollback()  # it would have led from the first release to the first
    shop.store.promote(second.version, shop.trusted)
    offered(slot, second)
    assert value(slot, observation) == -2.0 and slot.rollback() == 'v000001'


def test_a_release_that_a_rollback_brought_back_while_it_was_checked_does_not_follow_itself(
        shop, slot, observation, monkeypatch):
    releases = [shop.publish(bias) for bias in (1.0, 2.0)]
    for release in releases:
        shop.store.promote(release.version, shop.trusted)
        offered(slot, release)
        slot.at_chunk_edge()
    real = PolicySession.verify_vectors
    monkeypatch.setattr(PolicySession, 'verify_vectors', lambda session: (slot.rollback(), real(session))[1])
    shop.store.promote(releases[0].version, shop.trusted)
    offered(slot, releases[0])
    assert slot.version == 'v000001' and not slot.at_chunk_edge()


def test_a_policy_that_cannot_go_on_from_a_leftover_says_so_and_draws_freely(shop, slot, observation):
    offered(slot, shop.publish(1.0))
    leftover = Leftover(np.zeros((2, 14), np.float32), 1)
    np.testing.assert_allclose(slot.infer(observation, leftover=leftover), -1.0, atol=1e-6)
    assert 'v000001 has neither guided.onnx nor continued.onnx' in slot.apart
    slot.infer(observation)
    assert slot.apart == '', 'nothing was to be gone on from'

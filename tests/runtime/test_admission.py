"""What a cell admits: what its own store promoted last, wherever an announcement points."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import pytest
from release_shop import WAIT_S, offered, value

from fpo_ros.runtime.admission import PromotedOnly
from fpo_ros.runtime.swap import PolicySlot


@pytest.mark.parametrize('configured', [False, True])
def test_a_release_that_was_not_promoted_is_refused_with_the_command_that_promotes_it(shop, slot, configured):
    offered(slot, shop.publish(1.0, promote=False), configured=configured)
    command = f'fpo-ros releases promote {shop.store.path} v000001 --trusted {shop.keys.public_path}'
    assert slot.last_refusal == (f'release v000001 is not admitted: it was not promoted in {shop.store.path} '
                                 f'(promoted: none): run "{command}"')
    assert not slot.at_chunk_edge()


@pytest.mark.parametrize('configured', [False, True])
def test_a_copy_beside_a_list_of_its_own_is_refused(shop, slot, tmp_path, configured):
    """Whoever cannot write to the store of the cell cannot choose what serves, though the copy is signed."""
    copy = shutil.copytree(shop.publish(1.0, promote=False).path, tmp_path / 'forged' / 'v000001')
    (tmp_path / 'forged' / 'promoted').write_text('v000001\n')
    offered(slot, copy, configured=configured)
    assert f'{copy} does not lie in the release store of this cell, {shop.store.path}' in slot.last_refusal
    assert (slot.refusals, slot.at_chunk_edge()) == (1, False)


def test_a_link_out_of_or_into_the_store_is_what_it_leads_to(shop, slot, tmp_path, observation):
    copy = shutil.copytree(shop.publish(1.0).path, tmp_path / 'forged' / 'v000002')
    (shop.store.path / 'v000002').symlink_to(copy)
    (shop.store.path / 'promoted').write_text('v000001\nv000002\n')
    offered(slot, shop.store.path / 'v000002')
    assert 'does not lie in the release store' in slot.last_refusal
    (shop.store.path / 'promoted').write_text('v000001\n')
    (tmp_path / 'shelf').symlink_to(shop.store.path)
    offered(slot, tmp_path / 'shelf' / 'v000001')
    assert value(slot, observation) == -1.0


def test_a_release_under_another_name_in_the_store_is_refused(shop, slot):
    shop.publish(1.0)
    shop.publish(2.0)
    (shop.store.path / 'v000001').rename(shop.store.path / 'v000007')
    (shop.store.path / 'promoted').write_text('v000001\nv000002\nv000001\n')
    offered(slot, shop.store.path / 'v000007')
    assert 'v000007 holds release v000001 under another name' in slot.last_refusal


def test_an_older_promoted_release_is_not_let_in_by_an_announcement(shop, slot, observation):
    first, second = shop.publish(1.0), shop.publish(2.0)
    offered(slot, second)
    assert value(slot, observation) == -2.0
    offered(slot, first, manifest_sha256=first.manifest_sha256, version='v000001')
    assert value(slot, observation) == -2.0
    assert f'{shop.store.path} lets v000002 serve, promoted later: announce that one' in slot.last_refusal
    assert f'"fpo-ros releases rollback {shop.store.path}"' in slot.last_refusal
    shop.store.rollback()
    offered(slot, first)
    assert value(slot, observation) == -1.0, 'what the store went back to may be announced'


def test_the_configured_release_may_be_an_older_promoted_one(shop, slot, observation):
    first, _ = shop.publish(1.0), shop.publish(2.0)
    offered(slot, first, configured=True)
    assert value(slot, observation) == -1.0


def test_without_a_store_only_the_configured_release_serves(shop, small_contract, observation):
    slot = PolicySlot(small_contract, shop.trusted)
    offered(slot, shop.publish(1.0, promote=False), configured=True)
    assert 'was not promoted' in slot.last_refusal
    second = shop.publish(2.0)
    offered(slot, second, configured=True)
    assert value(slot, observation) == -2.0
    offered(slot, shop.publish(3.0))
    assert 'none is named: name its directory in parameter releases' in slot.last_refusal
    assert value(slot, observation) == -2.0
    assert slot.close(WAIT_S)


def test_the_place_of_the_store_is_taken_when_the_cell_is_configured(shop, small_contract, tmp_path):
    (tmp_path / 'current').symlink_to(shop.store.path)
    slot = PolicySlot(small_contract, shop.trusted, admit=PromotedOnly(tmp_path / 'current'))
    release = shop.publish(1.0)
    copy = shutil.copytree(release.path, tmp_path / 'forged' / 'v000001')
    (tmp_path / 'forged' / 'promoted').write_text('v000001\n')
    (tmp_path / 'current').unlink()
    (tmp_path / 'current').symlink_to(tmp_path / 'forged')
    offered(slot, tmp_path / 'current' / 'v000001')
    assert f'{copy} does not lie in the release store of this cell, {shop.store.path}' in slot.last_refusal
    offered(slot, release)
    assert slot.at_chunk_edge()
    assert slot.close(WAIT_S)


def test_the_place_admitted_is_the_place_read(shop, small_contract, tmp_path, observation):
    (tmp_path / 'link').symlink_to(shop.publish(1.0).path)

    def exchange(release, configured):
        (tmp_path / 'link').unlink()
        return ''

    slot = PolicySlot(small_contract, shop.trusted, admit=exchange)
    offered(slot, tmp_path / 'link')
    assert value(slot, observation) == -1.0
    assert slot.close(WAIT_S)


def test_commands_in_messages_are_quoted(tmp_path):
    refused = PromotedOnly(tmp_path / 'my store', 'my keys')(
        SimpleNamespace(path=tmp_path / 'my store' / 'v000001', version='v000001'), True)
    assert refused.endswith(f"run \"fpo-ros releases promote '{tmp_path}/my store' v000001 --trusted 'my keys'\"")

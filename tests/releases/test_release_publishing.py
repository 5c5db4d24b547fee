"""Publishing, opening, promoting and going back."""

from __future__ import annotations

import hashlib
import json
import shutil

import pytest
from release_data import CREATED, evaluation, publish, stage

from fpo_ros.policy.contract import PolicyContract
from fpo_ros.releases import (
    PromotionGate,
    PromotionRefused,
    ReleaseError,
    load_release,
    wilson_interval,
)


def test_a_published_release_opens_with_everything_in_it(releases, staging, keys, trusted):
    contract = PolicyContract(horizon=30, execute=10)
    stage(staging, contract)
    (staging / 'limits.json').write_text('{}')
    made = publish(releases, staging, keys.private_path, contract=contract, parent='v000009')
    opened = load_release(releases.path / 'v000001', trusted)
    assert opened == made
    assert (opened.version, opened.parent, opened.contract) == ('v000001', 'v000009', contract)
    assert opened.metrics == evaluation(100) and opened.manifest.created == CREATED
    assert opened.path == releases.path / 'v000001'
    assert opened.manifest_sha256 == hashlib.sha256((opened.path / 'manifest.json').read_bytes()).hexdigest()
    assert opened.read_bytes('denoise.onnx') == b'denoise graph'
    assert json.loads(opened.read_bytes('limits.json')) == {}


def test_versions_count_up_and_leave_nothing_behind(releases, staging, keys):
    assert [publish(releases, staging, keys.private_path).version for _ in range(3)] == releases.versions()
    assert releases.versions() == ['v000001', 'v000002', 'v000003']
    assert sorted(entry.name for entry in releases.path.iterdir()) == ['.lock', *releases.versions()]


def test_each_number_has_one_name(releases, staging, keys):
    publish(releases, staging, keys.private_path)
    for name in ('v0000007', 'v00000\u0667'):
        (releases.path / name).mkdir()
    assert releases.versions() == ['v000001']
    assert publish(releases, staging, keys.private_path).version == 'v000002'


def test_a_killed_publisher_leaves_no_release_and_the_next_one_cleans_up(releases, staging, keys, trusted):
    publish(releases, staging, keys.private_path)
    torn = releases.path / '.incoming-0123'
    torn.mkdir()
    (torn / 'prefix.onnx').write_bytes(b'half')
    assert releases.versions() == ['v000001']
    assert publish(releases, staging, keys.private_path).version == 'v000002'
    assert not torn.exists()


def test_a_version_once_promoted_is_never_given_again(releases, staging, keys, trusted):
    for _ in range(2):
        publish(releases, staging, keys.private_path)
        releases.promote(releases.versions()[-1], trusted)
    shutil.rmtree(releases.path / 'v000002')
    assert publish(releases, staging, keys.private_path).version == 'v000003'


def test_promotion_is_remembered_in_order_and_rolled_back(releases, staging, keys, trusted):
    for successes in (100, 120, 140):
        publish(releases, staging, keys.private_path, evaluation(successes))
    assert releases.promoted() is None
    for version in releases.versions():
        releases.promote(version, trusted)
        assert releases.promoted() == version
    assert (releases.path / 'promoted').read_text() == 'v000001\nv000002\nv000003\n'
    assert releases.rollback() == 'v000002' == releases.promoted()
    assert releases.rollback() == 'v000001' == releases.promoted()
    with pytest.raises(ReleaseError, match='no earlier promoted release'):
        releases.rollback()
    assert releases.promoted() == 'v000001'


def test_promoting_what_serves_changes_nothing(releases, staging, keys, trusted):
    publish(releases, staging, keys.private_path)
    releases.promote('v000001', trusted)
    releases.promote('v000001', trusted)
    assert releases.history() == ['v000001']


@pytest.mark.parametrize(('metrics', 'reason'), [
    ({}, 'carries no evaluation'),
    ({'evaluation': {'successes': 1, 'episodes': 2}}, 'carries no evaluation'),
    (evaluation(9, 10), 'evaluated on 10 episodes, the gate wants 20'),
    ({'evaluation': evaluation(50)['evaluation'] | {'successes': 201}}, 'impossible evaluation'),
    ({'evaluation': evaluation(50)['evaluation'] | {'successes': 150}}, 'states the interval'),
    (evaluation(89), '44.5% of 200 episodes, 5.5 points below the promoted v000001'),
])
def test_the_gate_gives_its_reason_and_keeps_the_old_release(releases, staging, keys, trusted, metrics,
                                                             reason):
    publish(releases, staging, keys.private_path, evaluation(100))
    releases.promote('v000001', trusted)
    publish(releases, staging, keys.private_path, metrics)
    with pytest.raises(PromotionRefused, match=reason):
        releases.promote('v000002', trusted)
    assert releases.promoted() == 'v000001'


def test_the_gate_lets_a_drop_within_the_margin_pass(releases, staging, keys, trusted):
    for successes in (100, 90, 81):
        publish(releases, staging, keys.private_path, evaluation(successes))
    releases.promote('v000001', trusted)
    releases.promote('v000002', trusted)  # 5.0 points lower
    with pytest.raises(PromotionRefused):
        releases.promote('v000003', trusted, PromotionGate(max_drop=4.0))
    with pytest.raises(PromotionRefused, match='wants 50.0%'):
        releases.promote('v000003', trusted, PromotionGate(min_success=0.5))
    assert releases.promote('v000003', trusted).version == 'v000003'


def test_a_release_for_another_task_is_not_compared(releases, staging, keys, trusted):
    publish(releases, staging, keys.private_path)
    releases.promote('v000001', trusted)
    other = PolicyContract(task='insertion')
    publish(releases, stage(staging, other), keys.private_path, contract=other)
    with pytest.raises(PromotionRefused, match='one store for each task'):
        releases.promote('v000002', trusted)


@pytest.mark.parametrize(('successes', 'n', 'low', 'high'), [
    # by hand: half width = 1.959964 / 1.0192073 * sqrt(0.25 / 200 + 3.841459 / 160000) = 0.068639
    (100, 200, 0.431361, 0.568639),
    (0, 10, 0.0, 0.277533),  # upper end z² / (n + z²)
    (10, 10, 0.722467, 1.0),
    (1, 1, 0.206549, 1.0),
])
def test_wilson_interval(successes, n, low, high):
    assert wilson_interval(successes, n) == pytest.approx((low, high), abs=1e-5)


@pytest.mark.parametrize(('successes', 'n'), [(0, 0), (-1, 5), (6, 5)])
def test_wilson_interval_refuses_impossible_counts(successes, n):
    with pytest.raises(ValueError, match='no interval'):
        wilson_interval(successes, n)

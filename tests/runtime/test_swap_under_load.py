"""Hot swap under load: a thousand changes, offers from many sides, and memory that runs out."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter

import numpy as np
import onnx
import psutil
import pytest
from onnx import numpy_helper
from release_shop import WAIT_S, offered, value

from fpo_ros.runtime import graphs, session
from fpo_ros.runtime.providers import PolicyError
from fpo_ros.runtime.session import PolicySession
from fpo_ros.runtime.swap import PolicySlot

NOISE = np.random.default_rng(0).standard_normal((4, 14))


class Inference(threading.Thread):
    """Samples chunks without a pause, and notes each that is not exactly that of the version that answered."""

    def __init__(self, slot, observation, expected):
        super().__init__(daemon=True)
        self.slot, self.observation, self.expected = slot, observation, expected
        self.ended = threading.Event()
        self.answers, self.wrong, self.failures = Counter(), [], []

    def run(self):
        while not self.ended.is_set():
            try:
                chunk = self.slot.infer(self.observation, NOISE)
            except Exception as error:  # noqa: BLE001 (no change of policies may cost a chunk, whatever it raises)
                self.failures.append(error)
                return
            version = self.slot.answered.version
            self.answers[version] += 1
            if not np.array_equal(chunk, self.expected[version]):
                self.wrong.append(version)
            time.sleep(0.0005)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.join(WAIT_S)
        assert not self.is_alive(), 'the inference did not end'


@pytest.fixture
def open_slot(shop, small_contract):
    """A slot that serves every verified release."""
    slot = PolicySlot(small_contract, shop.trusted, admit=None)
    yield slot
    assert slot.close(WAIT_S), 'the worker thread did not end'


def chunks_of(releases, observation) -> dict[str, np.ndarray]:
    """Return what each version makes of NOISE."""
    return {release.version: PolicySession.load(release).infer(observation, NOISE) for release in releases}


def broken(shop):
    """Return releases that must not serve: other bytes than were signed, other chunks than its graphs make, NaN."""
    tampered, other, nan = (shop.publish(900.0 + index, promote=False, **options) for index, options in enumerate(
        ({}, {'shift': 0.01}, {'time_gain': float('nan')})))
    with open(tampered.path / 'denoise.onnx', 'ab') as file:
        file.write(b'x')
    return [tampered, other, nan]


@pytest.mark.serial
@pytest.mark.timeout(180)
def test_a_thousand_random_changes_under_load(shop, open_slot, observation):
    rng, slot, bad = random.Random(0), open_slot, broken(shop)
    good = [shop.publish(float(index), promote=False, gain=0.5) for index in range(150)]
    expected = chunks_of(good, observation)
    assert len({chunk.tobytes() for chunk in expected.values()}) == len(good), 'versions are told apart'
    process, sizes, files = psutil.Process(), [], []
    offered(slot, good[0])
    slot.at_chunk_edge()
    did = Counter()
    with Inference(slot, observation, expected) as inference:
        for index in range(1000):
            draw = rng.random()
            if draw < 0.08:
                before = slot.swaps
                try:
                    slot.rollback()
                    did['rolled back'] += 1
                    assert slot.swaps > before
                except PolicyError:
                    did['nothing to roll back to'] += 1
            elif draw < 0.2:
                slot.offer(rng.choice(bad))
                did['bad'] += 1
            elif draw < 0.25:
                slot.offer(rng.choice(good), manifest_sha256='0' * 64)
                did['bad'] += 1
            else:
                slot.offer(rng.choice(good))
                did['good'] += 1
            if rng.random() < 0.7:  # else the next change comes while this one is checked
                assert slot.wait(WAIT_S), 'the check did not end'
            if index >= 300 and index % 50 == 0:
                sizes.append(process.memory_info().rss)
                files.append(process.num_fds())
        assert slot.wait(WAIT_S), 'the checks did not end'
        last = shop.publish(-1.0, promote=False)
        expected[last.version] = PolicySession.load(last).infer(observation, NOISE)
        offered(slot, last)
        until = time.monotonic() + WAIT_S
        while not inference.answers[last.version] and not inference.failures and time.monotonic() < until:
            time.sleep(0.01)
    assert not inference.failures and not inference.wrong
    assert inference.answers[last.version], 'the release offered last does not answer'
    assert did['rolled back'] > 30 and did['bad'] > 100 and did['good'] > 600, did
    assert slot.swaps > 300 and slot.refusals >= did['bad'] and len(inference.answers) > 80
    # Between 300 and 1,000 changes a session kept from each would be 100 MB and 1,400 open files or maps.
    assert max(sizes[-3:]) - max(sizes[:3]) < 25e6, [size >> 20 for size in sizes]
    assert max(files) - min(files) <= 6, files


def test_offers_from_many_threads_are_all_checked(shop, open_slot, observation):
    good = [shop.publish(float(index), promote=False) for index in range(6)]
    expected, bad = chunks_of(good, observation), broken(shop)
    offered(open_slot, good[0])
    open_slot.at_chunk_edge()
    gate = threading.Barrier(8)

    def offer(number):
        rng = random.Random(number)
        gate.wait(WAIT_S)
        for _ in range(10):
            open_slot.offer(rng.choice(good))
            open_slot.offer(rng.choice(bad))

    threads = [threading.Thread(target=offer, args=(number,)) for number in range(8)]
    with Inference(open_slot, observation, expected) as inference:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT_S)
        assert open_slot.wait(WAIT_S), 'the checks did not end'
    assert not inference.failures and not inference.wrong
    assert open_slot.refusals == 80, 'each bad one is refused, and no good one'


@pytest.mark.parametrize(('module', 'place'), [(graphs, 'open_graph'), (session, 'read_vectors')])
@pytest.mark.parametrize('error', [MemoryError(), RuntimeError('Failed to allocate memory'), PolicyError('unfit')])
def test_whatever_fails_while_a_release_is_loaded_the_old_one_serves(shop, open_slot, observation, monkeypatch, module,
                                                                     place, error):
    offered(open_slot, shop.publish(1.0, promote=False))
    assert value(open_slot, observation) == -1.0
    second = shop.publish(2.0, promote=False)

    def fail(*_, **__):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(module, place, fail)
        offered(open_slot, second)
    assert value(open_slot, observation) == -1.0 and open_slot.refusals == 1
    assert str(error) in open_slot.last_refusal and open_slot.last_refusal
    offered(open_slot, second)
    assert value(open_slot, observation) == -2.0, 'what failed for want of memory may be offered again'


def test_a_policy_for_which_memory_does_not_suffice_leaves_the_old_one_serving(shop, observation):
    """Of a process whose address space is bounded; the bound rises until the large policy fits."""
    small, large = shop.publish(1.0, promote=False), _large(shop)
    code = f"""
import resource, numpy as np, psutil
from fpo_ros.policy.contract import Observation, PolicyContract
from fpo_ros.releases import load_trusted_keys
from fpo_ros.runtime.swap import PolicySlot
slot = PolicySlot(PolicyContract(horizon=4, execute=3), load_trusted_keys({str(shop.keys.public_path)!r}), admit=None)
seen = Observation(np.arange(14) * 0.1, object_pose=np.array([0, 0, 0, 1, 0, 0, 0.0]))
def chunk(release):
    slot.offer(release)
    assert slot.wait({WAIT_S})
    return round(float(slot.infer(seen)[0, 0]), 4)
assert chunk({str(small.path)!r}) == -1.0
for headroom in range(0, 1000, 16):
    bound = psutil.Process().memory_info().vms + (headroom << 20)
    resource.setrlimit(resource.RLIMIT_AS, (bound, resource.RLIM_INFINITY))
    found = chunk({str(large.path)!r})
    if found == -2.0:
        break
    assert found == -1.0 and slot.last_refusal, found
    print(headroom, slot.last_refusal.replace(chr(10), ' '))
print(slot.version, slot.refusals)
"""
    done = subprocess.run([sys.executable, '-c', code], check=False, capture_output=True, text=True, timeout=WAIT_S,
                          env=os.environ | {'PYTHONPATH': ':'.join(filter(None, sys.path))})
    assert done.returncode == 0, done.stderr
    *refusals, end = done.stdout.splitlines()
    assert end == f'{large.version} {len(refusals)}' and len(refusals) >= 4, done.stdout


def _large(shop):
    """Publish a policy of -2 everywhere whose flow has 64 MB of weights."""
    make = shop._make

    def with_weights(folder, contract, **options):
        staging = make(folder, contract, **options)
        model = onnx.load(staging / 'denoise.onnx')
        model.graph.initializer.append(numpy_helper.from_array(np.zeros(16 << 20, np.float32), 'weights'))
        model.graph.node.insert(0, onnx.helper.make_node('ReduceSum', ['weights'], ['zero'], keepdims=0))
        last = model.graph.node[-1]
        last.output[0] = 'before'
        model.graph.node.append(onnx.helper.make_node('Add', ['before', 'zero'], ['velocity']))
        onnx.save(model, staging / 'denoise.onnx')
        return staging

    shop._make = with_weights
    release = shop.publish(2.0, promote=False)
    shop._make = make
    return release

"""Chunks written as bytes are the messages that ROS reads."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from rclpy.serialization import deserialize_message, serialize_message  # noqa: E402

from fpo_ros.msg import ActionChunk  # noqa: E402
from fpo_ros.nodes import convert  # noqa: E402
from fpo_ros.nodes.raw_chunks import write_chunk  # noqa: E402

pytestmark = pytest.mark.ros
INSTANTS = st.integers(0, 2**31 * 10**9 - 1)
FLOATS = st.floats(allow_nan=False)


@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.sampled_from([14, 32]), st.integers(0, 2**64 - 1), INSTANTS,
       INSTANTS, INSTANTS, st.text(st.characters(exclude_characters='\x00', codec='utf-8'), max_size=20), FLOATS,
       FLOATS, st.sampled_from([ActionChunk.JOIN_AFTER, ActionChunk.JOIN_REALTIME, ActionChunk.JOIN_ENSEMBLE]))
def test_a_written_chunk_reads_as_the_message_of_the_same_values(seed, horizon, width, sequence, observation_ns,
                                                                 measured_ns, now_ns, version, period_s, inference_s,
                                                                 joining):
    chunk = np.random.default_rng(seed).standard_normal((horizon, width)).astype(np.float32)
    values = dict(sequence=sequence, observation_ns=observation_ns, measured_ns=measured_ns, now_ns=now_ns,
                  version=version, period_s=period_s, inference_s=inference_s, joining=joining)
    written, message = write_chunk(chunk, **values), convert.chunk_message(chunk, **values)
    assert deserialize_message(written, ActionChunk) == message
    assert len(written) == len(serialize_message(message))


def test_a_chunk_of_other_numbers_is_written_in_single_precision():
    chunk = np.arange(28, dtype=np.float64).reshape(14, 2).T  # neither contiguous nor float32
    written = write_chunk(chunk, sequence=1, observation_ns=0, measured_ns=0, now_ns=0, version='v1', period_s=0.02,
                          inference_s=0.0)
    np.testing.assert_array_equal(convert.chunk_array(deserialize_message(written, ActionChunk)), chunk)

"""Which scenes are for what."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fpo_ros.sim.scenes import (
    BAND,
    GRAPH_SEED,
    HELD_OUT_SEED,
    SEEDS,
    Scenes,
    SeedError,
    is_held_out,
    scene_seeds,
)
from fpo_ros.sim.task import sample_object_pose

#: Scenes of a kind that one seed has.
SIZES = {kind: kind.value[1] - kind.value[0] for kind in Scenes}
HELD_OUT = {Scenes.EVALUATION, Scenes.GRAPH}


@st.composite
def draws(draw):
    """Return kind, seed, first and count of a draw that is allowed."""
    kind = draw(st.sampled_from(list(Scenes)))
    first = draw(st.integers(0, 10**9 if kind is Scenes.TRAINING else SIZES[kind] - 1))
    room = SIZES[kind] - (0 if kind is Scenes.TRAINING else first)
    return kind, draw(st.integers(0, SEEDS - 1)), first, draw(st.integers(1, min(room, 2000)))


@given(draws(), draws())
def test_scenes_of_two_kinds_or_two_seeds_never_meet(one, other):
    drawn = []
    for kind, seed, first, count in (one, other):
        scenes = scene_seeds(kind, seed, count, first)
        assert len(set(scenes)) == len(scenes) == count
        assert scenes.min() >= 0 and scenes.max() < 2**31, 'the node of the simulated cell takes 31 bits'
        assert all(is_held_out(int(scene)) == (kind in HELD_OUT) for scene in scenes)
        drawn.append(set(scenes))
    if one[:2] != other[:2]:
        assert not drawn[0] & drawn[1]


@given(draws())
def test_a_scene_is_held_out_whatever_number_beyond_32_bits_names_it(draw):
    kind, seed, first, _ = draw
    scene = int(scene_seeds(kind, seed, 1, first)[0])
    same = [sample_object_pose('transfer_cube', number) for number in (scene, scene + 2**32)]
    assert np.array_equal(*same) and is_held_out(scene + 2**32) == is_held_out(scene)


@pytest.mark.parametrize(('kind', 'expected'), [
    (Scenes.TRAINING, 0), (Scenes.DEMONSTRATIONS, 900_000), (Scenes.EVALUATION, HELD_OUT_SEED),
    (Scenes.GRAPH, GRAPH_SEED)])
def test_the_scenes_of_seed_zero_are_those_that_were_measured(kind, expected):
    assert scene_seeds(kind, 0, 5).tolist() == list(range(expected, expected + 5))
    assert (HELD_OUT_SEED, GRAPH_SEED) == (1_000_000, 1_900_000)
    assert scene_seeds(kind, 3, 2, first=7).tolist() == [3 * BAND + expected + 7, 3 * BAND + expected + 8]


def test_training_goes_round_its_scenes():
    scenes = scene_seeds(Scenes.TRAINING, 0, 4, first=SIZES[Scenes.TRAINING] - 2)
    assert scenes.tolist() == [899_998, 899_999, 0, 1]
    assert np.array_equal(scene_seeds(Scenes.TRAINING, 0, 2, first=SIZES[Scenes.TRAINING]), [0, 1])


@pytest.mark.parametrize('kind', list(Scenes))
@pytest.mark.parametrize(('seed', 'count', 'first'), [
    (-1, 1, 0), (SEEDS, 1, 0), (0, 0, 0), (0, 10**7, 0), (0, 1, -1)])
def test_what_is_out_of_bounds_is_refused_with_the_bounds(kind, seed, count, first):
    with pytest.raises(SeedError, match='out of bounds'):
        scene_seeds(kind, seed, count, first)


@pytest.mark.parametrize('kind', [Scenes.DEMONSTRATIONS, Scenes.EVALUATION, Scenes.GRAPH])
def test_scenes_that_must_not_repeat_end_with_their_interval(kind):
    assert len(scene_seeds(kind, 0, 10, first=SIZES[kind] - 10)) == 10
    with pytest.raises(SeedError, match='out of bounds'):
        scene_seeds(kind, 0, 10, first=SIZES[kind] - 9)

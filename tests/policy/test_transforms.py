"""Observations to inputs, statistics, contract, tokenizer."""

from __future__ import annotations

import json
from fractions import Fraction

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fpo_ros.policy.contract import ContractError, Observation, PolicyContract, check_chunk
from fpo_ros.policy.normalisation import MIN_STD, NormStats
from fpo_ros.policy.tokenizer import VOCABULARY_SIZE, checked_tokens, tokenize
from fpo_ros.policy.transforms import fitted_size, image_tensor, model_inputs, resize_with_pad, state_vector

PIXELS = PolicyContract(
    observation='pixels', cameras=('cam_high', 'cam_low'), image_height=16, image_width=24
)


def neutral(contract: PolicyContract) -> NormStats:
    return NormStats(np.zeros(contract.state_dim), np.ones(contract.state_dim), np.zeros(14), np.ones(14))


def test_resizing_keeps_the_aspect_ratio_and_pads_black():
    # 40 x 20 into 20 x 30: scale 0.5, a 20 x 10 picture in the middle of 30 columns.
    image = np.full((40, 20, 3), 200, np.uint8)
    out = resize_with_pad(image, 20, 30)
    assert out.shape == (20, 30, 3) and out.dtype == np.uint8
    assert (out[:, 10:20] == 200).all()
    assert (out[:, :10] == 0).all() and (out[:, 20:] == 0).all()


def test_resizing_up_keeps_the_aspect_ratio_too():
    out = resize_with_pad(np.full((4, 8, 3), 77, np.uint8), 16, 16)
    assert (out[4:12] == 77).all() and (out[:4] == 0).all() and (out[12:] == 0).all()


@given(
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
)
def test_a_white_picture_touches_two_opposite_edges_and_covers_its_share(height, width, size):
    out = resize_with_pad(np.full((height, width, 3), 255, np.uint8), *size)
    assert out.shape == (*size, 3)
    rows, columns = out[..., 0].any(1).sum(), out[..., 0].any(0).sum()
    assert rows == size[0] or columns == size[1]
    scale = min(Fraction(size[0], height), Fraction(size[1], width))
    assert (rows, columns) == (max(1, int(height * scale)), max(1, int(width * scale))), 'cut to whole pixels'


@pytest.mark.parametrize(('rows', 'columns', 'size'), [
    (480, 640, (168, 224)), (480, 640, (72, 96)), (486, 646, (162, 215))])
def test_a_smaller_picture_is_a_mean_over_areas(rows, columns, size):
    """Within a few colours of the exact mean, though halves are taken first."""
    row, column = np.mgrid[:rows, :columns]
    smooth = np.stack([row * 255 / rows, column * 255 / columns, 127 * (1 + np.sin(row / 20) * np.cos(column / 30))], 2)
    noisy = (smooth * 0.8 + np.random.default_rng(0).uniform(0, 51, smooth.shape)).astype(np.uint8)
    exact = cv2.resize(noisy.astype(np.float64), size[::-1], interpolation=cv2.INTER_AREA)
    off = np.abs(resize_with_pad(noisy, *size) - exact)
    assert off.mean() < 6 and abs((resize_with_pad(noisy, *size) - exact).mean()) < 1
    assert np.abs(cv2.resize(noisy, size[::-1]) - exact).mean() > 1.5 * off.mean(), 'pixels that are skipped are noise'


@given(shape=st.tuples(st.integers(1, 60), st.integers(1, 60)), size=st.tuples(st.integers(1, 40), st.integers(1, 40)))
def test_a_picture_of_the_fitted_size_is_padded_only(shape, size):
    fitted = fitted_size(shape, *size)
    rng = np.random.default_rng(0)
    image = rng.integers(1, 256, (*fitted, 3), np.uint8)
    out = resize_with_pad(image, *size)
    assert np.array_equal(out[out.any(2)].reshape(image.shape), image)


@pytest.mark.parametrize(('shape', 'size', 'wanted'), [
    # Of a RealSense: 480 * 224 / 848 = 126.8 rows, of which openpi keeps 126.
    ((480, 848), (224, 224), (126, 224)), ((848, 480), (224, 224), (224, 126)), ((720, 1280), (224, 224), (126, 224)),
    ((480, 640), (224, 224), (168, 224)), ((480, 640), (192, 256), (192, 256)), ((480, 640), (96, 96), (72, 96)),
    ((480, 640), (64, 64), (48, 64)), ((1, 1000), (8, 8), (1, 8))])
def test_the_size_of_a_picture_is_that_of_openpi(shape, size, wanted):
    assert fitted_size(shape, *size) == wanted


@pytest.mark.parametrize('image', [np.zeros((4, 4, 3)), *(np.zeros(shape, np.uint8) for shape in (
    (0, 4, 3), (4, 4), (4, 4, 4)))])
def test_pictures_of_other_types_are_refused(image):
    with pytest.raises(ContractError, match='uint8'):
        resize_with_pad(image, 8, 8)


def test_pixels_map_to_minus_one_to_one_with_channels_first():
    image = np.zeros((1, 2, 3), np.uint8)
    image[0, 0, 0], image[0, 1, 2] = 255, 51
    out = image_tensor(image)
    assert out.shape == (3, 1, 2) and out.dtype == np.float32
    np.testing.assert_allclose(out[:, 0, 0], [1, -1, -1], atol=1e-6)
    np.testing.assert_allclose(out[:, 0, 1], [-1, -1, -0.6], atol=1e-6)


@pytest.mark.parametrize('observation', ['state', 'pixels'])
def test_a_live_observation_and_a_recorded_one_give_the_same_bits(make_policy, observation):
    policy = make_policy(observation)
    contract, rng = policy.contract, np.random.default_rng(3)
    joints, pose = rng.normal(size=14), rng.normal(size=7)
    frames = {name: rng.integers(0, 256, (48, 64, 3), np.uint8) for name in contract.cameras}
    small = {name: resize_with_pad(frame, 16, 24) for name, frame in frames.items()}
    live = model_inputs(Observation(joints, small, pose), contract, policy.stats)
    recorded = policy.states(joints.astype(np.float32)[None], pose.astype(np.float32)[None])
    assert np.array_equal(live['state'], recorded.numpy())
    if contract.cameras:
        stored = np.stack([resize_with_pad(frames[name], 16, 24) for name in contract.cameras])
        assert np.array_equal(live['images'], image_tensor(stored)[None])


def test_cameras_enter_in_the_order_of_the_contract():
    frames = {'cam_low': np.full((16, 24, 3), 255, np.uint8), 'cam_high': np.zeros((16, 24, 3), np.uint8)}
    images = model_inputs(Observation(np.zeros(14), frames), PIXELS, neutral(PIXELS))['images']
    assert images.shape == (1, 2, 3, 16, 24) and (images[0, 0] == -1).all() and (images[0, 1] == 1).all()


FRAMES = {name: np.zeros((16, 24, 3), np.uint8) for name in PIXELS.cameras}


@pytest.mark.parametrize(('images', 'words'), [
    (FRAMES | {'cam_hihg': FRAMES['cam_high']}, 'unknown camera cam_hihg: the policy sees cam_high, cam_low'),
    (FRAMES | {'cam_low': np.zeros((48, 64, 3), np.uint8)}, r'picture of cam_low is \(48, 64, 3\) uint8, the contract'),
    (FRAMES | {'cam_low': np.zeros((16, 24, 3), np.float32)}, r'picture of cam_low is \(16, 24, 3\) float32'),
    (FRAMES | {'cam_low': np.zeros((3, 16, 24), np.uint8)}, r'picture of cam_low is \(3, 16, 24\) uint8'),
    (FRAMES | {'cam_low': np.zeros((16, 24), np.uint8)}, r'wants \(16, 24, 3\) uint8: fit it with resize_with_pad')])
def test_pictures_of_other_names_sizes_and_types_are_refused(images, words):
    with pytest.raises(ContractError, match=words):
        model_inputs(Observation(np.zeros(14), images), PIXELS, neutral(PIXELS))


def test_cameras_of_the_cell_that_the_policy_does_not_see_change_nothing():
    more = FRAMES | {'cam_left_wrist': np.full((4, 4, 3), 9, np.uint8)}
    seen, wanted = (model_inputs(Observation(np.zeros(14), images), PIXELS, neutral(PIXELS))
                    for images in (more, FRAMES))
    assert all(np.array_equal(seen[name], value) for name, value in wanted.items())


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize('part', ['joints', 'object pose'])
def test_values_that_are_not_finite_are_refused(part, value):
    joints, pose = np.zeros(14), np.zeros(7)
    (joints if part == 'joints' else pose)[3] = value
    with pytest.raises(ContractError, match=f'{part} are not finite'):
        state_vector(joints, pose, PolicyContract())


def test_missing_or_misshapen_parts_are_named():
    with pytest.raises(ContractError, match='start a tracker'):
        state_vector(np.zeros(14), None, PolicyContract())
    with pytest.raises(ContractError, match='joints must have 14'):
        state_vector(np.zeros(13), np.zeros(7), PolicyContract())
    with pytest.raises(ContractError, match='object pose must have 7'):
        state_vector(np.zeros(14), np.zeros(6), PolicyContract())
    with pytest.raises(ContractError, match='lacks camera cam_low'):
        model_inputs(
            Observation(np.zeros(14), {'cam_high': np.zeros((16, 24, 3), np.uint8)}), PIXELS, neutral(PIXELS)
        )


def test_a_policy_of_pixels_ignores_the_object_pose():
    assert state_vector(np.arange(14), np.full(7, np.nan), PIXELS).tolist() == list(range(14))


@given(arrays(np.float64, (4, 14), elements=st.floats(-10, 10)), st.integers(0, 1000))
def test_normalising_and_back_is_the_identity(actions, seed):
    rng = np.random.default_rng(seed)
    stats = NormStats(np.zeros(21), np.ones(21), rng.normal(size=14), rng.uniform(0.01, 3, 14))
    np.testing.assert_allclose(stats.unnormalise_action(stats.normalise_action(actions)), actions, atol=1e-5)


def test_statistics_of_data_normalise_it_and_do_not_blow_up_a_still_column():
    rng = np.random.default_rng(0)
    states, actions = rng.normal(3, 2, (500, 21)), rng.normal(-1, 0.5, (800, 14))
    states[:, 4] = 0.25
    stats = NormStats.of(states, actions)
    normal = stats.normalise_state(states)
    moving = np.delete(normal, 4, 1)
    np.testing.assert_allclose(moving.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(moving.std(0), 1, atol=1e-5)
    assert stats.state_std[4] == np.float32(MIN_STD) and np.abs(normal[:, 4]).max() < 1e-5
    np.testing.assert_allclose(stats.normalise_action(actions).std(0), 1, atol=1e-5)


def test_statistics_survive_json_bit_for_bit_in_the_layout_of_openpi():
    rng = np.random.default_rng(0)
    stats = NormStats(
        rng.normal(size=21), rng.uniform(0.1, 1, 21), rng.normal(size=14), rng.uniform(0.1, 1, 14)
    )
    again = NormStats.from_json(stats.to_json())
    for name in ('state_mean', 'state_std', 'action_mean', 'action_std'):
        assert np.array_equal(getattr(again, name), getattr(stats, name))
    document = json.loads(stats.to_json())
    assert len(document['norm_stats']['actions']['std']) == 14 and set(document['norm_stats']) == {
        'state',
        'actions',
    }


@pytest.mark.parametrize(
    'text',
    [
        '',
        '{}',
        '[]',
        'null',
        '{"norm_stats": 3}',
        '{"norm_stats": {"state": {"mean": [0], "std": [1]}}}',
        '{"norm_stats": {"state": {"mean": [0], "std": [0]}, "actions": {"mean": [0], "std": [1]}}}',
        '{"norm_stats": {"state": {"mean": [NaN], "std": [1]}, "actions": {"mean": [0], "std": [1]}}}',
        '{"norm_stats": {"state": {"mean": ["a"], "std": [1]}, "actions": {"mean": [0], "std": [1]}}}',
    ],
)
def test_bad_statistics_are_refused_with_the_name_of_the_file(text):
    with pytest.raises(ContractError, match='here/stats.json'):
        NormStats.from_json(text, 'here/stats.json')


def test_statistics_of_another_contract_are_refused():
    with pytest.raises(ContractError, match='state_mean has 21 entries, the contract wants 14'):
        neutral(PolicyContract()).check(PIXELS)


@pytest.mark.parametrize(
    'contract', [PolicyContract(), PIXELS, PolicyContract(horizon=50, execute=10, prompt='x')]
)
def test_contracts_survive_json(contract):
    assert PolicyContract.from_dict(json.loads(contract.to_json())) == contract


def test_contracts_with_unknown_or_missing_entries_are_refused():
    data = PolicyContract().to_dict()
    with pytest.raises(ContractError, match=r"unknown: \['speed'\]"):
        PolicyContract.from_dict({**data, 'speed': 1})
    data.pop('horizon')
    with pytest.raises(ContractError, match=r"missing: \['horizon'\]"):
        PolicyContract.from_dict(data)
    with pytest.raises(ContractError, match='JSON object'):
        PolicyContract.from_dict([1])


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'task': 'juggle'}, 'transfer_cube'),
        ({'observation': 'smell'}, 'state or pixels'),
        ({'observation': 'pixels'}, 'needs cameras'),
        ({'cameras': ('cam_high',)}, 'needs cameras'),
        ({'execute': 0}, 'execute'),
        ({'execute': 21}, 'execute'),
        ({'horizon': 0}, 'execute'),
        ({'flow_steps': 0}, 'flow_steps'),
        ({'image_width': 0}, 'image_width'),
    ],
)
def test_impossible_contracts_are_refused(change, words):
    with pytest.raises(ContractError, match=words):
        PolicyContract(**change)


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        ('horizon', '5'),
        ('horizon', 5.5),
        ('execute', True),
        ('flow_steps', None),
        ('control_rate_hz', 'fast'),
        ('control_rate_hz', 0),
        ('control_rate_hz', float('nan')),
        ('prompt', 3),
        ('cameras', 'cam_high'),
        ('task', ['transfer_cube']),
    ],
)
def test_entries_of_a_wrong_type_are_contract_errors(name, value):
    with pytest.raises(ContractError, match=name):
        PolicyContract.from_dict({**PolicyContract().to_dict(), name: value})


def test_a_chunk_with_one_bad_number_is_refused_by_row_and_joint():
    chunk = np.zeros((20, 14))
    check_chunk(chunk, PolicyContract())
    chunk[7, 6] = np.nan
    with pytest.raises(ContractError, match='row 7, left_gripper is nan'):
        check_chunk(chunk, PolicyContract())
    with pytest.raises(ContractError, match=r'\(19, 14\)'):
        check_chunk(chunk[:19], PolicyContract())


def test_tokens_are_begin_bytes_end():
    assert tokenize('Ab').tolist() == [1, 68, 101, 2]
    assert tokenize('é').tolist() == [1, 3 + 0xC3, 3 + 0xA9, 2]
    assert tokenize('Ab').dtype == np.int64


def test_a_network_is_given_tokens_that_it_knows():
    assert np.array_equal(checked_tokens(PolicyContract(prompt='Ab'), VOCABULARY_SIZE), tokenize('Ab'))
    assert checked_tokens(PolicyContract(prompt_tokens=(2, 299, 0)), 300).tolist() == [2, 299, 0]
    with pytest.raises(ContractError, match='no prompt_tokens, and a network of 257152 tokens does not read bytes'):
        checked_tokens(PolicyContract(), 257152)
    for token in (300, -1):
        with pytest.raises(ContractError, match=f'prompt token {token}, and the network knows 0 to 299'):
            checked_tokens(PolicyContract(prompt_tokens=(2, token)), 300)
    with pytest.raises(ContractError, match='prompt token 259'):
        checked_tokens(PolicyContract(prompt_tokens=(1, 259)), VOCABULARY_SIZE)


def test_a_prompt_and_its_cleaned_form_have_the_same_tokens():
    assert np.array_equal(tokenize('  Transfer_cube\n'), tokenize('Transfer cube'))
    assert np.array_equal(tokenize('Transfer\ncube'), tokenize('Transfer cube'))
    assert not np.array_equal(tokenize('Transfer Cube'), tokenize('Transfer cube'))


@given(st.text(max_size=40))
def test_tokens_fit_the_vocabulary(prompt):
    tokens = tokenize(prompt)
    assert (
        tokens[0] == 1 and tokens[-1] == 2 and (tokens[1:-1] >= 3).all() and (tokens < VOCABULARY_SIZE).all()
    )

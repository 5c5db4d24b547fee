"""Learning and evaluation in randomised worlds: what a policy sees, and what a run keeps."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import tiny_task
import torch
import yaml
from recorded import PIXELS
from runs import newest, train, without_clock

from fpo_ros import cli
from fpo_ros.learning.evaluate import evaluate
from fpo_ros.learning.finetune import RunError
from fpo_ros.learning.rollout import collect
from fpo_ros.learning.run_directory import read_settings
from fpo_ros.learning.scale import EpisodeOptions, Local, collect_episodes
from fpo_ros.learning.scale.unit import UnitRunner
from fpo_ros.nodes.locate import share_path
from fpo_ros.sim.batch import BatchedWorlds
from fpo_ros.sim.randomisation import Randomisation, RandomisationError
from fpo_ros.sim.render import BatchRenderer
from fpo_ros.sim.task import REST_STEPS

SOME = Randomisation.from_dict({
    'seed': 4, 'joint_offset_rad': [-0.02, 0.02], 'joint_noise_rad': [0.001, 0.002], 'joint_latency_s': [0.02, 0.06],
    'action_latency_s': [0.0, 0.03], 'actuator_gain': [0.8, 1.2], 'object_size': [0.8, 1.2],
    'camera_latency_s': {'cam_high': [0.04, 0.08]}, 'camera_drop_probability': [0.2, 0.5],
    'appearance': {'table_colour': [0.1, 0.4], 'noise_std': [1, 3]}})
SCENES = np.array([3, 1, 4, 1_000_000])


@pytest.fixture
def fpo_ros(capsys):
    """Return a function that runs a command line in this process: exit code, output and errors in one line each."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return end.value.code or 0, captured.out, ' '.join(captured.err.split())

    return run


@pytest.fixture
def file(tmp_path):
    """Return a file that says what ``SOME`` is."""
    path = tmp_path / 'some.yaml'
    path.write_text(yaml.safe_dump(SOME.to_dict()))
    return path


def test_the_policy_is_given_measured_joints_and_the_critic_the_truth(waist_task):
    policy, asked = tiny_task.policy(), []
    with BatchedWorlds('transfer_cube', 3, randomisation=SOME) as worlds:
        plain = worlds.observed_joints
        worlds.observed_joints = lambda where: asked.append((plain(where), worlds.joints()[where])) or asked[-1][0]
        rollout = collect(policy, worlds, SCENES[:3], tiny_task.start_noise(3))
    raw = rollout.states.numpy() * 0.1 + policy.stats.state_mean
    for decision, (measured, true) in enumerate(asked[:2]):
        rows = np.flatnonzero(rollout.valid[:, decision])
        assert len(rows) == len(measured), 'the case needs all of them'
        np.testing.assert_allclose(raw[rows, decision, :14], measured, atol=1e-6)
        np.testing.assert_allclose(rollout.privileged[rows, decision, :14], true, atol=1e-6)
        np.testing.assert_allclose(raw[rows, decision, 14:], rollout.privileged[rows, decision, 14:21], atol=1e-6)
        assert np.abs(measured - true).max() > 1e-3


def test_the_policy_is_given_late_and_repeated_pictures_with_the_looks_of_their_worlds():
    contract, seen = replace(PIXELS, cameras=('cam_high', 'cam_angle')), []
    size = contract.image_height, contract.image_width
    with (tiny_task.short_episodes(), BatchedWorlds('transfer_cube', 3, randomisation=SOME) as worlds,
          BatchRenderer('transfer_cube', contract.cameras, *size) as renderer):
        plain = renderer.render_all

        def render_all(qpos, looks, frames):
            assert looks == worlds.appearances() and len({look.table_colour for look in looks}) == 3
            seen.append((qpos, worlds.qpos.copy(), frames))
            return plain(qpos, looks, frames)

        renderer.render_all = render_all
        rollout = collect(tiny_task.policy(contract=contract), worlds, SCENES[:3], tiny_task.start_noise(3),
                          renderer=renderer)
    assert rollout.states.shape[-1] == 14 and len(seen) == (tiny_task.STEPS - REST_STEPS) // contract.execute
    repeated = 0
    for decision, (qpos, true, frames) in enumerate(seen):
        high, angle, now = qpos[:, 0], qpos[:, 1], REST_STEPS + contract.execute * decision
        for world in range(3):
            # This camera is not late: it shows what is true unless the frame was lost.
            assert np.array_equal(angle[world], true[world]) == (frames[world, 1] == now)
            assert not np.array_equal(high[world], true[world])
        repeated += (frames < now).sum()
        assert (frames <= now).all()
    assert 0 < repeated < 6 * (len(seen) - 1), 'some frames are lost, not all'


def test_randomised_episodes_do_not_depend_on_threads_or_units_and_differ_from_plain_ones(waist_task):
    policy, options = tiny_task.policy(), EpisodeOptions(noise_seed=3, randomisation=SOME)
    whole = collect_episodes(policy, SCENES, Local(threads=1), options).rollout
    parts = collect_episodes(policy, SCENES, Local(threads=2, unit=3), options).rollout
    assert torch.equal(whole.states, parts.states) and torch.equal(whole.chunks, parts.chunks)
    plain = collect_episodes(policy, SCENES, Local(threads=1), replace(options, randomisation=None)).rollout
    assert not torch.equal(whole.states[:, 0], plain.states[:, 0])


def test_options_of_a_unit_reach_its_worlds_and_survive_the_journey(waist_task):
    options = EpisodeOptions(noise_seed=3, randomisation=SOME)
    assert EpisodeOptions.from_dict(json.loads(json.dumps(asdict(options)))) == options
    plain = EpisodeOptions.from_dict(asdict(EpisodeOptions(noise_seed=3)))
    with UnitRunner(tiny_task.policy(), 2, 1) as runner:
        states = [runner.run(SCENES[:2], some).states for some in (options, plain, options, options)]
    assert torch.equal(states[0], states[2]) and torch.equal(states[2], states[3])
    assert not torch.equal(states[0], states[1])


def test_a_randomised_run_is_resumed_bit_for_bit_and_keeps_what_it_drew_from(waist_task, tmp_path):
    settings = tiny_task.config(randomisation=SOME)
    _, whole = train(tmp_path / 'whole', 2, settings=settings)
    train(tmp_path / 'run', 1, settings=settings)
    assert read_settings(tmp_path / 'run').config == settings
    _, history = train(tmp_path / 'run', 2, settings=settings, resume=True)
    assert without_clock(history) == without_clock(whole)
    files = [newest(tmp_path / run) / 'policy.safetensors' for run in ('whole', 'run')]
    assert files[0].read_bytes() == files[1].read_bytes()
    for other in (None, replace(SOME, seed=5)):
        with pytest.raises(RunError, match='other settings'):
            train(tmp_path / 'run', 3, settings=tiny_task.config(randomisation=other), resume=True)
    _, plain = train(tmp_path / 'plain', 1)
    assert without_clock(plain)[0] != without_clock(whole)[0]


def test_a_run_of_before_goes_on_without_a_randomisation(copied, waist_task):
    path = copied / 'config.json'
    document = json.loads(path.read_text())
    assert document['fpo'].pop('randomisation') is None
    path.write_text(json.dumps(document))
    assert len(train(copied, 3, resume=True)[1]) == 3


def test_a_randomisation_that_does_not_fit_begins_no_run(tmp_path):
    some = Randomisation(camera_latency_s={'cam_moon': (0, 0.1)})
    with pytest.raises(RandomisationError, match='cam_moon'):
        train(tmp_path, 1, settings=tiny_task.config(randomisation=some))
    assert not (tmp_path / 'config.json').exists()


def test_an_evaluation_says_what_it_drew_from(waist_task):
    policy = tiny_task.policy()
    result = evaluate(policy, 6, sampling='zero', batch=4, randomisation=SOME)
    assert Randomisation.from_dict(json.loads(json.dumps(result.to_dict()))['randomisation']) == SOME
    assert np.array_equal(result.success, evaluate(policy, 6, sampling='zero', randomisation=SOME).success)
    assert evaluate(policy, 1).to_dict()['randomisation'] is None


def test_the_commands_take_a_file_and_a_resumed_run_refuses_another(fpo_ros, waist_task, file, tmp_path):
    (tmp_path / 'sft').mkdir()
    tiny_task.policy().save(tmp_path / 'sft')
    run = ('train', 'fpo', '--run', tmp_path / 'run', '--policy', tmp_path / 'sft', '--max-steps', 16)
    code, _, err = fpo_ros(*run, '--episodes', 2, '--iterations', 1, '--randomisation', file)
    assert (code, err) == (0, '')
    assert Randomisation.from_dict(json.loads((tmp_path / 'run' / 'config.json').read_text())['fpo']['randomisation']
                                   ) == SOME
    other = tmp_path / 'other.yaml'
    other.write_text('joint_noise_rad: [0.0, 0.01]\n')
    for more, code in (((), 0), (('--randomisation', file), 0), (('--randomisation', other), 1)):
        got, _, err = fpo_ros(*run, '--iterations', 2, '--resume', *more)
        assert got == code, err
    assert 'another --randomisation' in err and 'config.json' in err and 'another --run' in err
    code, out, err = fpo_ros('eval', '--policy', tmp_path / 'sft', '--episodes', 2, '--max-steps', 16, '--json',
                             '--randomisation', share_path('config/randomisation.yaml'))
    assert code == 0 and json.loads(out.splitlines()[-1])['randomisation']['action_latency_s'] == [0.0, 0.04], err
    other.write_text('joint_noise_rad: [0.01, 0.0]\n')
    code, _, err = fpo_ros('eval', '--policy', tmp_path / 'sft', '--episodes', 2, '--randomisation', other)
    assert code == 1 and str(other) in err and 'joint_noise_rad is upside down' in err


def test_a_run_without_a_randomisation_refuses_one_when_resumed(fpo_ros, copied, waist_task, file):
    code, _, err = fpo_ros('train', 'fpo', '--run', copied, '--iterations', 3, '--resume', '--randomisation', file)
    assert code == 1 and 'another --randomisation, or none' in err

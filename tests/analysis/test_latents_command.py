"""``fpo-ros analyse latents`` and its figures."""

from __future__ import annotations

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import tiny_task
from matplotlib.figure import Figure
from test_latents import drawn

from fpo_ros.analysis import drawn as drawn_module
from fpo_ros.analysis import plots
from fpo_ros.analysis.latents import analyse
from fpo_ros.sim.scenes import Scenes, scene_seeds


@pytest.fixture
def latents(fpo_ros, monkeypatch):
    """Return a function that runs the command: exit code, output, errors."""
    monkeypatch.setenv('COLUMNS', '400')
    return lambda *arguments: fpo_ros('analyse', 'latents', *arguments)


@pytest.fixture
def saved(tmp_path):
    """Return a function that saves a tiny policy and returns its directory."""

    def save(name: str, seed: int = 0, **changes: object):
        (tmp_path / name).mkdir()
        tiny_task.policy(seed, replace(tiny_task.CONTRACT, **changes)).save(tmp_path / name)
        return tmp_path / name

    return save


def picture(path) -> np.ndarray:
    """Return a PNG that is large enough to be read and not empty."""
    pixels = cv2.imread(str(path))
    assert pixels is not None and min(pixels.shape[:2]) > 600
    assert len(np.unique(pixels.astype(int) @ [1, 256, 65536])) > 50, 'it shows next to nothing'
    return pixels


def test_the_command_compares_policies_on_the_same_held_out_scenes(latents, saved, waist_task, tmp_path, monkeypatch):
    scenes, plain = [], drawn_module.collect_episodes
    monkeypatch.setattr(drawn_module, 'collect_episodes', lambda policy, seeds, *rest: scenes.append(
        seeds.tolist()) or plain(policy, seeds, *rest))
    out = tmp_path / 'deep' / 'out'
    code, printed, err = latents('--policy', f'early={saved("a", 1)}', '--policy', f'late={saved("b")}', '--points', 30,
                                 '--episodes', 12, '--seed', 2, '--reward', 'gym', '--out', out, '--json')
    assert code == 0, err
    assert scenes == [scene_seeds(Scenes.EVALUATION, 2, 12).tolist()] * 2
    found = json.loads(printed)
    assert json.loads((out / 'latents.json').read_text()) == found
    assert (found['task'], found['reward'], found['max_steps'], found['seed']) == ('transfer_cube', 'gym', 20, 2)
    assert found['policies'] == {'early': str(tmp_path / 'a'), 'late': str(tmp_path / 'b')}
    assert (found['steps_per_point'], found['dimensions']) == (3, 42)
    early, late = found['stages']
    assert early['policy'] == 'early' and late['policy'] == 'late'
    assert early['points'] == late['points'] == found['points_per_policy'] <= 30
    assert found['points'] == 2 * early['points'] and 0 < late['successes'] < 12
    groups = found['outcomes']['groups']
    assert groups['failed']['episodes'] + groups['successful']['episodes'] == 12
    assert groups['successful']['episodes'] == late['successes']
    assert groups['failed']['points'] + groups['successful']['points'] == late['points']
    assert f'early: {early["successes"]} of 12 succeeded; standard deviation' in err and 'PC1 holds' in err
    for name in ('stages.png', 'outcomes.png'):
        picture(out / name)


def test_a_policy_that_never_succeeds_is_analysed_all_the_same(latents, saved, waist_task, tmp_path):
    # By the stricter rule, which is the default, nothing succeeds within ten control steps.
    code, printed, err = latents('--policy', f'only={saved("a")}', '--episodes', 3, '--out', tmp_path / 'out')
    assert code == 0, err
    assert 'only: 0 of 3 succeeded' in printed and 'successful, 0 points of only: norm none' in printed
    found = json.loads((tmp_path / 'out' / 'latents.json').read_text())
    assert found['reward'] == 'strict' and found['outcomes']['groups']['successful']['mahalanobis_to_success'] is None
    assert found['outcomes']['groups']['failed']['points'] == 12
    picture(tmp_path / 'out' / 'outcomes.png')


def test_what_cannot_be_analysed_is_refused_in_one_line_before_anything_is_made(latents, saved, tmp_path):
    good, insertion, two = saved('good'), saved('insertion', task='insertion'), saved('two', execute=2)
    cases = [
        ([str(good)], [], f'--policy {good} is no NAME=DIR'), ([f'={good}'], [], 'is no NAME=DIR'),
        (['a='], [], 'is no NAME=DIR'), ([f'a={good}', f'a={good}'], [], 'a=... is given twice'),
        ([f'a={tmp_path / "none"}'], [], 'does not exist'),
        ([f'a={good}', f'b={insertion}'], [], 'task of a is transfer_cube, that of b insertion'),
        ([f'a={good}', f'b={two}'], [], 'execute of a is 3, that of b 2'),
        ([f'a={good}'], ['--reward', 'praise'], "unknown reward 'praise'"),
        ([f'a={good}'], ['--seed', '1000'], 'use 0 to 999'),
    ]
    for policies, options, message in cases:
        named = [word for policy in policies for word in ('--policy', policy)]
        code, printed, err = latents(*named, *options, '--out', tmp_path / 'out')
        assert (code, printed) == (1, '') and message in err and len(err.strip().splitlines()) == 1, err
        assert not (tmp_path / 'out').exists()


def test_too_few_points_are_refused(latents, saved, waist_task, tmp_path):
    code, _, err = latents('--policy', f'a={saved("a")}', '--episodes', 1, '--max-steps', 13, '--out', tmp_path / 'out')
    assert code == 1 and '1 of 1 decisions of a cannot be analysed' in err and '--episodes' in err


@pytest.mark.parametrize('arguments', [
    [], ['--policy', 'a=b', '--points', '1'], ['--policy', 'a=b', '--episodes', '0']])
def test_wrong_usage_of_an_analysis(latents, arguments):
    code, printed, err = latents(*arguments)
    assert code == 2 and not printed and 'Usage' in err


@pytest.fixture
def figures(monkeypatch):
    """Return the figures that are saved; they stay open for a look."""
    saved, plain = [], Figure.savefig
    monkeypatch.setattr(Figure, 'savefig', lambda figure, *a, **k: saved.append(figure) or plain(figure, *a, **k))
    return saved


def words(figure: Figure) -> str:
    """Return all texts of a figure."""
    from matplotlib.text import Text

    return '\n'.join(text.get_text() for text in figure.findobj(Text))


def test_the_stages_show_every_policy_with_its_numbers(figures, tmp_path):
    policies = [replace(drawn(f'p{number}', seed=number), chunks=(1 - 0.2 * number) * drawn(seed=number).chunks)
                for number in range(5)]
    found = analyse(policies, 40)
    plots.plot_stages(found, tmp_path / 'stages.png')
    picture(tmp_path / 'stages.png')
    text = words(figures[0])
    for stage in found.stages:
        assert f'{stage["policy"]}: 4 of 8 succeeded' in text
        assert f'hull area in the plane {stage["hull_area_tsne"]:,.0f}' in text or stage['hull_area_tsne'] < 100
    trend = next(axes for axes in figures[0].findobj(plots.Axes) if axes.get_title() == 'mean standard deviation')
    assert trend.lines[0].get_ydata() == pytest.approx(
        [stage['mean_std'] / found.stages[0]['mean_std'] for stage in found.stages])
    assert trend.lines[0].get_ydata()[4] < 0.3


def test_the_outcomes_show_three_groups_in_four_panels(figures, tmp_path):
    found = analyse([drawn('first'), drawn('last', seed=1, successes=3)], 40)
    plots.plot_outcomes(found, tmp_path / 'outcomes.png')
    text, shares = words(figures[0]), 100 * found.embedding.explained
    assert 'Drawn chunks of first, and of failed and successful episodes of last (their silhouette' in text
    for part in (f'PC1 ({shares[0]:.1f} %', f'PC2 ({shares[1]:.1f} %', 'first, all episodes (40 points)',
                 'last, failed (25 points)', 'last, successful (15 points)', 'left gripper', 'right waist'):
        assert part in text, part
    tsne, pca, norms, variance = figures[0].axes
    assert np.array_equal(np.concatenate([part.get_offsets() for part in tsne.collections]),
                          np.concatenate([found.embedding.tsne[group] for group in found.groups.values()]))
    assert [len(part.get_offsets()) for part in pca.collections] == [40, 25, 15]
    mean = found.outcomes['groups']['failed']['mean_norm']
    assert f'failed, mean {mean:.2f}' in text
    assert [line.get_xdata()[0] for line in norms.lines][1] == mean
    values = found.outcomes['groups']['successful']['variance_per_dimension']
    assert variance.lines[2].get_ydata() == pytest.approx(list(values.values()))


@pytest.mark.parametrize('policies', [
    [drawn(successes=0)], [drawn('a'), drawn('b', successes=8)], [drawn('a', 2, 1), drawn('b', 2, 1, seed=1)]],
    ids=['no success', 'no failure', 'two points'])
def test_figures_do_without_a_group_and_without_a_hull(policies, tmp_path):
    found = analyse(policies, 40)
    plots.plot_stages(found, tmp_path / 'stages.png')
    plots.plot_outcomes(found, tmp_path / 'outcomes.png')
    picture(tmp_path / 'stages.png')
    picture(tmp_path / 'outcomes.png')

"""Progress files: lines, columns and curves that say the same, whatever happened to the process."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import tiny_task
from runs import progress, train, without_clock

from fpo_ros.learning.metrics import SCALARS
from fpo_ros.learning.progress import Progress
from fpo_ros.policy.saving import SaveError

pytestmark = pytest.mark.filterwarnings('ignore::pytest.PytestUnhandledThreadExceptionWarning')


def iteration(number: int, **changes: object) -> dict:
    return {'iteration': number, 'control_steps': 40 * number, 'rewarded_rate': 0.25 * number, 'worst_region': None,
            'flow_loss': 0.1 / number, 'update_s': 1.5, 'regions': [[1, 2]], 'alarms': ['a, "b"'], **changes}


def columns(run: Path) -> list[dict[str, str]]:
    with open(run / 'progress.csv', encoding='utf-8', newline='') as file:
        return list(csv.DictReader(file))


def curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Return what TensorBoard shows: steps and values by name."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    shown = EventAccumulator(str(run / 'tensorboard'), size_guidance={'scalars': 0}).Reload()
    return {name: [(event.step, event.value) for event in shown.Scalars(name)] for name in shown.Tags()['scalars']}


def left_behind(run: Path) -> None:
    """Date what a process has written back: TensorBoard reads files by the second in which they were begun."""
    for path in (run / 'tensorboard').iterdir():
        path.unlink() if path.is_symlink() else path.rename(path.with_name('events.out.tfevents.0000000001.host.1.0'))


def test_columns_and_lines_say_the_same(finished):
    run, history = finished
    lines, rows = progress(run), columns(run)
    assert lines == history and len(rows) == len(lines)
    for line, row in zip(lines, rows, strict=True):
        assert tuple(row) == SCALARS
        for name, text in row.items():
            value = line.get(name)
            assert text == '' if value is None else float(text) == value, name


def test_curves_say_what_the_lines_say(finished):
    run, history = finished
    shown = curves(run)
    by_name = {name.split('/')[1]: points for name, points in shown.items() if not name.startswith('regions/')}
    for name in SCALARS[1:]:
        wanted = [(entry['iteration'], entry[name]) for entry in history if entry.get(name) is not None]
        assert [step for step, _ in by_name.get(name, [])] == [step for step, _ in wanted], name
        assert [value for _, value in by_name.get(name, [])] == pytest.approx([value for _, value in wanted], rel=1e-6)
    assert len(by_name) == sum(not name.startswith('regions/') for name in shown), 'every metric has one curve'


def test_every_start_region_has_a_curve_of_its_success(finished, tmp_path):
    shown = {name: points for name, points in curves(finished[0]).items() if name.startswith('regions/')}
    assert set(shown) <= {f'regions/x{x}_y{y}' for x in range(3) for y in range(3)}
    for entry in finished[1]:
        rates = {f'regions/x{index % 3}_y{index // 3}': won / count
                 for index, (won, count) in enumerate(entry['regions']) if count}
        assert rates and {name: dict(points)[entry['iteration']] for name, points in shown.items()
                          if entry['iteration'] in dict(points)} == pytest.approx(rates)
    with Progress(tmp_path, []) as open_files:
        open_files.add(iteration(1, regions=[[1, 2], [0, 0], [3, 3], [0, 4]]))
    assert {name: points for name, points in curves(tmp_path).items() if name.startswith('regions/')} == {
        'regions/x0_y0': [(1, 0.5)], 'regions/x2_y0': [(1, 1.0)], 'regions/x0_y1': [(1, 0.0)]}


def test_curves_are_in_the_section_that_they_belong_to(finished):
    names = set(curves(finished[0]))
    assert {'episodes/rewarded_rate', 'episodes/replayed', 'episodes/mean_return', 'episodes/diverged',
            'training/flow_loss',
            'training/explained_variance', 'training/control_steps', 'time/rollout_s', 'time/steps_per_s',
            'time/lost_workers', 'time/recollected_episodes'} <= names
    assert {name.split('/')[0] for name in names} == {'episodes', 'regions', 'training', 'time'}


def test_what_an_iteration_does_not_have_is_an_empty_column_and_no_point(tmp_path):
    with Progress(tmp_path, []) as open_files:
        open_files.add(iteration(1))
        open_files.add(iteration(2, worst_region=0.5))
    assert [row['worst_region'] for row in columns(tmp_path)] == ['', '0.5']
    assert [row['ratio'] for row in columns(tmp_path)] == ['', '']
    assert curves(tmp_path)['episodes/worst_region'] == [(2, 0.5)]
    assert not any(name.endswith('/ratio') for name in curves(tmp_path))


def test_what_a_killed_process_had_written_of_an_iteration_that_is_done_again_is_gone(tmp_path):
    begun = Progress(tmp_path, [])
    for number in (1, 2, 3):
        begun.add(iteration(number))
    begun._events.close()
    left_behind(tmp_path)
    again = [iteration(2, rewarded_rate=0.875), iteration(3, rewarded_rate=0.125)]
    with Progress(tmp_path, [iteration(1)]) as resumed:
        assert [row['iteration'] for row in columns(tmp_path)] == ['1'] and progress(tmp_path) == [iteration(1)]
        assert curves(tmp_path)['episodes/rewarded_rate'] == [(1, 0.25)]
        for entry in again:
            resumed.add(entry)
    assert progress(tmp_path) == [iteration(1), *again]
    assert [float(row['rewarded_rate']) for row in columns(tmp_path)] == [0.25, 0.875, 0.125]
    assert curves(tmp_path)['episodes/rewarded_rate'] == [(1, 0.25), (2, 0.875), (3, 0.125)]


def test_half_a_line_of_a_killed_process_is_mended(tmp_path):
    with Progress(tmp_path, []) as open_files:
        open_files.add(iteration(1))
    for name in ('progress.jsonl', 'progress.csv'):
        with open(tmp_path / name, 'a', encoding='utf-8') as file:
            file.write('{"iterat')
    with Progress(tmp_path, [iteration(1)]) as open_files:
        open_files.add(iteration(2))
    assert progress(tmp_path) == [iteration(1), iteration(2)]
    assert [row['iteration'] for row in columns(tmp_path)] == ['1', '2']


def test_every_iteration_can_be_read_while_the_run_goes_on(tmp_path):
    with Progress(tmp_path, []) as open_files:
        for number in (1, 2):
            open_files.add(iteration(number))
            assert len(progress(tmp_path)) == len(columns(tmp_path)) == number
            assert len(curves(tmp_path)['episodes/rewarded_rate']) == number


def fill(path: Path) -> None:
    """Let the disk be full for a file that is there."""
    path.unlink()
    path.symlink_to('/dev/full')


@pytest.mark.parametrize('name', ['progress.jsonl', 'progress.csv', 'tensorboard'])
def test_a_full_disk_is_one_error_and_the_next_process_mends_the_files(tmp_path, name):
    with pytest.raises(SaveError) as caught, Progress(tmp_path, []) as open_files:
        open_files.add(iteration(1))
        fill(next((tmp_path / name).iterdir()) if name == 'tensorboard' else tmp_path / name)
        for number in (2, 3):
            open_files.add(iteration(number))
    message = str(caught.value)
    assert str(tmp_path) in message and 'disk full' in message and '--resume' in message and '\n' not in message
    left_behind(tmp_path)
    with Progress(tmp_path, [iteration(1), iteration(2)]) as open_files:
        open_files.add(iteration(3))
    assert [line['iteration'] for line in progress(tmp_path)] == [1, 2, 3]
    assert [row['iteration'] for row in columns(tmp_path)] == ['1', '2', '3']
    assert curves(tmp_path)['episodes/rewarded_rate'][-1] == (3, 0.75)


def test_progress_that_cannot_begin_is_one_error(tmp_path):
    (tmp_path / 'tensorboard').write_text('a file')
    with pytest.raises(SaveError) as caught:
        Progress(tmp_path, [])
    assert str(tmp_path) in str(caught.value) and '\n' not in str(caught.value)


def test_an_iteration_whose_progress_was_not_written_is_written_when_the_run_goes_on(waist_task, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise SaveError('disk full')

    _, expected = train(tmp_path / 'whole', 2)
    with monkeypatch.context() as patch:
        patch.setattr(Progress, 'add', full)
        with pytest.raises(SaveError):
            train(tmp_path / 'run', 2)
    assert progress(tmp_path / 'run') == []
    _, history = train(tmp_path / 'run', 2, resume=True)
    assert progress(tmp_path / 'run') == history and without_clock(history) == without_clock(expected)


def test_two_runs_of_other_algorithms_have_the_same_columns(waist_task, tmp_path):
    for algorithm in ('fpo', 'awr'):
        train(tmp_path / algorithm, 1, settings=tiny_task.config(algorithm=algorithm))
    heads = [(tmp_path / name / 'progress.csv').read_text().splitlines()[0] for name in ('fpo', 'awr')]
    assert heads == [','.join(SCALARS)] * 2

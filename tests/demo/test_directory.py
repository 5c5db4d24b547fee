"""The directory of the demo: what is in it stays, earlier results are moved aside, one demo at a time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fpo_ros.demo import directory
from fpo_ros.demo.directory import DemoError, check_directory, claimed, default_directory

QUICK = {'observation': 'state', 'quick': True}


class Killed(BaseException):
    """Stands for kill -9."""


def claim(work: Path, settings: dict = QUICK, resume: bool = False) -> list[str]:
    """Claim a directory and let it go; return the lines that were said."""
    said: list[str] = []
    with claimed(work, settings, resume, said.append):
        pass
    return said


def test_a_new_directory_is_made_and_marked(tmp_path):
    assert claim(tmp_path / 'a' / 'demo') == []
    assert json.loads((tmp_path / 'a' / 'demo' / 'demo.json').read_text()) == QUICK


def test_a_directory_with_other_files_is_left_alone(tmp_path):
    (tmp_path / 'thesis.tex').write_text('years of work')
    for resume in (False, True):
        with pytest.raises(DemoError, match='holds other files'):
            claim(tmp_path, resume=resume)
    assert [entry.name for entry in tmp_path.iterdir()] == ['thesis.tex']


def test_a_file_in_place_of_the_directory_is_refused(tmp_path):
    file = tmp_path / 'file'
    file.write_text('x')
    with pytest.raises(DemoError, match='directory'):
        claim(file)


def test_a_resumed_demo_finds_what_was_there(tmp_path):
    work = tmp_path / 'demo'
    claim(work)
    (work / 'old').write_text('x')
    assert claim(work, resume=True) == []
    assert (work / 'old').exists()


def test_a_resumed_demo_without_anything_there_says_so_and_starts(tmp_path):
    said = claim(tmp_path / 'demo', resume=True)
    assert len(said) == 1 and 'nothing to resume' in said[0]
    assert (tmp_path / 'demo' / 'demo.json').exists()


def test_earlier_results_and_keys_are_moved_aside_and_named(tmp_path):
    work = tmp_path / 'demo'
    claim(work)
    for number in (1, 2, 3):
        (work / 'keys').mkdir()
        (work / 'keys' / 'release.key').write_text(f'secret {number}')
        said = claim(work)
        assert len(said) == 1 and str(tmp_path / f'demo.{number}') in said[0]
    assert f'{number} such directories' in said[0]
    assert [entry.name for entry in work.iterdir() if not entry.name.startswith('.')] == ['demo.json']
    for number in (1, 2, 3):
        assert (tmp_path / f'demo.{number}' / 'keys' / 'release.key').read_text() == f'secret {number}'


def test_a_removed_number_is_not_used_again(tmp_path):
    work = tmp_path / 'demo'
    (tmp_path / 'demo.7').mkdir()
    (tmp_path / 'demo.old').mkdir()
    claim(work)
    claim(work)
    assert (tmp_path / 'demo.8' / 'demo.json').exists()


def test_a_link_to_another_disk_stays_a_link(tmp_path):
    (tmp_path / 'disk').mkdir()
    link = tmp_path / 'demo'
    link.symlink_to(tmp_path / 'disk' / 'demo')
    claim(link)
    claim(link)
    assert link.is_symlink() and (tmp_path / 'disk' / 'demo.1').is_dir() and (link / 'demo.json').exists()


@pytest.mark.parametrize('changed', [{'observation': 'pixels'}, {'quick': False}])
def test_a_demo_of_other_settings_is_not_resumed(tmp_path, changed):
    claim(tmp_path / 'demo')
    with pytest.raises(DemoError, match='other settings'):
        claim(tmp_path / 'demo', QUICK | changed, resume=True)


@pytest.mark.parametrize('text', ['', '{"observation": "sta', '[]'])
def test_a_damaged_mark_is_named_and_a_fresh_start_is_possible(tmp_path, text):
    work = tmp_path / 'demo'
    claim(work)
    (work / 'demo.json').write_text(text)
    with pytest.raises(DemoError, match=r'demo\.json is damaged.*without --resume'):
        claim(work, resume=True)
    assert str(tmp_path / 'demo.1') in claim(work)[0]


@pytest.mark.parametrize('resume', [False, True])
def test_a_second_demo_is_refused_while_the_first_runs(tmp_path, resume):
    work = tmp_path / 'demo'
    with claimed(work, QUICK, False, print):
        (work / 'result').write_text('x')
        with pytest.raises(DemoError, match='another demo is running'):
            claim(work, resume=resume)
        assert (work / 'result').exists() and not (tmp_path / 'demo.1').exists()
    assert claim(work, resume=True) == []


def test_the_lock_of_a_killed_demo_is_free(tmp_path):
    work = tmp_path / 'demo'
    code = ('import os, sys; from pathlib import Path; from fpo_ros.demo.directory import claimed\n'
            f'with claimed(Path({str(work)!r}), {QUICK!r}, False, print): os.kill(os.getpid(), 9)')
    assert subprocess.run([sys.executable, '-c', code], check=False).returncode == -9
    assert claim(work, resume=True) == []


def test_a_demo_that_waited_for_the_lock_of_a_moved_directory_is_refused(tmp_path, monkeypatch):
    """Between opening the lock and taking it, another demo moved the directory aside and runs in a new one."""
    work, lock = tmp_path / 'demo', directory.try_lock
    claim(work)

    def late(path: Path) -> int | None:
        descriptor = lock(path)
        monkeypatch.undo()
        work.rename(tmp_path / 'demo.1')
        work.mkdir()
        (work / '.lock').touch()
        return descriptor

    monkeypatch.setattr(directory, 'try_lock', late)
    with pytest.raises(DemoError, match='another demo is running'):
        claim(work)
    assert not (tmp_path / 'demo.2').exists()


@pytest.mark.parametrize('step', ['rename', 'lock', 'mark', 'half a mark'])
def test_a_start_that_was_killed_does_not_hinder_the_next(tmp_path, monkeypatch, step):
    work = tmp_path / 'demo'
    claim(work)
    (work / 'keys').mkdir()

    def killed(*_: object) -> None:
        if step == 'half a mark':
            (work / '.demo.json.1234').write_text('{"obs')
        raise Killed

    if step == 'rename':
        monkeypatch.setattr(Path, 'mkdir', lambda *_, **__: killed())
    elif step == 'lock':
        lock, taken = directory.try_lock, []
        monkeypatch.setattr(directory, 'try_lock', lambda path: taken.append(path) or (
            lock(path) if len(taken) == 1 else killed()))
    else:
        monkeypatch.setattr(directory, 'replace_file', killed)
    with pytest.raises(Killed):
        claim(work)
    monkeypatch.undo()
    assert (tmp_path / 'demo.1' / 'keys').is_dir()
    check_directory(work, QUICK, False)
    assert claim(work) == []
    assert json.loads((work / 'demo.json').read_text()) == QUICK and not (tmp_path / 'demo.2').exists()


def test_quick_and_full_demos_have_directories_of_their_own():
    assert default_directory(True) == Path('runs/demo-quick')
    assert default_directory(False) == Path('runs/demo')

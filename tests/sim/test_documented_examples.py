"""What docs/simulation.md shows works as it stands: examples run, files load, commands and links lead somewhere."""

from __future__ import annotations

import re
import shlex
from dataclasses import fields
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from typer.main import get_command

from fpo_ros import cli
from fpo_ros.sim.appearance import AppearanceRanges
from fpo_ros.sim.randomisation import Randomisation

DOCS = Path(__file__).parents[2] / 'docs'
PAGE = (DOCS / 'simulation.md').read_text(encoding='utf-8')
SECTIONS = {section.splitlines()[0]: section for section in re.split(r'^## ', PAGE, flags=re.MULTILINE)[1:]}


def blocks(language: str) -> list:
    """Return the fenced blocks of a language, each with the section it stands in as its name."""
    return [pytest.param(block, id=title.replace(' ', '_')) for title, section in SECTIONS.items()
            for block in re.findall(rf'^```{language}\n(.*?)^```', section, re.MULTILINE | re.DOTALL)]


def commands() -> list[str]:
    """Return what follows ``fpo-ros`` within the text and in blocks of the shell, without comments."""
    lines = [line for block in blocks('') for line in block.values[0].replace('\\\n', ' ').splitlines()]
    shown = re.findall(r'`fpo-ros\s+([^`]+)`', PAGE) + [line[8:] for line in lines if line.startswith('fpo-ros ')]
    return sorted({' '.join(shlex.split(words, comments=True)) for words in shown})


EXAMPLES, FILES, COMMANDS = blocks('python'), blocks('yaml'), commands()
LINKS = sorted(set(re.findall(r'\]\(([^)\s]+)\)', PAGE)))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Examples write into the working directory."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize('example', EXAMPLES)
def test_an_example_runs(example):
    exec(compile(example, 'docs/simulation.md', 'exec'), {'__name__': '__main__'})


def test_the_picture_is_what_its_example_draws(tmp_path):
    [example] = [one.values[0] for one in EXAMPLES if 'imwrite' in one.values[0]]
    exec(compile(example, 'docs/simulation.md', 'exec'), {'__name__': '__main__'})
    kept = DOCS / 'images' / 'aloha_simulation.png'
    ours, theirs = (cv2.imread(str(path)).astype(int) for path in (tmp_path / kept.name, kept))
    # Another GL draws edges a little differently.
    assert ours.shape == theirs.shape and np.abs(ours - theirs).mean() < 3
    assert kept.stat().st_size <= 150_000


@pytest.mark.parametrize('text', FILES)
def test_a_randomisation_loads_and_changes_something(text):
    assert Randomisation.from_dict(yaml.safe_load(text)) != Randomisation()


def test_every_key_of_a_randomisation_has_a_row():
    rows = [line for line in SECTIONS['Randomisation'].splitlines() if line.startswith('| `')]
    shown = {name for row in rows for name in re.findall(r'`(\w+):?`', row.split(' | ')[0])}
    assert shown == {one.name for ranges in (Randomisation, AppearanceRanges) for one in fields(ranges)} - {'seed'}


@pytest.mark.parametrize('words', COMMANDS)
def test_a_command_and_its_options_exist(words):
    verb, *words = words.split()
    if verb in cli._GROUPS:
        cli._mount(verb)
    command = get_command(cli.app).commands[verb]
    while hasattr(command, 'commands') and words:
        command = command.commands[words.pop(0)]
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    assert {word for word in words if word.startswith('--')} <= known


@pytest.mark.parametrize('link', [link for link in LINKS if '://' not in link])
def test_a_link_leads_to_a_file_and_a_heading(link):
    path, _, heading = link.partition('#')
    file = DOCS / path if path else DOCS / 'simulation.md'
    assert file.is_file()
    if heading:
        titles = re.findall(r'^#+ (.*)$', file.read_text(encoding='utf-8'), re.MULTILINE)
        assert heading in {re.sub(r'[^\w\- ]', '', title.lower()).replace(' ', '-') for title in titles}


def test_the_page_has_examples_files_commands_and_links():
    assert len(EXAMPLES) >= 7 and FILES and len(COMMANDS) >= 7 and len(LINKS) >= 7

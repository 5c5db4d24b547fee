"""What docs/simulation.md shows runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.main import get_command

from fpo_ros import cli

PAGE = (Path(__file__).parents[2] / 'docs' / 'simulation.md').read_text(encoding='utf-8')
EXAMPLES = [pytest.param(example, id=section.splitlines()[0]) for section in re.split(r'^## ', PAGE, flags=re.MULTILINE)
            for example in re.findall(r'^```python\n(.*?)^```', section, re.MULTILINE | re.DOTALL)]
COMMANDS = sorted(set(re.findall(r'`fpo-ros ([^`]+)`', PAGE)))


@pytest.mark.parametrize('example', EXAMPLES)
def test_an_example_runs(example):
    exec(compile(example, 'docs/simulation.md', 'exec'), {'__name__': '__main__'})


@pytest.mark.parametrize('words', COMMANDS)
def test_a_command_and_its_options_exist(words):
    verb, *words = words.split()
    if verb in cli._GROUPS:
        cli._mount(verb)
    command = get_command(cli.app).commands[verb]
    while hasattr(command, 'commands'):
        command = command.commands[words.pop(0)]
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    assert {word for word in words if word.startswith('--')} <= known


def test_the_page_has_examples_and_commands():
    assert len(EXAMPLES) >= 7 and len(COMMANDS) >= 7

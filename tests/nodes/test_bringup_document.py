"""What docs/bringup.md says to run exists: options, arguments, parameters, and what its scripts import and call."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from pathlib import Path

import pytest
import typer

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

import fpo_ros  # noqa: E402
from fpo_ros.nodes.cli import app  # noqa: E402
from fpo_ros.nodes.client import EpisodeClient  # noqa: E402
from fpo_ros.nodes.configuration import layered  # noqa: E402
from fpo_ros.nodes.graph import GraphOptions, describe  # noqa: E402

pytestmark = pytest.mark.ros
DOCUMENT = Path(fpo_ros.__file__).parents[1] / 'docs' / 'bringup.md'
if not DOCUMENT.is_file():
    pytest.skip('the documents lie in the checkout', allow_module_level=True)
BLOCKS = re.findall('^```(\\w*)\n(.*?)^```', DOCUMENT.read_text(encoding='utf-8'), flags=re.M | re.S)
LINES = [line for kind, text in BLOCKS if not kind for line in text.splitlines()]


def test_options_of_up_are_known() -> None:
    lines = [shlex.split(line) for line in LINES if line.startswith('fpo-ros up ')]
    assert len(lines) >= 3
    for _, _, mode, *arguments in lines:
        command = typer.main.get_command(app).commands[mode]
        values, rest, _ = command.make_parser(command.make_context(mode, [])).parse_args(arguments)
        assert not rest and values['use_twin'] and values['cell'] == 'cell.yaml'


def test_launch_arguments_are_options_of_the_graph() -> None:
    names = {name for line in LINES if line.startswith('ros2 launch') for name in re.findall(r'(\w+):=', line)}
    assert {'commands', 'cell'} <= names <= set(GraphOptions.__dataclass_fields__)


def test_the_first_days_settings_are_parameters(tmp_path) -> None:
    text, = (text for kind, text in BLOCKS if kind == 'yaml')
    (tmp_path / 'first.yaml').write_text(text)
    controller = layered('real', tmp_path / 'first.yaml')['arm_controller']
    assert controller['reduced_speed'] is True and controller['joint_speed'] == 0.3
    describe(GraphOptions(mode='real', use_twin=True, config=str(tmp_path / 'first.yaml'), commands='log_only'))


@pytest.mark.parametrize('text', [text for kind, text in BLOCKS if kind == 'python'])
def test_scripts_import_and_call_what_there_is(text) -> None:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module)
            assert all(hasattr(module, name.name) for name in node.names), node.module
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == 'client':
            assert hasattr(EpisodeClient, node.attr), node.attr

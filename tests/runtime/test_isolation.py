"""The robot's side runs without torch and without ROS."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import fpo_ros.runtime

BLOCKED = ('torch', 'rclpy', 'onnx', 'onnxscript', 'mujoco')


def test_runtime_imports_and_runs_without_torch_and_ros(tmp_path, make_release):
    modules = sorted(f'fpo_ros.runtime.{file.stem}' for folder in fpo_ros.runtime.__path__
                     for file in Path(folder).glob('*.py') if not file.stem.startswith(('__init__', 'export')))
    assert len(modules) >= 7
    code = f"""
import sys
sys.path[:0] = {[str(Path(fpo_ros.runtime.__path__[0]).parents[1])]!r}
for name in {BLOCKED!r}:
    sys.modules[name] = None  # importing it raises ImportError
import importlib
for name in {modules!r}:
    importlib.import_module(name)
from fpo_ros.runtime.session import PolicySession
print(PolicySession.load({str(make_release(tmp_path))!r}).verify_vectors() < 1e-4)
"""
    done = subprocess.run([sys.executable, '-c', code], check=False, capture_output=True, text=True,
                          timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == 'True'

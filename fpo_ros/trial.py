"""Code that is tried in a process of its own: a faulty driver or library can end the process that loads it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile


def trial(code: str, timeout_s: float = 120.0, **environment: str) -> tuple[bool, str]:
    """Run Python code in a process of its own.

    :param code: prints what it found, or fails.
    :param timeout_s: longest time it may take [s].
    :param environment: variables to set.
    :returns: whether it succeeded, and its last line of output or of the error.
    """
    try:
        with tempfile.TemporaryDirectory() as logs:
            done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, errors='replace',
                                  timeout=timeout_s, check=False,
                                  env={**os.environ, 'ROS_LOG_DIR': logs, **environment})
    except subprocess.TimeoutExpired:
        return False, f'no answer within {timeout_s:g} s'
    if done.returncode == 0:
        return True, (done.stdout.strip().splitlines() or [''])[-1]
    if done.returncode < 0:
        return False, f'crashed with signal {-done.returncode}'
    return False, (done.stderr.strip().splitlines() or [f'exit status {done.returncode}'])[-1]

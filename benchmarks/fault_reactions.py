"""How fast the arms stand when something breaks: ``python benchmarks/fault_reactions.py``.

Runs the fault table of the tests (tests/fault_table.py) on one cell, round after round, and prints for each fault the
time from its begin to the end of the arms' last motion, as the physics of the driver twin have it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / 'tests'))


#: Faults strike anywhere in a swing of the arms to and fro, which takes about so long [s].
SWING_S = 0.5


def summary(rounds: int, measured: dict[str, list[float]], failed: dict[str, list[str]]) -> dict:
    """Return what was measured in the rounds so far."""
    reactions = {name: {'runs': len(times), 'p50_s': round(float(np.median(times)), 3), 'max_s': round(max(times), 3)}
                 for name, times in measured.items() if times}
    return {'machine': platform.platform(), 'cores': os.cpu_count(), 'load': os.getloadavg(), 'rounds': rounds,
            'reactions': reactions, 'failed': failed}


def main() -> int:
    """Measure and print JSON after each round; the exit code is 1 where a row was not as the table says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--rounds', type=int, default=5, help='how often each fault strikes')
    parser.add_argument('--only', default='', help='regular expression of the faults that are measured; empty: all')
    parser.add_argument('--between', type=float, default=0.0, help='rest between two rounds [s]')
    options = parser.parse_args()
    from fpo_ros import gl

    os.environ.setdefault('OMP_NUM_THREADS', '1')
    gl.select_backend()
    from fault_rig import fault_rig
    from fault_table import TABLE, run_row

    rng = np.random.default_rng(0)
    rows = [row for row in TABLE if re.search(options.only, row.name)]
    measured: dict[str, list[float]] = {row.name: [] for row in rows}
    failed: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory(prefix='fpo_ros_faults_') as directory, fault_rig(Path(directory)) as rig:
        for number in range(options.rounds):
            begun = time.monotonic()
            for row in rows:
                try:
                    reaction = run_row(rig, row, float(rng.uniform(0.0, SWING_S)))
                except Exception as error:  # the others are measured still
                    failed.setdefault(row.name, []).append(str(error))
                else:
                    measured[row.name] += [] if reaction is None else [reaction]
            print(f'round {number + 1}: {time.monotonic() - begun:.0f} s, load {os.getloadavg()[0]:.1f}',
                  file=sys.stderr, flush=True)
            print(json.dumps(summary(number + 1, measured, failed), indent=2), flush=True)
            time.sleep(options.between if number + 1 < options.rounds else 0.0)
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())

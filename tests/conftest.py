"""What holds for every test: a ROS domain of its own, rendering without display, few threads, repeatable examples."""

from __future__ import annotations

import importlib.util
import os
import socket

import pytest

from fpo_ros import environment, gl

_others = environment.distributions(os.environ)
if _others:
    pytest.exit(f'{", ".join(_others)} is sourced, which mixes with the wheels of this Python: use make test, '
                'or a shell without it', returncode=4)


def take_domain(callers: str) -> tuple[int, socket.socket]:
    """Take a ROS domain from 1 to 101 that neither the caller nor another test process on this machine uses.

    Taken by a name in the abstract socket namespace, which reaches as far as the ROS domain (one network namespace, all
    users) and is free again as soon as the process ends.

    :param callers: ROS_DOMAIN_ID of the caller.
    :returns: the domain, and the socket that holds it.
    """
    for count in range(101):
        domain = (os.getpid() + count) % 101 + 1
        if str(domain) == callers.strip():
            continue
        holder = socket.socket(socket.AF_UNIX)
        try:
            holder.bind(f'\0fpo_ros test domain {domain}')
        except OSError:
            holder.close()
        else:
            return domain, holder
    raise RuntimeError('all ROS domains from 1 to 101 are taken by tests')


# Set before anything imports rclpy, mujoco or torch; processes that tests start inherit it.
DOMAIN, _holder = take_domain(os.environ.get('ROS_DOMAIN_ID', ''))
os.environ['ROS_DOMAIN_ID'] = str(DOMAIN)
os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
for name in ('ROS_STATIC_PEERS', 'ROS_DISCOVERY_SERVER', 'ROS_LOCALHOST_ONLY'):
    os.environ.pop(name, None)
if os.environ.get('ROS_DISTRO') == 'humble':  # knows no ROS_AUTOMATIC_DISCOVERY_RANGE
    os.environ['ROS_LOCALHOST_ONLY'] = '1'
os.environ.setdefault('OMP_NUM_THREADS', '1')
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')  # threads that wait, sleep
environment.write_below_checkout()
gl.select_backend()

if importlib.util.find_spec('hypothesis'):
    from hypothesis import HealthCheck, settings

    # The same examples in every run, and no time limit for one: the machine may be busy.
    settings.register_profile('fpo_ros', deadline=None, derandomize=True,
                              suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile('fpo_ros')

HAS_ROS = importlib.util.find_spec('rclpy') is not None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip tests marked ``ros`` where rclpy is not installed; let those of processes have a second try.

    What several processes do on a busy machine is never wholly in a test's hand. The report names what was run again.
    """
    again = config.pluginmanager.hasplugin('rerunfailures')
    for item in items:
        if item.get_closest_marker('ros') and not HAS_ROS:
            item.add_marker(
                pytest.mark.skip(reason='rclpy is not installed (pip install ".[ros]" or source ROS 2)')
            )
        elif again and any(map(item.get_closest_marker, ('ros', 'cluster'))) and not item.get_closest_marker('once'):
            item.add_marker(pytest.mark.flaky(reruns=1))


@pytest.fixture
def fpo_ros(capsys, monkeypatch):
    """Return a function that runs a command line in this process: exit code, output, errors."""
    from fpo_ros import cli

    monkeypatch.setenv('COLUMNS', '200')

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main([str(argument) for argument in arguments])
        code = end.value.code
        captured = capsys.readouterr()
        return 0 if code is None else code, captured.out, captured.err

    return run

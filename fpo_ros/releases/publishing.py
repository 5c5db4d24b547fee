"""Publishing a trained policy: export, evaluation and signature in one step. Needs torch, but only when called."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from fpo_ros.files import explain
from fpo_ros.releases.errors import ReleaseError
from fpo_ros.releases.gate import check_evaluation
from fpo_ros.releases.keys import load_private_key
from fpo_ros.releases.release import Release
from fpo_ros.releases.store import ReleaseStore


def read_evaluation(path: Path) -> dict[str, Any]:
    """Return an evaluation from the file into which ``fpo-ros eval --json`` was redirected.

    :raises ReleaseError: when it is missing, not one JSON object, or no evaluation.
    """
    try:
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise ReleaseError(f'evaluation {explain(error, path)}: make it with "fpo-ros eval --json"') from error
    except (ValueError, RecursionError) as error:
        raise ReleaseError(f'{path} is not the JSON object that "fpo-ros eval --json" prints: {error}') from error
    check_evaluation(found, str(path))
    return found


def publish_policy(store: ReleaseStore, policy: Path, evaluation: dict[str, Any], private_key: Path, *,
                   parent: str | None, created: str, precision: str = 'float32') -> tuple[Release, float]:
    """Export a torch policy and publish it with its evaluation, signed.

    :param policy: directory of the policy.
    :param evaluation: of this very policy; see :func:`read_evaluation`.
    :param private_key: PEM file.
    :param parent: version it was trained from, None for the first.
    :param created: ISO 8601 time.
    :param precision: see :func:`fpo_ros.runtime.export.write`.
    :returns: the release, and by how much ONNX differs from torch at most [rad, grippers 0..1].
    :raises ReleaseError: when the key or the evaluation does not fit, torch is missing, or publication fails.
    :raises fpo_ros.policy.contract.ContractError: when there is no readable policy.
    :raises fpo_ros.runtime.providers.PolicyError: when the exported graphs do not reproduce the policy.
    """
    key = load_private_key(private_key)
    try:
        from fpo_ros.policy.checkpoint import FlowPolicy
        from fpo_ros.runtime.export import write
        from fpo_ros.runtime.session import PolicySession
    except ImportError as error:
        raise ReleaseError(f'publishing exports the policy, which needs torch and onnx: {error}. Publish on the '
                           'machine that trains') from error
    loaded = FlowPolicy.load(policy)
    task = evaluation.get('task', loaded.contract.task)
    if task != loaded.contract.task:
        raise ReleaseError(f'the evaluation is of task {task}, {policy} does {loaded.contract.task}: '
                           'evaluate this policy')
    evaluated = evaluation.get('policy_sha256', loaded.digest())
    if evaluated != loaded.digest():
        raise ReleaseError(f'the evaluation is of another policy than {policy}: evaluate this one, with '
                           f'"fpo-ros eval --policy {policy} --json"')
    with tempfile.TemporaryDirectory(prefix='fpo_ros-publish-') as staging:
        write(loaded, Path(staging), precision=precision)
        contract = loaded.contract
        del loaded  # a whole pi0 and its graphs need not be in memory together
        difference = PolicySession.load(staging).verify_vectors()
        return store.publish(staging, contract=contract, metrics={'evaluation': evaluation}, parent=parent,
                             private_key=key, created=created), difference

"""``fpo-ros releases``: keys, and publishing, looking into, checking, promoting and rolling back releases."""

from __future__ import annotations

import json
import shlex
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

import typer

from fpo_ros.options import Precision
from fpo_ros.releases.errors import PromotionRefused, ReleaseError
from fpo_ros.releases.gate import DEFAULT_GATE, PromotionGate, evaluation
from fpo_ros.releases.keys import PUBLIC_SUFFIX, generate_keypair, load_trusted_keys
from fpo_ros.releases.publishing import publish_policy, read_evaluation
from fpo_ros.releases.release import Release, load_release
from fpo_ros.releases.store import ReleaseStore

app = typer.Typer(no_args_is_help=True, help="""
Sign, check, promote and roll back releases.

A release is a directory with everything a robot needs to run one
policy, signed with an Ed25519 key. A store holds releases v000001,
v000002 and so on; the one promoted last serves. Robots need the public
key only.""")

StorePath = Annotated[Path, typer.Argument(help='Directory of the release store.', metavar='STORE')]
Version = Annotated[str, typer.Argument(help='Such as v000001.', metavar='VERSION')]
Trusted = Annotated[Path, typer.Option('--trusted', metavar='PATH', help=(
    'Public key file, or directory whose .pub files are all trusted.'))]
AsJson = Annotated[bool, typer.Option('--json', help='Print one JSON object instead of text.')]


@app.command()
def keygen(directory: Annotated[Path, typer.Argument(help='Where the two files go.', metavar='DIRECTORY')],
           name: Annotated[str, typer.Option(help='Names the files NAME.key and NAME.pub.')] = 'release',
           as_json: AsJson = False) -> None:
    """Make a key pair. Existing keys are never overwritten.

    Keep the .key file (mode 0600, no password) where policies are trained;
    copy the .pub file to the machines that run them.

    Example: fpo-ros releases keygen ~/.config/fpo_ros/keys
    """
    pair = generate_keypair(directory, name)
    if as_json:
        _print_json({'private': str(pair.private_path), 'public': str(pair.public_path),
                     'key_id': pair.key_id})
        return
    typer.echo(f'private key {pair.private_path} (keep it secret)')
    typer.echo(f'public key  {pair.public_path} (copy it to the robots)')
    typer.echo(f'key id      {pair.key_id}')


@app.command()
def publish(store: StorePath,
            policy: Annotated[Path, typer.Option('--policy', metavar='DIR', help='Directory of the trained policy.')],
            evaluation_file: Annotated[Path, typer.Option('--evaluation', metavar='FILE', help=(
                'What "fpo-ros eval --json" printed about this policy.'))],
            key: Annotated[Path, typer.Option('--key', metavar='FILE', help='Private key that signs.')],
            parent: Annotated[str | None, typer.Option('--parent', metavar='VERSION', help=(
                'Release it was trained from; the serving one if not given.'))] = None,
            precision: Precision = 'float32', as_json: AsJson = False) -> None:
    """Make a signed release of a trained policy. It serves after promotion only.

    Example: fpo-ros releases publish runs/releases --policy runs/fpo/best --evaluation eval.json --key release.key
    """
    opened = ReleaseStore(store)
    release, difference = publish_policy(opened, policy, read_evaluation(evaluation_file), key,
                                         parent=parent or opened.promoted(),
                                         created=datetime.now(timezone.utc).isoformat(timespec='seconds'),
                                         precision=precision)
    if as_json:
        _print_json({'version': release.version, 'path': str(release.path), 'parent': release.parent,
                     'key_id': release.manifest.key_id, 'manifest_sha256': release.manifest_sha256,
                     'onnx_max_abs_difference': difference})
        return
    typer.echo(f'{release.path}: published, signed by {release.manifest.key_id}; ONNX differs from torch by at most '
               f'{difference:.1e} (rad, grippers 0..1)')
    command = ['fpo-ros', 'releases', 'promote', str(store), release.version, '--trusted',
               str(key.with_suffix(PUBLIC_SUFFIX))]
    typer.echo(f'it serves after: {shlex.join(command)}')


@app.command('list')
def list_(store: StorePath, trusted: Trusted, as_json: AsJson = False) -> None:
    """List releases with their evaluation; the one that serves is marked, what does not verify is named.

    Exit code 1 if a release does not verify.

    Example: fpo-ros releases list runs/demo/releases --trusted runs/demo/keys
    """
    opened, keys = ReleaseStore(store), load_trusted_keys(trusted)
    serving, entries = opened.promoted(), []
    for version in opened.versions():
        entry: dict[str, Any] = {'version': version, 'serves': version == serving, 'problem': None}
        try:
            entry |= _facts(opened.load(version, keys))
        except ReleaseError as error:
            entry['problem'] = str(error)
        entries.append(entry)
    if as_json:
        _print_json({'store': str(store), 'promoted': serving, 'releases': entries})
    else:
        for entry in entries:
            typer.echo(f'{"*" if entry["serves"] else " "} {entry["version"]}  {_line(entry)}')
        typer.echo(f'{len(entries)} releases, ' + (f'{serving} serves' if serving else 'none promoted'))
    if any(entry['problem'] for entry in entries):
        raise typer.Exit(1)


@app.command()
def show(store: StorePath, version: Version, trusted: Trusted, as_json: AsJson = False) -> None:
    """Show one release after verifying it: origin, evaluation, contract, files.

    Example: fpo-ros releases show runs/demo/releases v000002 --trusted runs/demo/keys
    """
    release = ReleaseStore(store).load(version, load_trusted_keys(trusted))
    data = _facts(release) | {
        'path': str(release.path), 'key_id': release.manifest.key_id,
        'manifest_sha256': release.manifest_sha256,
        'metrics': release.metrics, 'contract': release.contract.to_dict(),
        'files': {name: {'size': entry.size, 'sha256': entry.sha256}
                  for name, entry in release.manifest.files.items()}}
    if as_json:
        _print_json({'version': version} | data)
        return
    typer.echo(f'{version}  {release.path}')
    for name in ('created', 'parent', 'key_id', 'manifest_sha256'):
        typer.echo(f'  {name}: {data[name] or "-"}')
    typer.echo(f'  metrics: {json.dumps(release.metrics)}')
    for name, value in data['contract'].items():
        typer.echo(f'  contract {name}: {value}')
    for name, entry in data['files'].items():
        typer.echo(f'  file {name}: {entry["size"]} bytes, sha256 {entry["sha256"]}')


@app.command()
def verify(directory: Annotated[Path, typer.Argument(help='Directory of one release.', metavar='DIRECTORY')],
           trusted: Trusted, as_json: AsJson = False) -> None:
    """Verify signature, digests and contract of one release directory, wherever it lies.

    Example: fpo-ros releases verify runs/demo/releases/v000001 --trusted release.pub
    """
    release = load_release(directory, load_trusted_keys(trusted))
    if as_json:
        _print_json({'version': release.version, 'key_id': release.manifest.key_id,
                     'manifest_sha256': release.manifest_sha256, 'verified': True})
        return
    typer.echo(f'{directory}: {release.version}, {len(release.manifest.files)} files as signed '
               f'by {release.manifest.key_id}')


@app.command()
def promote(store: StorePath, version: Version, trusted: Trusted,
            min_episodes: Annotated[int, typer.Option(
                min=1, help='Fewest evaluated episodes.')] = DEFAULT_GATE.min_episodes,
            max_drop: Annotated[float, typer.Option(
                min=0.0, max=100.0, help='Points [%] the success rate may lie below the serving '
                                         "release's.")] = DEFAULT_GATE.max_drop,
            min_success: Annotated[float, typer.Option(
                min=0.0, max=1.0, help='Lowest success rate, 0 to 1.')] = DEFAULT_GATE.min_success,
            replace_unverified: Annotated[bool, typer.Option('--replace-unverified', help=(
                'If the serving release is missing or does not verify any more, for its key is not trusted now, '
                'compare with nothing and say why.'))] = False,
            as_json: AsJson = False) -> None:
    """Let a release serve, if it verifies and passes the gate; otherwise say why not (exit code 1).

    Example: fpo-ros releases promote runs/demo/releases v000002 --trusted runs/demo/keys
    """
    reasons: list[str] = []
    release = ReleaseStore(store).promote(version, load_trusted_keys(trusted),
                                          PromotionGate(min_episodes, max_drop, min_success),
                                          reasons.append if replace_unverified else None)
    if as_json:
        _print_json({'promoted': release.version, 'manifest_sha256': release.manifest_sha256,
                     'not_compared': reasons[0] if reasons else None})
        return
    for reason in reasons:
        typer.echo(f'compared with nothing: {reason}')
    typer.echo(f'{release.version} serves')


@app.command()
def rollback(store: StorePath, as_json: AsJson = False) -> None:
    """Let the release serve that served before the present one.

    Example: fpo-ros releases rollback runs/demo/releases
    """
    version = ReleaseStore(store).rollback()
    if as_json:
        _print_json({'promoted': version})
        return
    typer.echo(f'{version} serves')


def _facts(release: Release) -> dict[str, Any]:
    try:
        successes, episodes = evaluation(release)
    except PromotionRefused:
        successes = episodes = None
    return {'created': release.manifest.created, 'parent': release.parent, 'task': release.contract.task,
            'observation': release.contract.observation, 'successes': successes, 'episodes': episodes}


def _line(entry: dict[str, Any]) -> str:
    if entry['problem']:
        return f'DOES NOT VERIFY: {entry["problem"]}'
    result = f'{entry["successes"]}/{entry["episodes"]} succeeded' if entry['episodes'] else 'not evaluated'
    return (f'{entry["created"]}  {entry["task"]} ({entry["observation"]})  {result}  '
            f'parent {entry["parent"] or "-"}')


def _print_json(data: dict[str, Any]) -> None:
    typer.echo(json.dumps(data, allow_nan=False))

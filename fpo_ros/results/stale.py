"""What is kept from earlier, and whether it is of what a row asks for now."""

from __future__ import annotations

import json
from dataclasses import MISSING, asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

from fpo_ros import policies
from fpo_ros.files import replace_file
from fpo_ros.policies import names
from fpo_ros.policy.checkpoint import FlowPolicy
from fpo_ros.policy.saving import saving
from fpo_ros.results.rows import Row, Start, recipe_of

#: How a start policy is made, beside it.
START = 'start.json'


class StaleError(ValueError):
    """What is kept was made otherwise than a row asks for; the message says what to remove."""


def differences(stored: dict[str, Any], now: Any, prefix: str = '') -> list[str]:
    """Return where a dataclass differs from what ``asdict`` once made of one, in words.

    Fields that are newer than what is stored do not differ while they have their defaults.
    """
    found, known = [], {field.name: field for field in fields(now)}
    for name, field in known.items():
        value = getattr(now, name)
        if name not in stored:
            default = field.default if field.default_factory is MISSING else field.default_factory()
            if value != default:
                found.append(f'{prefix}{name} was not there, now {_plain(value)}')
        elif is_dataclass(value) and isinstance(stored[name], dict):
            found += differences(stored[name], value, f'{prefix}{name}.')
        elif _plain(value) != stored[name]:
            found.append(f'{prefix}{name} was {stored[name]}, now {_plain(value)}')
    return found + [f'{prefix}{name} was {stored[name]}, which is no setting any more' for name in stored
                    if name not in known]


def _plain(value: Any) -> Any:
    """Return a value as JSON gives it back."""
    return json.loads(json.dumps(value, default=asdict))


def keep_start(start: Start, where: Path) -> None:
    """Write down how a start policy is made, before it is.

    :raises SaveError: when the disk refuses.
    """
    path = where / START
    with saving(path):
        replace_file(path, (json.dumps(asdict(start)) + '\n').encode())


def check_unfinished_start(start: Start, where: Path) -> None:
    """Refuse to go on making a start that was begun otherwise.

    :raises StaleError: saying what to remove.
    """
    path = where / START
    found = differences(json.loads(path.read_text(encoding='utf-8')), start) if path.exists() else []
    if found:
        raise StaleError(f'{where} holds a start that was begun otherwise ({"; ".join(found)}): remove it')


def take_packaged(start: Start, where: Path) -> bool:
    """Copy the policy of the package that was made as a start is, and how it was, where there is one.

    :raises SaveError: when the disk refuses.
    :returns: whether there is one.
    """
    for name in names():
        kept = Path(policies.__file__).parent / name
        if not (kept / START).exists() or differences(json.loads((kept / START).read_text(encoding='utf-8')), start):
            continue
        where.mkdir(parents=True, exist_ok=True)
        with saving(where):
            for path in sorted(kept.iterdir(), reverse=True):  # policy.json, which says that it is whole, at last
                target = where / START if path.name == START else where / 'policy' / path.name
                target.parent.mkdir(exist_ok=True)
                replace_file(target, path.read_bytes())
        return True
    return False


def check_start(start: Start, policy: FlowPolicy, where: Path) -> None:
    """Refuse a start policy that was made otherwise.

    Of one that is older than ``start.json``, contract and sizes must be the ones that are asked for.

    :raises StaleError: saying what to remove.
    """
    path = where / START
    stored = json.loads(path.read_text(encoding='utf-8')) if path.exists() else {
        **asdict(start), 'contract': asdict(policy.contract), 'model': asdict(policy.model.config)}
    found = differences(_plain(stored), start)
    if found:
        raise StaleError(f'{where} holds a start that was made otherwise ({"; ".join(found)}): remove it, and the '
                         'results and runs that began there')


def check_result(known: dict[str, Any], row: Row, start: FlowPolicy | None, path: Path,
                 run: Path | None = None) -> None:
    """Refuse a result of other settings, evaluations or starts than those of its row.

    :param known: what ``path`` holds.
    :param start: the start policy; None where it is not there any more, and nothing needs it.
    :param run: directory of the run, where it is known.
    :raises StaleError: saying what to remove.
    """
    found = differences(known['settings'], row.config())
    if 'start' in known:  # results that are older do not say
        found += differences(known['start'], row.start, 'start.')
    if start is not None and known['start_sha256'] != start.digest():
        found.append(f'it began with policy {known["start_sha256"][:12]}, now {start.digest()[:12]}')
    if known.get('recorded', False) != row.recorded:  # results that are older had none
        found.append(f'recorded successes were {"not " if row.recorded else ""}imitated, now they are'
                     f'{"" if row.recorded else " not"}')
    for name, wanted in (('sampling', row.sampling), ('episodes', row.episodes)):
        other = sorted({str(entry[name]) for entry in known['evaluations'] if entry[name] != wanted})
        if other:
            found.append(f'evaluations with {name} {", ".join(other)}, now {wanted}')
    if known.get('recipe', 0) != recipe_of(row):  # results that are older are of the first
        found.append(f'it was learned by recipe {known.get("recipe", 0)}, now {recipe_of(row)}')
    marks, done = (0, *row.marks), tuple(entry['mark'] for entry in known['evaluations'])
    if done != (marks if known['finished'] else marks[:len(done)]):
        found.append(f'evaluations at {_steps(done)} control steps, now {_steps(marks)}')
    if found:
        raise StaleError(f'{path} is of something else ({"; ".join(found)}): remove it and '
                         f'{run or "its run"} to run it anew')


def _steps(marks: tuple[int, ...]) -> str:
    return ', '.join(f'{mark:,}' for mark in marks) or 'no'

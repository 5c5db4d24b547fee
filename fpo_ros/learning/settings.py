"""Settings of fine-tuning in a YAML file; ``config/fpo.yaml`` shows every key."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import yaml

from fpo_ros.learning.config import CriticConfig, FPOConfig
from fpo_ros.learning.objective import ObjectiveConfig
from fpo_ros.policy.flow import Sampling

#: Keys that hold a mapping, and what it becomes.
_GROUPS = {'critic': CriticConfig, 'objective': ObjectiveConfig, 'sampling': Sampling}
#: What a file of settings cannot hold: it has a file and an option of its own.
_ELSEWHERE = ('randomisation',)


class SettingsError(ValueError):
    """A file of settings cannot be used; the message says where and why."""


def load_settings(path: Path, beside: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the settings of a YAML file, as :func:`with_settings` takes them.

    :param beside: settings that are given otherwise and come before the file's, which may be of use with them alone.
    :raises SettingsError: for a file that cannot be read, and for keys and values that do not exist or are of no use.
    """
    try:
        found = yaml.safe_load(Path(path).read_text(encoding='utf-8'))
    except OSError as error:
        raise SettingsError(f'{path}: {error.strerror}') from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f'{path} is not YAML: {" ".join(str(error).split())}') from error
    if found is not None and not isinstance(found, dict):
        raise SettingsError(f'{path} must hold settings by name, not {type(found).__name__}')
    found = found or {}
    try:
        with_settings(FPOConfig(), found)
    except ValueError as error:
        try:
            with_settings(FPOConfig(), found | (beside or {}))
        except ValueError:
            raise SettingsError(f'{path}: {error}') from error
    return found


def with_settings(config: FPOConfig, given: dict[str, Any]) -> FPOConfig:
    """Return settings with some changed.

    :param given: new values by name; those of ``critic``, ``objective`` and ``sampling`` by name in a mapping.
    :raises ValueError: naming a key that does not exist or a value that cannot be.
    """
    changes = dict(given)
    _check_keys(changes, FPOConfig, '')
    for name in changes.keys() & _GROUPS.keys():
        if not isinstance(changes[name], dict):
            raise ValueError(f'{name} must hold settings by name, got {changes[name]!r}')
        _check_keys(changes[name], _GROUPS[name], f'{name}.')
        changes[name] = _made(lambda name=name: replace(getattr(config, name), **changes[name]), name)
    return _made(lambda: replace(config, **changes), 'the settings')


def _made(make: Any, what: str) -> Any:
    try:
        return make()
    except TypeError as error:
        raise ValueError(f'{what}: a value of the wrong type ({error})') from error


def _check_keys(given: dict[str, Any], kind: type, prefix: str) -> None:
    known = {field.name: field.type for field in fields(kind) if field.name not in _ELSEWHERE}
    for name, value in given.items():
        if name not in known:
            raise ValueError(f"unknown setting '{prefix}{name}': known are {', '.join(known)}")
        plain = known[name].split(' | ')
        if plain[0].startswith('tuple'):
            if not (isinstance(value, (list, tuple)) and _only_numbers(value)):
                raise ValueError(f'{prefix}{name} must be a list of numbers, got {value!r}')
            continue
        wanted = {'int': int, 'float': (int, float), 'str': str, 'None': type(None)}
        kinds = tuple(entry for part in plain for entry in _as_tuple(wanted.get(part, object)))
        if not isinstance(value, kinds) or isinstance(value, bool):
            hint = ' (write 1.0e-4: YAML takes 1e-4 for text)' if float in kinds and _is_number(value) else ''
            raise ValueError(f'{prefix}{name} must be {" or ".join(plain)}, got {value!r}{hint}')


def _only_numbers(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_only_numbers, value))
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _as_tuple(kind: Any) -> tuple[type, ...]:
    return kind if isinstance(kind, tuple) else (kind,)


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return isinstance(value, str)

"""What a motor file of interbotix_xs_sdk gives its driver, as far as others must know it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from fpo_ros.hardware.documents import read_yaml
from fpo_ros.hardware.xs import Linkage
from fpo_ros.policy.contract import ARM_JOINTS

#: Registers with the smallest and the largest goal that a servo takes, in counts of this many.
_LIMITS, _LAST_COUNT = ('Min_Position_Limit', 'Max_Position_Limit'), 4095


def linkage_of_file(path: str | Path) -> Linkage:
    """Return the gripper's linkage.

    :raises ValueError: naming the file and what it lacks.
    """
    document = read_yaml(path, ValueError, 'the motor file')
    try:
        values = document['grippers']['gripper']
        if not isinstance(values, Mapping):
            raise TypeError('grippers.gripper holds no keys')
        return Linkage(float(values['horn_radius']), float(values['arm_length']))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f'the motor file {path} has no horn_radius and arm_length of grippers.gripper [m]: '
                         f'{error!r}') from error


def position_counts_of_file(path: str | Path, stock: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the smallest and largest goal that each of the six joints' servos takes [counts].

    The driver writes them to the servos, which ignore goals beyond without a word.

    :param stock: those of the joints, in their order, where the file says nothing; further motors are passed over.
    :raises ValueError: naming the file, the motor and what is wrong.
    """
    document = read_yaml(path, ValueError, 'the motor file')
    motors = document.get('motors') if isinstance(document, Mapping) else None
    found = []
    for joint, known in zip(ARM_JOINTS, stock, strict=False):
        motor = motors.get(joint) if isinstance(motors, Mapping) else None
        motor = motor if isinstance(motor, Mapping) else {}
        low, high = (motor.get(name, value) for name, value in zip(_LIMITS, known, strict=True))
        wrong = not all(type(value) is int and 0 <= value <= _LAST_COUNT for value in (low, high))
        if wrong or low >= high:
            raise ValueError(f"the motor file {path}: {joint}'s {' and '.join(_LIMITS)} are {low!r} and {high!r}: two "
                             f'counts from 0 to {_LAST_COUNT} are needed, the smaller first')
        found.append((low, high))
    return found


def position_counts_of_text(text: str, what: str) -> list[tuple[int, int]]:
    """Return the smallest and largest goal of the six joints' servos, of twelve counts with commas between.

    :param what: the text is, for the message.
    :raises ValueError: for anything else.
    """
    words = [word.strip() for word in text.split(',')]
    counts = [int(word) for word in words if word.isdecimal() and int(word) <= _LAST_COUNT]
    pairs = list(zip(counts[::2], counts[1::2], strict=False))
    if len(words) != 2 * len(ARM_JOINTS) or len(counts) != len(words) or any(low >= high for low, high in pairs):
        raise ValueError(f"{what} is '{text}': give twelve counts from 0 to {_LAST_COUNT}, of each joint from the "
                         'waist on the smallest and then the largest')
    return pairs


def text_of_position_counts(counts: Iterable[tuple[int, int]]) -> str:
    """Return counts as :func:`position_counts_of_text` reads them."""
    return ', '.join(str(count) for pair in counts for count in pair)

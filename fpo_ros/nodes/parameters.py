"""Parameters of a node as one frozen dataclass: declared with text, unit and range, read back as a value."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor

T = TypeVar('T')


def param(default: Any, description: str, *, low: float | None = None, high: float | None = None,
          choices: tuple[str, ...] = ()) -> Any:
    """Return a dataclass field that is a ROS parameter, fixed once the node is configured.

    :param default: value when none is given; its type is the parameter's type.
    :param description: one sentence, with the unit in brackets.
    :param low: smallest value allowed; numbers need both ends.
    :param high: largest value allowed.
    :param choices: texts allowed.
    """
    if isinstance(default, (int, float)) and not isinstance(default, bool) and (low is None or high is None):
        raise TypeError(f"number parameter '{description}' needs a range")
    if low is not None and not low <= default <= high:
        raise ValueError(f"default {default} of '{description}' lies outside {low}..{high}")
    return dataclasses.field(default=default, metadata={
        'description': description, 'low': low, 'high': high, 'choices': choices})


def descriptor(field: dataclasses.Field) -> ParameterDescriptor:
    """Return the descriptor of one field made by :func:`param`."""
    meta, out = field.metadata, ParameterDescriptor(name=field.name)
    out.description = meta['description']
    if meta['choices']:
        out.additional_constraints = 'one of: ' + ', '.join(meta['choices'])
    if isinstance(field.default, bool) or isinstance(field.default, str):
        return out
    if isinstance(field.default, int):
        out.integer_range = [IntegerRange(from_value=int(meta['low']), to_value=int(meta['high']), step=0)]
    else:
        out.floating_point_range = [
            FloatingPointRange(from_value=float(meta['low']), to_value=float(meta['high']), step=0.0)]
    return out


def declare(node: Any, table: type) -> None:
    """Declare every field of a parameter dataclass on a node.

    :raises rclpy.exceptions.InvalidParameterValueException: if an override lies outside its range.
    """
    for field in dataclasses.fields(table):
        node.declare_parameter(field.name, field.default, descriptor(field))


def read(node: Any, table: type[T]) -> T:
    """Return the values of all parameters of a dataclass.

    :raises ValueError: naming the parameter and its choices.
    """
    values = {}
    for field in dataclasses.fields(table):
        value = node.get_parameter(field.name).value
        choices = field.metadata['choices']
        if choices and value not in choices:
            raise ValueError(f"parameter {field.name} is '{value}': use one of {', '.join(choices)}")
        values[field.name] = value
    return table(**values)

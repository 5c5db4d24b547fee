"""Motor currents and registers as interbotix_xs_sdk reports them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fpo_ros.hardware.names import JOINT_STATE_NAMES
from fpo_ros.hardware.xs import errors_of

#: Motors of a follower, in the order of joint_states and of the group "all".
MOTORS = JOINT_STATE_NAMES[:7]
#: Registers of a servo's temperature [degrees Celsius], and of why it switched its torque off, 0 while it did not
#: (ROBOTIS e-manual; upper and lower case count).
TEMPERATURE_REGISTER, ERROR_REGISTER = 'Present_Temperature', 'Hardware_Error_Status'


def side_currents(names: Sequence[str], effort: Sequence[float]) -> np.ndarray:
    """Return the (7,) motor currents of one follower [mA]; NaN where the driver reports none, as xs_sdk_sim does.

    :param names: joint names of the message; empty is read as the driver's usual order.
    :param effort: its efforts: signed motor currents [mA].
    """
    names = names if len(names) else JOINT_STATE_NAMES
    known = dict(zip(names, effort, strict=False))
    return np.array([known.get(motor, np.nan) for motor in MOTORS], np.float64)


def side_registers(register: str, values: Sequence[int]) -> np.ndarray:
    """Return the (7,) values of a register of one follower from a reading of the group "all".

    :raises ValueError: where the driver did not read all seven motors, and for 0 degrees Celsius, which is what the
        driver leaves of a motor that it cannot read.
    """
    if len(values) != len(MOTORS):
        raise ValueError(f'{register} of {len(values)} motors came, of {len(MOTORS)} expected')
    if register == TEMPERATURE_REGISTER:
        unread = [motor for motor, value in zip(MOTORS, values, strict=True) if value == 0]
        if unread:
            raise ValueError(f'{" and ".join(unread)} could not be read: check the cables')
    return np.asarray(values, np.float64)


def error_words(status: np.ndarray) -> tuple[str, ...]:
    """Return why each motor has switched its torque off, in words; empty where it has not.

    :param status: (n,) Hardware_Error_Status; NaN where unknown.
    """
    return tuple('' if not value > 0 else ', '.join(errors_of(int(value))) or f'error status {value:g}'
                 for value in status)

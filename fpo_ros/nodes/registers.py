"""Reads registers of the motors now and then: drivers publish neither temperatures nor what made a motor shut down."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from interbotix_xs_msgs.srv import RegisterValues

from fpo_ros.hardware.currents import side_registers
from fpo_ros.hardware.names import FOLLOWERS, SIDES

#: A reading older than so many periods is none.
_PERIODS = 3


class RegisterReadings:
    """Asks both followers' drivers in turn; a driver that does not answer leaves its motors unknown.

    A reading of seven motors keeps the driver's bus for some milliseconds, so seconds lie between two.

    :param node: whose clients and timer these are.
    :param register: its name, such as Present_Temperature.
    :param period_s: time between two readings [s].
    """

    def __init__(self, node: Any, register: str, period_s: float) -> None:
        self.register = register
        self._node, self._limit_ns = node, int(_PERIODS * period_s * 1e9)
        self._readings: dict[str, tuple[int, np.ndarray]] = {}
        self._asked: dict[str, tuple[int, Any]] = {}
        self._clients = {side: node.add_client(RegisterValues, f'{FOLLOWERS[side]}/get_motor_registers')
                         for side in SIDES}
        self._request = RegisterValues.Request(cmd_type='group', name='all', reg=register)
        node.add_timer(period_s, self._ask)

    def newest(self) -> np.ndarray:
        """Return (14,) values of the register; NaN where none was read lately."""
        out, now = np.full((len(SIDES), 7), np.nan), self._node.steady_ns()
        for number, side in enumerate(SIDES):
            stamp, values = self._readings.get(side, (0, None))
            if values is not None and now - stamp <= self._limit_ns:
                out[number] = values
        return out.ravel()

    def _ask(self) -> None:
        now = self._node.steady_ns()
        for side, client in self._clients.items():
            asked, future = self._asked.get(side, (0, None))
            if future is not None and not future.done():
                if now - asked <= self._limit_ns:
                    continue
                client.remove_pending_request(future)
                self._log(side, f'no answer for {(now - asked) * 1e-9:.0f} s')
            if not client.service_is_ready():
                self._log(side, 'its driver offers no get_motor_registers')
                continue
            future = client.call_async(self._request)
            self._asked[side] = now, future
            future.add_done_callback(partial(self._on_values, side))

    def _on_values(self, side: str, future: Any) -> None:
        if future.cancelled():
            return
        try:
            values = side_registers(self.register, future.result().values)
        except ValueError as error:
            self._log(side, str(error))
            return
        self._readings[side] = self._node.steady_ns(), values

    def _log(self, side: str, text: str) -> None:
        self._node.get_logger().warning(f'{self.register} of follower {side} is not known: {text}',
                                        throttle_duration_sec=30.0)

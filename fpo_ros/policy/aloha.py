"""ALOHA joints and grippers as pi0's base weights know them (openpi policies/aloha_policy.py, ``adapt_to_pi``).

Physical Intelligence's own arms turn shoulder and elbow the other way, and measure grippers as an angle. A state's
gripper is a normalised angle, an action's an angle less an offset: the two differ on purpose. Columns are those of
:data:`fpo_ros.policy.contract.JOINT_NAMES`, grippers 0 closed to 1 open on the cell's side; numpy only.
"""

from __future__ import annotations

import numpy as np

from fpo_ros.policy.contract import ACTION_DIM, GRIPPER_COLUMNS

#: Signs of the columns.
SIGNS = np.array([1, -1, -1, 1, 1, 1, 1] * 2, np.float32)
#: Travel of a finger, closed and open [m], of ALOHA's first generation.
FINGER_M = (0.01844, 0.05800)
#: Horn and arm of the gripper's crank [m].
HORN_M, ARM_M = 0.022, 0.036
#: Angle of pi's gripper at its encoder's ends, counts 2405 and 3110 of 4096 with zero at 2048 [rad].
PI_ANGLES = (0.5476, 1.6296)
#: Gripper joint of ALOHA's follower, closed and open [rad].
FOLLOWER_JOINT = (-0.6213, 1.4910)

_GRIPPERS = list(GRIPPER_COLUMNS)
#: Columns that a relative action counts from the state; grippers stay absolute.
ARM_COLUMNS = [column for column in range(ACTION_DIM) if column not in GRIPPER_COLUMNS]


def state_to_pi(joints: np.ndarray) -> np.ndarray:
    """Return (..., 14) joints as pi0 sees them, float32."""
    seen = np.asarray(joints, np.float32) * SIGNS
    finger = joints[..., _GRIPPERS] * (FINGER_M[1] - FINGER_M[0]) + FINGER_M[0]
    sine = (HORN_M ** 2 + finger ** 2 - ARM_M ** 2) / (2 * HORN_M * finger)
    seen[..., _GRIPPERS] = (np.arcsin(np.clip(sine, -1, 1)) - PI_ANGLES[0]) / (PI_ANGLES[1] - PI_ANGLES[0])
    return seen


def action_to_pi(targets: np.ndarray) -> np.ndarray:
    """Return (..., 14) targets of the cell as pi0 commands them: the inverse of :func:`action_from_pi`."""
    commanded = np.asarray(targets, np.float32) * SIGNS
    closed, opened = FOLLOWER_JOINT
    commanded[..., _GRIPPERS] = targets[..., _GRIPPERS] * (opened - closed) + closed - PI_ANGLES[0]
    return commanded


def action_from_pi(commanded: np.ndarray) -> np.ndarray:
    """Return the (..., 14) targets of the cell that pi0's actions mean [rad, grippers 0..1]."""
    targets = np.asarray(commanded, np.float32) * SIGNS
    closed, opened = FOLLOWER_JOINT
    targets[..., _GRIPPERS] = (commanded[..., _GRIPPERS] + PI_ANGLES[0] - closed) / (opened - closed)
    return targets

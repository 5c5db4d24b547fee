"""The joints of one arm in MuJoCo, driven as its motors say and read as its motors measure."""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np

from fpo_ros.sim.model import TaskModel
from fpo_ros.sim.robots import Robot
from fpo_ros.sim.twin.gripper import TwinGripper
from fpo_ros.sim.twin.motors import OFF, POSITION, TORQUE, Drive, Measured

#: Friction [N m] and damping [N m s/rad] of a joint whose motor is not a stiff position servo, chosen so that an arm
#: without torque falls within a second or two. gym-aloha's 30 to 60 N m of friction would carry the arm.
_LOOSE_FRICTION = np.array([0.3, 0.3, 0.3, 0.05, 0.05, 0.02])
_LOOSE_DAMPING = np.array([1.0, 1.0, 1.0, 0.05, 0.05, 0.02])
#: The same of a finger [N, N s/m].
_LOOSE_FINGER = 1.0, 5.0
#: Damping of a position servo whose torque is limited [N m s/rad], in multiples of the above.
_COMPLIANT = 4.0


@dataclass(frozen=True)
class ArmColumns:
    """Where an arm is in a model: six joints, then the two fingers.

    :param qpos: (8,) columns in the positions.
    :param dofs: (8,) in the velocities.
    :param ctrl: (8,) in the controls.
    """

    qpos: np.ndarray
    dofs: np.ndarray
    ctrl: np.ndarray

    @classmethod
    def of(cls, model: TaskModel, side: int) -> ArmColumns:
        """Return those of the left (0) or right (1) arm of a task's model."""
        return cls(np.append(model.arm_qpos[side], model.finger_qpos[side]),
                   np.append(model.arm_dofs[side], model.finger_dofs[side]),
                   np.append(model.arm_ctrl[side], model.finger_ctrl[side]))


class ArmPlant:
    """One arm in a model.

    :param mj: of the world; actuators, friction and damping of this arm change in it.
    :param data: of the world.
    :param columns: where the arm is in the model.
    :param robot: signs and ends of its fingers.
    :param gripper: between motor and fingers.
    """

    def __init__(self, mj: mujoco.MjModel, data: mujoco.MjData, columns: ArmColumns, robot: Robot,
                 gripper: TwinGripper) -> None:
        self._mj, self._data, self._robot, self._gripper = mj, data, robot, gripper
        self._qpos, self._dofs, self._ctrl = columns.qpos, columns.dofs, columns.ctrl
        self._stiff = {name: getattr(mj, name).copy() for name in (
            'actuator_gainprm', 'actuator_biasprm', 'actuator_forcerange', 'actuator_forcelimited',
            'dof_frictionloss', 'dof_damping')}
        self._range = mj.actuator_ctrlrange[self._ctrl].copy()
        #: (8,) which motor drives which joint; both fingers have the gripper's.
        self._motor = np.array([0, 1, 2, 3, 4, 5, 6, 6])
        self._last: tuple[bytes, ...] = ()

    def positions(self) -> np.ndarray:
        """Return the (7,) angles of the motors [rad]."""
        qpos = self._data.qpos[self._qpos[:7]]
        qpos[6] = self._gripper.motor_angle(float(self._robot.gripper_of(qpos[6])))
        return qpos

    def measure(self) -> Measured:
        """Return angles, velocities and torques of the motors."""
        data = self._data
        qpos, qvel = data.qpos[self._qpos], data.qvel[self._dofs]
        force = data.actuator_force[self._ctrl] + self._friction()
        angle = self._gripper.motor_angle(float(self._robot.gripper_of(qpos[6])))
        rate = self._metres_per_radian(angle)
        # One motor moves two fingers, the second against the direction of its joint.
        grip = rate * (force[6] - force[7])
        return Measured(np.append(qpos[:6], angle), np.append(qvel[:6], qvel[6] / rate), np.append(force[:6], grip))

    def _metres_per_radian(self, angle: float) -> float:
        return self._gripper.rate(angle) * (self._robot.finger_open_m - self._robot.finger_close_m)

    def _friction(self) -> np.ndarray:
        """Return the (8,) forces of joint friction, which no real motor feels [N m, N]."""
        data = self._data
        kinds = np.asarray(data.efc_type[:data.nefc]) == mujoco.mjtConstraint.mjCNSTR_FRICTION_DOF
        forces = np.zeros(self._mj.nv)
        forces[data.efc_id[:data.nefc][kinds]] = data.efc_force[:data.nefc][kinds]
        return forces[self._dofs]

    def apply(self, drive: Drive) -> None:
        """Set what the actuators do until the next call."""
        self._set_controls(drive)
        key = tuple(part.tobytes() for part in (drive.kinds, drive.limits, drive.damping, drive.gains)) + (
            (drive.values * (drive.kinds == TORQUE)).tobytes(),)
        if self._gripper.linkage is not None and np.isfinite(drive.limits[6]):
            key += (round(float(self._data.qpos[self._qpos[6]]), 3),)  # its crank turns torque into changing forces
        if key == self._last:
            return
        self._last = key
        for row in range(8):
            self._set_actuator(row, drive)

    def _set_controls(self, drive: Drive) -> None:
        values = drive.values
        targets = np.where(drive.kinds == POSITION, values, 0.0)
        controls = np.empty(8)
        controls[:6] = targets[:6]
        finger = self._robot.finger_of(self._gripper.normalised(float(targets[6])))
        controls[6:] = np.array(self._robot.finger_signs) * finger
        self._data.ctrl[self._ctrl] = np.clip(controls, self._range[:, 0], self._range[:, 1])

    def _set_actuator(self, row: int, drive: Drive) -> None:
        mj, control, dof, motor = self._mj, self._ctrl[row], self._dofs[row], self._motor[row]
        for name, stiff in self._stiff.items():
            where = dof if name.startswith('dof') else control
            getattr(mj, name)[where] = stiff[where]
        kind, limit, gain = drive.kinds[motor], drive.limits[motor], drive.gains[motor]
        if kind == POSITION and gain != 1.0:
            mj.actuator_gainprm[control, 0] *= gain
            mj.actuator_biasprm[control, 1] *= gain
        scale = 1.0 if row < 6 else self._finger_scale(row)
        force = limit * abs(scale) / (1 if row < 6 else 2)
        # The gripper's servo of training gives less than the motor may: it moves as there.
        if kind == POSITION and force >= mj.actuator_gainprm[control, 0] * np.ptp(self._range[row]):
            return
        friction, damping = ((_LOOSE_FRICTION[row], _LOOSE_DAMPING[row]) if row < 6 else _LOOSE_FINGER)
        mj.dof_frictionloss[dof] = min(friction, mj.dof_frictionloss[dof])
        mj.dof_damping[dof] = damping * (_COMPLIANT if kind == POSITION else 1.0) + drive.damping[motor] * scale**2 / (
            1 if row < 6 else 2)
        if kind == POSITION:
            mj.actuator_forcelimited[control] = 1
            mj.actuator_forcerange[control] = -force, force
            return
        mj.actuator_gainprm[control], mj.actuator_biasprm[control] = 0.0, 0.0
        if kind == TORQUE:
            mj.actuator_forcelimited[control] = 0
            mj.actuator_biasprm[control, 0] = drive.values[motor] * scale / (1 if row < 6 else 2)
        else:
            assert kind == OFF

    def _finger_scale(self, row: int) -> float:
        """Return the motion of the motor per motion of a finger [rad/m], signed as the finger's joint is."""
        angle = self._gripper.motor_angle(float(self._robot.gripper_of(self._data.qpos[self._qpos[6]])))
        return self._robot.finger_signs[row - 6] / self._metres_per_radian(angle)

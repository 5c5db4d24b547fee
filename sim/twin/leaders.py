"""Two leaders that a simulated operator moves: arms of vx300s's links with the joint limits of the wx250s.

gym-aloha has no model of the wx250s (650 mm reach, lighter motors): joint angles are what matters of a leader, and
those are alike. The leaders stand apart from the followers and touch nothing, so they have a model of their own.
"""

from __future__ import annotations

import mujoco
import numpy as np

from fpo_ros.hardware import xs
from fpo_ros.hardware.gripper import GripperCalibration
from fpo_ros.policy.contract import SIDES
from fpo_ros.sim.model import task_xml
from fpo_ros.sim.robots import VX300S
from fpo_ros.sim.task import TRANSFER_CUBE
from fpo_ros.sim.twin.gripper import TwinGripper
from fpo_ros.sim.twin.plant import ArmColumns, ArmPlant

#: Position servos of a leader: gain [N m/rad] and damping [N m s/rad] of the joints, gain [N/m] and damping of fingers.
_KP, _KV = (400.0, 400.0, 400.0, 40.0, 40.0, 40.0), (20.0, 20.0, 20.0, 0.8, 0.8, 0.8)
_FINGER_KP, _FINGER_KV = 200.0, 10.0
#: Joint friction [N m] and that of a finger [N].
_FRICTION, _FINGER_FRICTION = (0.2, 0.2, 0.2, 0.03, 0.03, 0.02), 0.5
#: The hand: gains as above and the largest torque with which it pulls at a joint [N m], and at a finger [N].
_HAND_KP, _HAND_KV, _HAND_MOST = (60.0, 60.0, 60.0, 6.0, 6.0, 6.0), (6.0, 6.0, 6.0, 0.3, 0.3, 0.2), 4.0
_HAND_FINGER_MOST = 6.0
#: How far a finger travels beyond open and closed [m].
_BEYOND_M = 0.004
#: Where an aloha_wx250s's gripper motor is open and closed (aloha/constants.py LEADER_GRIPPER_JOINT_*) [rad], and its
#: fingers by its own linkage [m].
OPEN_RAD, CLOSED_RAD = 0.8298, -0.0552


class LeaderWorld:
    """Both leaders, without anything around them, at rest in their sleep pose."""

    def __init__(self) -> None:
        linkage = xs.LEADER.linkage
        closed, opened = (max(linkage.finger(angle), 0.0) for angle in (CLOSED_RAD, OPEN_RAD))
        self.gripper = TwinGripper(GripperCalibration(OPEN_RAD, CLOSED_RAD), (closed, opened))
        self.mj = _spec().compile()
        self.data = mujoco.MjData(self.mj)
        self._columns = [_columns(self.mj, side) for side in SIDES]
        self.plants = {side: ArmPlant(self.mj, self.data, columns, VX300S, self.gripper)
                       for side, columns in zip(SIDES, self._columns, strict=True)}
        self._hands = [[self.mj.actuator(f'{side}/hand/{row}').id for row in range(8)] for side in SIDES]
        self._bodies = [[body for body in range(self.mj.nbody) if self.mj.body(body).name.startswith(f'vx300s_{side}')]
                        for side in SIDES]
        self._gains = self.mj.actuator_gainprm.copy(), self.mj.actuator_biasprm.copy()
        for index, side in enumerate(SIDES):
            self.pull(side, {})
            joints = np.array(xs.LEADER.sleep)
            finger = VX300S.finger_of(self.gripper.normalised(joints[6]))
            self.data.qpos[self._columns[index].qpos] = [*joints[:6], *(sign * finger for sign in VX300S.finger_signs)]
        mujoco.mj_forward(self.mj, self.data)

    def pull(self, side: str, joints: dict[int, float]) -> None:
        """Let the hand pull at some of seven motors [rad]; it carries the arm's weight while it holds any."""
        index = SIDES.index(side)
        self.mj.body_gravcomp[self._bodies[index]] = 1.0 if joints else 0.0
        for row, actuator in enumerate(self._hands[index]):
            held = min(row, 6) in joints
            self.mj.actuator_gainprm[actuator] = self._gains[0][actuator] if held else 0.0
            self.mj.actuator_biasprm[actuator] = self._gains[1][actuator] if held else 0.0
            if held and row < 6:
                self.data.ctrl[actuator] = joints[row]
            elif held:
                finger = VX300S.finger_of(self.gripper.normalised(joints[6]))
                self.data.ctrl[actuator] = VX300S.finger_signs[row - 6] * finger

    def step(self, substeps: int) -> None:
        """Advance by a number of physics steps."""
        mujoco.mj_step(self.mj, self.data, substeps)
        mujoco.mj_forward(self.mj, self.data)


def _spec() -> mujoco.MjSpec:
    """Return the model: gym-aloha's two arms alone, with the leaders' limits, motors and hands."""
    spec = mujoco.MjSpec.from_file(str(task_xml(TRANSFER_CUBE.name)))
    arms = {VX300S.arm_body.format(side=side) for side in SIDES}
    for body in [body for body in spec.worldbody.bodies if body.name not in arms]:
        spec.delete(body)
    for kind in ('geoms', 'keys', 'actuators', 'cameras'):
        for one in list(getattr(spec, kind)):
            spec.delete(one)
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    for body in spec.bodies:
        body.gravcomp = 1.0  # the model must be compiled with it; whoever holds the arm switches it
    for side in SIDES:
        _motorise(spec, side)
    return spec


def _columns(mj: mujoco.MjModel, side: str) -> ArmColumns:
    joints = [mj.joint(name) for name in (*VX300S.arm_joints(side), *VX300S.finger_joints(side))]
    return ArmColumns(np.array([int(joint.qposadr[0]) for joint in joints]),
                      np.array([int(joint.dofadr[0]) for joint in joints]),
                      np.array([mj.actuator(f'{side}/motor/{row}').id for row in range(8)]))


def _motorise(spec: mujoco.MjSpec, side: str) -> None:
    names = (*VX300S.arm_joints(side), *VX300S.finger_joints(side))
    for row, name in enumerate(names):
        joint, arm = spec.joint(name), row < 6
        if arm:
            joint.range = xs.LEADER.joints[row]
        else:  # beyond both ends, which gym-aloha's fingers do not reach
            ends = sorted(VX300S.finger_signs[row - 6] * end for end in (VX300S.finger_close_m, VX300S.finger_open_m))
            joint.range = ends[0] - _BEYOND_M, ends[1] + _BEYOND_M
        # What moves with a finger weighs some 35 g; the gear's inertia keeps the servo stable.
        joint.armature = (0.02 if row < 3 else 0.003) if arm else 0.1
        joint.frictionloss = _FRICTION[row] if arm else _FINGER_FRICTION
        for purpose, gain, damping, most in (
                ('motor', _KP[row] if arm else _FINGER_KP, _KV[row] if arm else _FINGER_KV, 0.0),
                ('hand', _HAND_KP[row] if arm else _FINGER_KP, _HAND_KV[row] if arm else _FINGER_KV,
                 _HAND_MOST if arm else _HAND_FINGER_MOST)):
            actuator = spec.add_actuator(name=f'{side}/{purpose}/{row}', target=name,
                                         trntype=mujoco.mjtTrn.mjTRN_JOINT)
            actuator.set_to_position(kp=gain, kv=damping)
            actuator.ctrlrange = joint.range
            if most:
                actuator.forcelimited, actuator.forcerange = True, (-most, most)

"""Randomisations for tests, and models of episodes compiled anew by MuJoCo."""

from __future__ import annotations

import mujoco
import numpy as np

from fpo_ros.policy.contract import START_JOINTS
from fpo_ros.policy.limits import JointLimits
from fpo_ros.sim.model import TaskModel, load_model, task_xml
from fpo_ros.sim.randomisation import EpisodeParameters, Randomisation

#: Physics of their own for every world.
PHYSICS = Randomisation(
    actuator_gain=(0.7, 1.4), joint_damping=(0.0, 4.0), joint_friction=(0.5, 1.5), contact_friction=(0.5, 1.5),
    object_mass=(0.5, 2.0), object_size=(0.8, 1.2))
#: Everything that changes trajectories or measurements.
ALL = Randomisation(
    actuator_gain=(0.8, 1.2), joint_damping=(0.0, 1.0), joint_friction=(0.8, 1.2), contact_friction=(0.7, 1.3),
    object_mass=(0.5, 2.0), object_size=(0.9, 1.1), object_offset_m=(-0.01, 0.01), object_yaw_rad=(-0.3, 0.3),
    action_latency_s=(0.0, 0.05), joint_latency_s=(0.0, 0.07), camera_drop_probability=(0.2, 0.6),
    camera_latency_s={'cam_high': (0.0, 0.09), 'cam_low': (0.1, 0.1)}, joint_offset_rad=(-0.02, 0.02),
    joint_noise_rad=(0.001, 0.01))


def wander(worlds: int, steps: int, seed: int = 0) -> np.ndarray:
    """Return (worlds, steps, 14) random targets within the limits."""
    rng = np.random.default_rng(seed)
    targets = START_JOINTS + np.cumsum(rng.normal(0, 0.03, (worlds, steps, 14)), 1)
    return JointLimits().apply(np.tile(START_JOINTS, (worlds, 1)), targets, 0.02)


def compiled(task: str, drawn: EpisodeParameters) -> mujoco.MjModel:
    """Return the model of an episode, its XML changed and compiled by MuJoCo."""
    plain, spec = load_model(task), mujoco.MjSpec.from_file(str(task_xml(task)))
    for side, name in enumerate(('left', 'right')):
        for kind, columns in ((plain.robot.arm_joints(name), range(7 * side, 7 * side + 6)),
                              (plain.robot.finger_joints(name), [7 * side + 6] * 2)):
            for joint, column in zip(kind, columns, strict=True):
                spec.joint(joint).frictionloss *= drawn.joint_friction[column]
                damping = np.array(spec.joint(joint).damping, float)
                damping.flat[0] += drawn.joint_damping[column]  # newer versions have a polynomial of the speed
                spec.joint(joint).damping = damping if damping.ndim else float(damping)
                [actuator] = [one for one in spec.actuators if one.target == joint]
                gain, bias = np.array(actuator.gainprm), np.array(actuator.biasprm)
                gain[0], bias[1] = gain[0] * drawn.actuator_gain[column], bias[1] * drawn.actuator_gain[column]
                actuator.gainprm, actuator.biasprm = gain, bias
    for geom in spec.geoms:
        geom.friction = np.array(geom.friction) * drawn.contact_friction
    for name, mass in zip(plain.task.objects, drawn.object_mass, strict=True):
        body = spec.body(name)
        body.mass, body.inertia = body.mass * mass, np.array(body.inertia) * (mass * drawn.object_size**2)
        for geom in body.geoms:
            geom.size, geom.pos = np.array(geom.size) * drawn.object_size, np.array(geom.pos) * drawn.object_size
    return TaskModel(plain.task, plain.robot, spec).mj


def stepped(mj: mujoco.MjModel, qpos: np.ndarray, controls: np.ndarray) -> np.ndarray:
    """Return the (T, nq) positions after each of T calls of ``mj_step`` from (nq,) positions with (T, nu) controls."""
    data, out = mujoco.MjData(mj), []
    data.qpos[:] = qpos
    for control in controls:
        data.ctrl[:] = control
        mujoco.mj_step(mj, data)
        out.append(data.qpos.copy())
    return np.array(out)

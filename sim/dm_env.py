"""The tasks for dm_control: an environment with the rules, starts and rewards of all others here, on its physics.

It opens in dm_control's viewer::

    from dm_control import viewer
    from fpo_ros.policy.contract import START_JOINTS
    from fpo_ros.sim.dm_env import load

    viewer.launch(lambda: load('transfer_cube', seed=0), policy=lambda _: START_JOINTS)
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np

try:
    from dm_control import mujoco
    from dm_control.mujoco.wrapper import MjModel
    from dm_control.rl import control
    from dm_env import specs
except ImportError as error:
    raise ImportError(f"fpo_ros.sim.dm_env needs dm_control: pip install 'dm-control>=1.0.30' ({error})") from error

from fpo_ros.policy.contract import ACTION_DIM, GRIPPER_COLUMNS, START_JOINTS
from fpo_ros.sim.actions import check_option, checked_targets
from fpo_ros.sim.model import SUBSTEPS, TaskModel, load_model
from fpo_ros.sim.robots import VX300S
from fpo_ros.sim.scenes import draw_scene
from fpo_ros.sim.task import MAX_STEPS, SUCCESS_STAGE


def load(task: str = 'transfer_cube', seed: int | None = None, *, max_episode_steps: int | None = MAX_STEPS,
         end_on_success: bool = True, robot: str = VX300S.name, out_of_range: str = 'refuse') -> control.Environment:
    """Return an environment of 50 Hz whose ``physics`` is a ``dm_control.mujoco.Physics`` with a model of its own.

    Actions are (14,) absolute joint targets [rad, grippers 0..1]; the reward is the staged one, 0..4. An episode
    ends with discount 0 at success, and with discount 1 at the time limit. Physics that diverges raises dm_control's
    ``PhysicsError``.

    :param task: key of ``TASKS``.
    :param seed: scene of the first episode, and seed of those that follow, as in ``AlohaEnv.reset``; any if None.
    :param max_episode_steps: time limit [control steps]; None for none.
    :param end_on_success: False lets an episode go on behind success, as the stricter rule needs.
    :param robot: key of ``ROBOTS``.
    :param out_of_range: what happens to targets beyond a joint's range: ``'refuse'`` or ``'clip'``.
    :raises ValueError: for an option that is not known, naming those that are.
    """
    if max_episode_steps is not None and max_episode_steps < 1:
        raise ValueError(f'max_episode_steps must be at least 1, or None, got {max_episode_steps}')
    model = load_model(task, robot)
    rules = AlohaTask(model, seed, max_episode_steps, end_on_success, check_option(out_of_range))
    # The model is shared with everything else that uses it, and viewers change theirs.
    physics = mujoco.Physics.from_model(MjModel(model.mj.__copy__()))
    return control.Environment(physics, rules, n_sub_steps=SUBSTEPS)


class AlohaTask(control.Task):
    """Start, targets, observation, reward and end of an episode; :func:`load` says what the parameters mean."""

    def __init__(self, model: TaskModel, seed: int | None, max_episode_steps: int | None, end_on_success: bool,
                 out_of_range: str) -> None:
        self._model, self._cap = model, max_episode_steps
        self._end_on_success, self._out_of_range = end_on_success, out_of_range
        self._next, self._random = seed, np.random.default_rng(seed)
        self._steps = 0
        #: Scene of the episode: the seed that starts it again.
        self.scene = 0

    def initialize_episode(self, physics: mujoco.Physics) -> None:
        """Put arms and objects at their start."""
        self.scene = draw_scene(self._random) if self._next is None else self._next
        self._next, self._steps = None, 0
        physics.data.qpos[:] = self._model.start_qpos(self._model.task.sample_object_pose(self.scene))
        physics.set_control(self._model.controls_of(START_JOINTS))

    def action_spec(self, physics: mujoco.Physics) -> specs.BoundedArray:
        """Return the range of each joint's target [rad, grippers 0..1]."""
        return specs.BoundedArray((ACTION_DIM,), np.float64, self._model.lower, self._model.upper, 'joint targets')

    def before_step(self, action: np.ndarray, physics: mujoco.Physics) -> None:
        """Set (14,) joint targets.

        :raises ActionError: for targets that are refused; nothing has moved then.
        """
        physics.set_control(self._model.controls_of(checked_targets(action, self._model, self._out_of_range)))

    def after_step(self, physics: mujoco.Physics) -> None:
        """Count the control step."""
        self._steps += 1

    def get_observation(self, physics: mujoco.Physics) -> OrderedDict[str, np.ndarray]:
        """Return what gym-aloha's task tells beside pictures.

        ``qpos`` is (14,) joints [rad, grippers 0..1], ``qvel`` their velocities [per second], ``env_state``
        (7 * objects,) poses of the objects in gym-aloha's "world".
        """
        model, robot = self._model, self._model.robot
        velocities = np.empty(ACTION_DIM)
        for index, column in enumerate(GRIPPER_COLUMNS):
            velocities[column - 6:column] = physics.data.qvel[model.arm_dofs[index]]
            finger = physics.data.qvel[model.finger_dofs[index, 0]]
            velocities[column] = finger / (robot.finger_open_m - robot.finger_close_m)
        return OrderedDict(qpos=model.joints_of(physics.data.qpos), qvel=velocities,
                           env_state=model.object_pose_of(physics.data.qpos))

    def _stage(self, physics: mujoco.Physics) -> int:
        return int(self._model.judge(physics.data.sensordata, physics.data.qpos)[0])

    def strict(self, physics: mujoco.Physics) -> bool:
        """Return whether the task's stricter success rule holds now."""
        return bool(self._model.judge(physics.data.sensordata, physics.data.qpos)[1])

    def get_reward(self, physics: mujoco.Physics) -> float:
        """Return the staged reward 0..4."""
        return float(self._stage(physics))

    def get_termination(self, physics: mujoco.Physics) -> float | None:
        """Return the discount that ends the episode: 0 at success, 1 at the time limit; None while it goes on."""
        if self._end_on_success and self._stage(physics) == SUCCESS_STAGE:
            return 0.0
        return 1.0 if self._cap is not None and self._steps >= self._cap else None

"""interbotix_xs_msgs has the driver's names, types and order: they decide about compatibility on the wire."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.ros

TARGET = [('cmd_type', 'string'), ('name', 'string')]
MESSAGES = {
    'JointGroupCommand': [('name', 'string'), ('cmd', 'sequence<float>')],
    'JointSingleCommand': [('name', 'string'), ('cmd', 'float')],
    'JointTrajectoryCommand': [*TARGET, ('traj', 'trajectory_msgs/JointTrajectory')],
    'JointTemps': [('names', 'sequence<string>'), ('temps', 'sequence<int32>')],
    'ArmJoy': [
        (name, 'int8')
        for name in (
            'ee_x_cmd',
            'ee_y_cmd',
            'ee_z_cmd',
            'ee_roll_cmd',
            'ee_pitch_cmd',
            'waist_cmd',
            'gripper_cmd',
            'pose_cmd',
            'speed_cmd',
            'speed_toggle_cmd',
            'gripper_pwm_cmd',
            'torque_cmd',
        )
    ],
}
REQUESTS = {
    'TorqueEnable': [*TARGET, ('enable', 'boolean')],
    'Reboot': [*TARGET, ('enable', 'boolean'), ('smart_reboot', 'boolean')],
    'OperatingModes': [
        *TARGET,
        ('mode', 'string'),
        ('profile_type', 'string'),
        ('profile_velocity', 'int32'),
        ('profile_acceleration', 'int32'),
    ],
    'MotorGains': [
        *TARGET,
        *((name, 'int32') for name in ('kp_pos', 'ki_pos', 'kd_pos', 'k1', 'k2', 'kp_vel', 'ki_vel')),
    ],
    'RegisterValues': [*TARGET, ('reg', 'string'), ('value', 'int32')],
    'RobotInfo': TARGET,
}
RESPONSES = {
    'RegisterValues': [('values', 'sequence<int32>')],
    'RobotInfo': [
        ('mode', 'string'),
        ('profile_type', 'string'),
        ('joint_names', 'sequence<string>'),
        ('joint_ids', 'sequence<int16>'),
        ('joint_lower_limits', 'sequence<float>'),
        ('joint_upper_limits', 'sequence<float>'),
        ('joint_velocity_limits', 'sequence<float>'),
        ('joint_sleep_positions', 'sequence<float>'),
        ('joint_state_indices', 'sequence<int16>'),
        ('num_joints', 'int16'),
        ('name', 'sequence<string>'),
    ],
}
JOY = (
    'EE_X_INC EE_X_DEC EE_Y_INC EE_Y_DEC EE_Z_INC EE_Z_DEC EE_ROLL_CCW EE_ROLL_CW EE_PITCH_UP EE_PITCH_DOWN '
    'WAIST_CCW WAIST_CW GRIPPER_RELEASE GRIPPER_GRASP HOME_POSE SLEEP_POSE SPEED_INC SPEED_DEC SPEED_COARSE '
    'SPEED_FINE GRIPPER_PWM_INC GRIPPER_PWM_DEC TORQUE_ON TORQUE_OFF'
).split()


def fields(kind: type) -> list[tuple[str, str]]:
    return list(kind.get_fields_and_field_types().items())


@pytest.mark.parametrize('name', MESSAGES)
def test_message_fields(name):
    from interbotix_xs_msgs import msg

    assert fields(getattr(msg, name)) == MESSAGES[name]


@pytest.mark.parametrize('name', REQUESTS)
def test_service_fields(name):
    from interbotix_xs_msgs import srv

    service = getattr(srv, name)
    response = [
        field for field in fields(service.Response) if field[0] != 'structure_needs_at_least_one_member'
    ]
    assert fields(service.Request) == REQUESTS[name]
    assert response == RESPONSES.get(name, [])


def test_joystick_constants_count_from_one():
    from interbotix_xs_msgs.msg import ArmJoy

    assert [getattr(ArmJoy, name) for name in JOY] == list(range(1, 25))

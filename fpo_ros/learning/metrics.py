"""Names of the numbers that an iteration reports, in the order of the CSV; docs/algorithms.md defines each."""

from __future__ import annotations

#: Plain numbers; those that an algorithm or an iteration does not have are left out there.
SCALARS = (
    'iteration', 'control_steps',
    # Episodes.
    'rewarded_rate', 'smoothed_success', 'success_rate', 'strict_rate', 'touched_rate', 'worst_region', 'diverged',
    'mean_return', 'replayed', 'replayed_rate',
    # The flow that is trained.
    'flow_loss', 'loss_change_good', 'loss_change_bad', 'chunk_spread', 'noise_high', 'bc_loss', 'weighted_loss',
    'grad_norm', 'learning_rate', 'steps_taken',
    # Ratios.
    'first_ratio_error', 'ratio', 'ratio_max', 'clip_fraction', 'log_ratio_std', 'drift',
    # The critic.
    'explained_variance', 'value_loss', 'advantage_std', 'soft_q_loss', 'temperature', 'entropy',
    # Time and machines.
    'rollout_s', 'update_s', 'steps_per_s', 'lost_workers', 'recollected_episodes',
)
#: What is no plain number: counts per start region, names of alarms, whether the best policy was restored, whether
#: the policy that rolled out has been narrowed.
OTHERS = ('regions', 'alarms', 'restored', 'narrowed')

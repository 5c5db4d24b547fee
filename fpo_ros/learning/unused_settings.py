"""Settings that nothing of what is learned would depend on; they are refused where they are not the defaults."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any


def _of(group: str, *names: str) -> tuple[str, ...]:
    return tuple(f'{group}.{name}' for name in names)


#: Without ratios there is nothing to clip; weights of steps and dimensions count all the same.
_RATIOS = _of('objective', 'ratio', 'trust_region', 'kappa', 'kappa_unit', 'clip', 'log_ratio_clip', 'loss_clip',
              'beta')
_WEIGHTS = _of('objective', 'step_decay', 'dimension_weights')
#: What only advantages depend on.
_ADVANTAGES = ('lam', 'advantage_floor',
               *_of('critic', 'kind', 'members', 'baseline', 'learning_rate', 'steps', 'history'))
_NARROWING = ('narrow_steps', 'narrow_learning_rate')
#: A likelihood has neither scale nor weights, nor has what is imitated beside it; each chain is judged as a whole.
_CHAIN = ('temperature', 'pairs', *_NARROWING, *_WEIGHTS,
          *_of('objective', 'ratio', 'kappa', 'kappa_unit', 'loss_clip', 'beta'))

#: What nothing would come of, by algorithm; settings of a group as ``group.name``.
UNUSED = {
    'fpo': ('temperature',),
    'reinflow': _CHAIN,
    'ppo': (*_CHAIN, 'spread_floor', 'sampling.noise_range'),
    'awr': ('drift_stop', *_NARROWING, 'bc_coefficient', 'bc_weighting', 'bc_batch', 'bc_pairs', *_RATIOS),
    'filtered_bc': ('drift_stop', *_NARROWING, 'bc_weighting', 'temperature', 'pairs', 'microbatch', *_ADVANTAGES,
                    *_of('critic', 'inputs', 'polyak'), *_RATIOS),
    'dsrl': ('drift_stop', 'decay', *_NARROWING, 'epochs', 'minibatch', 'microbatch', 'pairs', 'temperature',
             'bc_coefficient', 'bc_weighting', 'bc_history', 'bc_batch', 'bc_pairs', *_ADVANTAGES, *_RATIOS,
             *_WEIGHTS),
}


def unused(config: Any) -> dict[str, str]:
    """Return the settings that nothing would come of, whatever their values: name → the words before it that say why.

    :param config: settings of fine-tuning, or an object with the same attributes.
    """
    found = dict.fromkeys(UNUSED[config.algorithm], f'{config.algorithm} has no use for')
    ensemble = config.critic.kind == 'ensemble'
    for used, needed, names in (
            (config.narrow_steps, 'narrow_steps', ('narrow_learning_rate',)),
            (config.bc_coefficient or config.algorithm == 'awr', 'a bc_coefficient',
             ('bc_weighting', 'bc_history', 'bc_batch', 'bc_pairs')),
            (config.objective.ratio == 'standardised', 'standardised ratios', ('objective.beta',)),
            (ensemble, 'a critic of kind ensemble', _of('critic', 'members', 'baseline')),
            (ensemble or config.algorithm == 'dsrl', 'a critic of kind ensemble', ('critic.polyak',)),
            (config.sampling.beyond, 'sampling.beyond', ('sampling.beyond_size',))):
        if not used:
            found |= {name: f'without {needed} there is no use for' for name in names if name not in found}
    return found


def default_of(kind: type, name: str) -> Any:
    """Return the default of a setting.

    :param kind: dataclass of the settings.
    :param name: as :func:`unused` has it.
    """
    group, _, own = name.rpartition('.')
    field = next(field for field in fields(kind) if field.name == (group or own))
    default = field.default if field.default_factory is MISSING else field.default_factory()
    return getattr(default, own) if group else default


def check_used(config: Any) -> None:
    """Refuse settings that nothing would come of, where they are not the defaults.

    :raises ValueError: naming the first and why.
    """
    for name, why in unused(config).items():
        group, _, own = name.rpartition('.')
        if getattr(getattr(config, group) if group else config, own) != default_of(type(config), name):
            raise ValueError(f'{why} {name}: leave it out')

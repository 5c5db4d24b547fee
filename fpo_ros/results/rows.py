"""What is run for the results: a row is a setting, repeated over seeds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fpo_ros.learning.config import FPOConfig
from fpo_ros.learning.grounding import GroundingConfig
from fpo_ros.learning.settings import with_settings
from fpo_ros.learning.sft import SFTConfig
from fpo_ros.policy.config import Pi0Config, preset
from fpo_ros.policy.contract import PolicyContract, contract_for

#: Groups of rows, in the order of the page.
GROUPS = ('main', 'relatives', 'ablations', 'stability', 'pairs', 'executed')
_M = 1_000_000


@dataclass(frozen=True)
class Start:
    """Where a row begins: demonstrations and what is made of them.

    :param name: of its directory.
    :param contract: what the policy sees and commands.
    :param demonstrations: recorded episodes.
    :param noise_m: error of every waypoint coordinate of the demonstrator [m].
    :param sft: supervised fine-tuning.
    :param grounding: how the prefix learns to tell where objects are before that, where it does.
    :param frame_every: control steps between recorded pictures.
    :param model: sizes of the network; those of ``pi0_tiny`` by default.
    """

    name: str
    contract: PolicyContract
    demonstrations: int
    noise_m: float
    sft: SFTConfig
    grounding: GroundingConfig | None = None
    frame_every: int = 5
    model: Pi0Config = field(default_factory=lambda: preset('pi0_tiny'))


@dataclass(frozen=True)
class Row:
    """A setting of the results.

    :param name: also of its files.
    :param group: one of :data:`GROUPS`.
    :param title: in the tables.
    :param start: where it begins.
    :param control_steps: budget of a run.
    :param marks: control steps at which the newest policy is evaluated, the last one the budget.
    :param settings: what differs from the defaults, as a file of settings has it.
    :param seeds: of the runs.
    :param episodes: held-out episodes of an evaluation.
    :param sampling: start noise of evaluations, of the start policy's too: ``'zero'`` for what acts from no noise.
    :param recorded: whether the successful ones of the start's demonstrations are imitated beside own successes.
    """

    name: str
    group: str
    title: str
    start: Start
    control_steps: int
    marks: tuple[int, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0, 1, 2)
    episodes: int = 500
    sampling: str = 'random'
    recorded: bool = False

    def config(self) -> FPOConfig:
        """Return the settings of fine-tuning."""
        return with_settings(FPOConfig(), self.settings)


STATE = Start('transfer_state', PolicyContract(), 100, 0.02, SFTConfig())
PIXELS = Start('transfer_pixels', contract_for('transfer_cube', 'pixels'), 200, 0.02, SFTConfig(steps=1600),
               GroundingConfig(), 3)
INSERTION = Start('insertion_state', PolicyContract(task='insertion'), 200, 0.008, SFTConfig(steps=2400))

#: The row that others are compared with, at their own budgets; it has the default settings.
REFERENCE = 'transfer_state'
#: The same, evaluated from zero start noise, for rows that are.
ZERO_REFERENCE = 'fpo_zero'
#: More runs of the default with the same seeds, to the budget of the relatives.
AGAIN = 'again'
#: Where rows are evaluated that are compared: relatives until the default is near its end, its parts where it rises,
#: and what shows in the long run alone until the default has long stood where nearly all scenes succeed.
_MARKS = {'relatives': (400_000, 800_000), 'stability': (800_000, 1_600_000, 3 * _M)}
_SHORT = (400_000,)


def _compared(name: str, group: str, title: str, settings: dict[str, Any] | None = None, start: Start = STATE,
              sampling: str = 'random', recorded: bool = False) -> Row:
    marks = _MARKS.get(group, _SHORT)
    return Row(name, group, title, start, marks[-1], marks, settings or {}, sampling=sampling, recorded=recorded)


#: Of algorithms with a likelihood: PPO's clip for all at 0.2 and no imitation, as in arXiv 1707.06347 and, of joint
#: likelihoods of chains, 2510.25889; the rate at which 10 to 20 % of the ratios are clipped (arXiv 2409.00588), kept.
_LIKELIHOOD = {'objective': {'trust_region': 'ppo', 'clip': 0.2}, 'bc_coefficient': 0.0, 'learning_rate': 3e-6,
               'patience': None}


#: Raised for an algorithm whose code learns otherwise from the same settings; what was learned by another is stale.
_RECIPES = {'dsrl': 1}


def recipe_of(row: Row) -> int:
    """Return the number of the code that a row's algorithm learns by; 0 for the first."""
    return _RECIPES.get(row.config().algorithm, 0)


def _executing(count: int) -> Start:
    """Return a start whose policy executes ``count`` steps of chunks of at least 20."""
    contract = PolicyContract(horizon=max(20, count), execute=count)
    return Start(f'transfer_state_execute_{count}', contract, 100, 0.02, SFTConfig())


#: For tasks in which most scenes fail for long: 128 episodes say too little for steps of the usual size.
_STEADY = {'episodes': 256, 'learning_rate': 1e-4}

ROWS = (
    Row('transfer_state', 'main', 'TransferCube, state', STATE, 6 * _M,
        (400_000, 800_000, 1_600_000, 3 * _M, 4_500_000, 6 * _M)),
    Row('transfer_averaged', 'main', 'TransferCube, state, averaged ratio', STATE, 6 * _M,
        (400_000, 800_000, 1_600_000, 3 * _M, 4_500_000, 6 * _M), {'objective': {'ratio': 'averaged'}}),
    Row('insertion_state', 'main', 'Insertion, state', INSERTION, 1_600_000, (400_000, 1_200_000, 1_600_000),
        {'episodes': 512, 'learning_rate': 1e-4, 'smoothing': 1, 'patience': 3, 'narrow_steps': 1500,
         'sampling': {'noise_range': [0.0, 0.5]}}),
    Row('transfer_pixels', 'main', 'TransferCube, pixels and joints', PIXELS, 4 * _M,
        (800_000, 1_600_000, 2_800_000, 4 * _M), _STEADY),
    _compared(AGAIN, 'relatives', 'FPO, the default, run once more'),
    _compared('fpo_averaged', 'relatives', 'FPO, averaged ratio', {'objective': {'ratio': 'averaged'}}),
    _compared('awr', 'relatives', 'advantage-weighted regression', {'algorithm': 'awr', 'epochs': 8}),
    _compared('filtered_bc', 'relatives', 'filtered behaviour cloning',
              {'algorithm': 'filtered_bc', 'bc_coefficient': 1.0, 'bc_history': 50}),
    _compared('reinflow', 'relatives', 'ReinFlow',
              {'algorithm': 'reinflow', 'sampling': {'noise_range': [1.0, 1.0]}, 'spread_floor': 0.0, **_LIKELIHOOD}),
    _compared(ZERO_REFERENCE, 'relatives', 'FPO, the default, from zero start noise', sampling='zero'),
    _compared('ppo', 'relatives', 'Gaussian PPO, from zero start noise', {'algorithm': 'ppo', **_LIKELIHOOD},
              sampling='zero'),
    _compared('dsrl', 'relatives', 'latent soft actor-critic (DSRL)',
              {'algorithm': 'dsrl', 'sampling': {'noise_range': [1.0, 1.0]}, 'spread_floor': 0.0}),
    _compared('latent', 'relatives', 'FPO over latents', {'placement': 'latent'}),
    _compared('no_clip', 'ablations', 'no trust region', {'objective': {'trust_region': 'none'}}),
    _compared('ppo_clip', 'ablations', "PPO's clip for all", {'objective': {'trust_region': 'ppo'}}),
    _compared('one_step', 'ablations', 'one flow step in rollouts (K = 1)', {'sampling': {'steps': 1}}),
    _compared('beyond', 'ablations', 'five steps beyond the end of the flow', {'sampling': {'beyond': 5}}),
    _compared('ensemble', 'ablations', 'five critics Q(s, x)', {'critic': {'kind': 'ensemble'}}),
    _compared('one_critic', 'ablations', 'one critic Q(s, x)', {'critic': {'kind': 'ensemble', 'members': 1}}),
    _compared('averaged', 'ablations', 'averaged ratio', {'objective': {'ratio': 'averaged'}}),
    _compared('standardised', 'ablations', 'standardised ratio', {'objective': {'ratio': 'standardised'}}),
    _compared('no_imitation', 'ablations', 'no flow matching on successes', {'bc_coefficient': 0.0}),
    _compared('recorded', 'ablations', 'flow matching on recorded successes, too', recorded=True),
    _compared('surplus', 'ablations', 'successes weighed by what they exceed the expected return by',
              {'bc_weighting': 'surplus', 'bc_coefficient': 0.5}),
    _compared('no_replay', 'ablations', 'no scene is tried again', {'replay': 0.0}),
    _compared('full_noise', 'ablations', 'full start noise in rollouts', {'sampling': {'noise_range': [1.0, 1.0]}}),
    _compared('full_noise_awr', 'ablations', 'the same, advantage-weighted regression',
              {'algorithm': 'awr', 'epochs': 8, 'sampling': {'noise_range': [1.0, 1.0]}}),
    _compared('relative', 'ablations', 'scale of losses relative to the flow loss',
              {'objective': {'kappa': 1.5, 'kappa_unit': 'flow_loss'}}),
    _compared('no_decay', 'ablations', 'a rate that does not fall within an iteration', {'decay': 'none'}),
    _compared('credit', 'ablations', 'later steps of a chunk count less (0.9 per step)',
              {'objective': {'step_decay': 0.9}}),
    _compared('grippers', 'ablations', 'grippers count as much as all other joints of their arm',
              {'objective': {'dimension_weights': 2 * [*(6 * [1.0]), 6.0]}}),
    _compared('observing', 'ablations', 'critic of the observation', {'critic': {'inputs': 'observation'}}),
    _compared('ppo_clip_long', 'stability', "PPO's clip for all", {'objective': {'trust_region': 'ppo'}}),
    _compared('no_settling', 'stability', 'a rate that does not fall with the failures', {'settling': 0.0}),
    _compared('no_patience', 'stability', 'a rate that is not halved where success does not grow', {'patience': None}),
    _compared('no_floor', 'stability', 'no more noise where chunks have become narrow', {'spread_floor': 0.0}),
    _compared('no_advantage_floor', 'stability', 'no floor under the deviation of advantages',
              {'advantage_floor': 0.0}),
    *(_compared(f'pairs_{count}', 'pairs', f'{count} pair{"s" * (count > 1)}', {'pairs': count})
      for count in (1, 2, 8, 16)),
    # The discount per control step is the default's.
    *(_compared(f'execute_{count}', 'executed', f'{count} executed steps',
                {'gamma': FPOConfig().gamma ** (count / STATE.contract.execute)}, _executing(count))
      for count in (5, 10, 25, 50)),
)


def row_named(name: str) -> Row:
    """Return a row.

    :raises ValueError: listing the known names.
    """
    for row in ROWS:
        if row.name == name:
            return row
    raise ValueError(f"unknown row '{name}': known are {', '.join(row.name for row in ROWS)}")

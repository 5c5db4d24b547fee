"""How much the demo does."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from fpo_ros.demo.machine import demo_contract
from fpo_ros.learning.config import CriticConfig, FPOConfig
from fpo_ros.learning.sft import SFTConfig
from fpo_ros.policy.contract import PolicyContract


@dataclass(frozen=True)
class DemoConfig:
    """Numbers of one demo.

    :param contract: what the policy sees and commands.
    :param demonstrations: recorded episodes of the scripted demonstrator.
    :param noise_std: error of every waypoint coordinate of the demonstrator [m].
    :param sft: supervised fine-tuning.
    :param evaluation_episodes: held-out seeds of both evaluations.
    :param fpo: fine-tuning.
    :param iterations: FPO iterations.
    :param graph_episodes: episodes in the running graph with each release.
    :param force: fine-tune whatever the start policy can.
    :param gate_max_drop: points of success by which the promotion gate lets a release lie below the one before.
    """

    contract: PolicyContract
    demonstrations: int = 100
    noise_std: float = 0.02
    sft: SFTConfig = field(default_factory=SFTConfig)
    evaluation_episodes: int = 200
    fpo: FPOConfig = field(default_factory=FPOConfig)
    iterations: int = 24
    graph_episodes: int = 10
    force: bool = False
    gate_max_drop: float = 0.0


def demo_config(observation: str, quick: bool) -> DemoConfig:
    """Return the numbers of the full or the quick demo.

    :param observation: ``'state'`` or ``'pixels'``.
    """
    full = DemoConfig(demo_contract(observation))
    if full.contract.cameras:
        full = replace(full, demonstrations=200, sft=SFTConfig(steps=1600), iterations=16)
    if not quick:
        return full
    # So few episodes prove nothing: both gates of the quick demo let everything pass, and the swap is shown.
    return replace(full, demonstrations=min(full.demonstrations, 60), sft=replace(full.sft, steps=250, warmup=20),
                   force=True, evaluation_episodes=40, iterations=3,
                   fpo=replace(full.fpo, episodes=64, epochs=2, critic=CriticConfig(steps=100)),
                   graph_episodes=2, gate_max_drop=100.0)

"""Grounding: before it imitates, a small policy's prefix learns to tell where objects are in pictures.

pi0 begins from PaliGemma, whose vision and language were trained to detect and to point at things (arXiv 2407.07726,
section 3.2). ``pi0_tiny`` begins from noise, and chunks alone teach it too little about pictures (docs/benchmarks.md,
"State or pixels").
In simulation the positions of objects are known: the values of every layer, which the action expert attends to, are
trained to tell them, so that the expert knows them from its first layer on. In the first layer no token has seen
another, and the mean over all of the pictures tells them; in the later ones the prompt's last token does, which has
seen the pictures. The heads that read them off are thrown away.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from fpo_ros.learning.record import plans_for
from fpo_ros.learning.rollout import renderer_of
from fpo_ros.learning.sft import SFTConfig, descend
from fpo_ros.policy.config import Pi0Config
from fpo_ros.policy.contract import ContractError, PolicyContract
from fpo_ros.policy.pi0 import Pi0
from fpo_ros.policy.tokenizer import tokens_of
from fpo_ros.policy.transforms import image_tensor
from fpo_ros.sim.batch import BatchedWorlds
from fpo_ros.sim.scenes import Scenes, scene_seeds

#: The share of the episodes that tells how well positions are told, and is not trained on.
_KEPT_BACK = 0.1


@dataclass(frozen=True)
class GroundingConfig:
    """Settings of grounding.

    :param episodes: of the scripted expert, whose pictures are drawn.
    :param frame_every: control steps between pictures.
    :param noise_std_m: error of every waypoint coordinate of the expert [m]: the more, the more is seen.
    :param training: steps, pictures per step and learning rate.
    """

    episodes: int = 640
    frame_every: int = 15
    noise_std_m: float = 0.02
    training: SFTConfig = field(default_factory=lambda: SFTConfig(2500, 96, 1e-3, 100))


@dataclass(frozen=True)
class LabelledFrames:
    """Pictures and where the objects are in them.

    :param images: (E, T, cameras, H, W, 3) uint8, of E episodes.
    :param positions: (E, T, 3 * objects) in the world frame [m].
    """

    images: np.ndarray
    positions: np.ndarray


def labelled_frames(contract: PolicyContract, config: GroundingConfig, seed: int = 0,
                    progress: Callable[[int], None] | None = None) -> LabelledFrames:
    """Return pictures of the scripted expert's episodes with the positions of the objects.

    :param seed: which scenes, and the expert's errors; scenes are those of demonstrations.
    :param progress: called with the episodes done.
    :raises ContractError: for a contract without cameras.
    """
    if not contract.cameras:
        raise ContractError('a policy without cameras has no pictures to ground: give it cameras, or leave grounding '
                            'out')
    seeds = scene_seeds(Scenes.DEMONSTRATIONS, seed, config.episodes)
    images, positions = [], []
    with BatchedWorlds(contract.task, min(32, config.episodes)) as worlds, renderer_of(contract) as renderer:
        for start in range(0, config.episodes, worlds.worlds):
            some = seeds[start:start + worlds.worlds]
            where = np.arange(len(some))
            plans = plans_for(contract.task, some, config.noise_std_m)
            worlds.reset(np.array(some), where)
            worlds.rest(where)
            outcome = worlds.step(plans, where)
            at = np.arange(0, plans.shape[1], config.frame_every)
            qpos, pose = outcome.qpos[:, at], outcome.object_pose[:, at]
            pictures = renderer.render_all(qpos.reshape(-1, qpos.shape[-1]))
            images.append(pictures.reshape(*qpos.shape[:2], *pictures.shape[1:]))
            positions.append(pose.reshape(*pose.shape[:2], -1, 7)[..., :3].reshape(*pose.shape[:2], -1))
            if progress:
                progress(start + len(some))
    return LabelledFrames(np.concatenate(images), np.concatenate(positions).astype(np.float32))


def grounded(contract: PolicyContract, model_config: Pi0Config, frames: LabelledFrames, config: GroundingConfig,
             seed: int = 0, progress: Callable[[int, float], None] | None = None) -> tuple[Pi0, float]:
    """Return a new network whose prefix tells where objects are, and the error with which it does.

    :param progress: called with (steps done, mean loss of the newest steps) about fifty times.
    :returns: the network; its mean absolute error over coordinates [m], on episodes that were kept back, in the layer
        that tells them best.
    :raises NotFiniteError: when the loss stops being finite.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model, tokens = Pi0(model_config, contract), torch.as_tensor(tokens_of(contract))[None]
    held = max(1, round(_KEPT_BACK * len(frames.images)))
    images = frames.images.reshape(-1, *frames.images.shape[2:])
    positions = torch.as_tensor(frames.positions.reshape(-1, frames.positions.shape[-1]))
    trained = len(images) - held * frames.images.shape[1]
    mean, std = positions[:trained].mean(0), positions[:trained].std(0).clamp(min=1e-3)
    goal = (positions - mean) / std
    heads = nn.ModuleList(nn.Linear(model_config.num_kv_heads * model_config.head_dim, positions.shape[1])
                          for _ in range(model_config.depth))

    def told(pick: np.ndarray) -> Tensor:
        """Return (layers, N, coordinates)."""
        first, *later = model.prefix(tokens, torch.as_tensor(image_tensor(images[pick])))[:, 1]
        seen = [first[..., :-tokens.shape[1], :].mean(-2), *(values[..., -1, :] for values in later)]
        return torch.stack([head(one.flatten(1)) for head, one in zip(heads, seen, strict=True)])

    parameters = [*model.vision_tower.parameters(), *model.embed_tokens.parameters(),
                  *model.language_layers.parameters(), *heads.parameters()]

    def loss() -> Tensor:
        pick = torch.randint(trained, (config.training.batch,), generator=generator).numpy()
        return (told(pick) - goal[pick]).square().mean((1, 2)).sum()

    descend(parameters, config.training, loss, 'grounding step', 'use', progress)
    with torch.no_grad():
        errors = [(told(pick) * std + mean - positions[pick]).abs() for pick in
                  np.array_split(np.arange(trained, len(images)), max(1, (len(images) - trained) // 64))]
    return model, float(torch.cat(errors, 1).mean((1, 2)).min())

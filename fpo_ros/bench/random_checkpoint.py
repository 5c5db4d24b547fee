"""A checkpoint of pi0 with random weights, written block by block: for measurements at sizes that fill a memory."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from fpo_ros.policy.config import Pi0Config, preset
from fpo_ros.policy.contract import ContractError, PolicyContract
from fpo_ros.policy.families import theirs_of
from fpo_ros.policy.pi0 import Pi0
from fpo_ros.policy.saving import saving

#: Cameras and picture sizes of pi0 for ALOHA; the smallest sibling's pictures are smaller.
_CAMERAS = ('cam_high', 'cam_left_wrist', 'cam_right_wrist')
_PIXELS = {'pi0': 224, 'pi0_small': 224, 'pi0_tiny': 96}
#: Prompt of the measurements: begin, 18 pieces, newline (ids of PaliGemma; those of bytes are small enough, too).
_PROMPT = (2, *range(20, 38), 108)
_BLOCK = 1 << 24
_BYTES = 2  # of a number in bfloat16


def sizes_of(name: str) -> tuple[Pi0Config, PolicyContract]:
    """Return the sizes of a preset in pi0's own way (a token per step, velocities, padding to 32), and a contract."""
    config = replace(preset(name), steps_per_token=1, predicts='velocity', state_width=32)
    contract = PolicyContract(observation='pixels', cameras=_CAMERAS, image_height=_PIXELS[name],
                              image_width=_PIXELS[name], horizon=50, execute=25, action_width=32,
                              prompt_tokens=_PROMPT)
    return config, contract


def write_random(path: Path, config: Pi0Config, contract: PolicyContract, seed: int = 0) -> int:
    """Write ``model.safetensors`` in bfloat16 with the names of openpi; returns its size [bytes].

    :param path: of the file.
    :raises ContractError: when the disk has no room for it.
    :raises fpo_ros.policy.saving.SaveError: when the disk refuses.
    """
    with torch.device('meta'):
        shapes = {name: tuple(value.shape) for name, value in
                  theirs_of(Pi0(config, contract).state_dict(), config, 'openpi').items()}
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + _BYTES * math.prod(shape)
        header[name] = {'dtype': 'BF16', 'shape': shape, 'data_offsets': [begin, end]}
    text = json.dumps(header).encode()
    text += b' ' * (-len(text) % 8)
    free = shutil.disk_usage(path.parent).free
    if free < end + len(text):
        raise ContractError(f'{path.parent} has {free / 1e9:.1f} GB of free space, the checkpoint takes '
                            f'{end / 1e9:.1f}: name another directory')
    generator = torch.Generator().manual_seed(seed)
    with saving(path), open(path, 'wb') as file:
        file.write(len(text).to_bytes(8, 'little') + text)
        for shape in shapes.values():
            for block in _numbers(shape, generator):
                file.write(block.view(torch.uint8).numpy())
    return path.stat().st_size


def _numbers(shape: tuple[int, ...], generator: torch.Generator) -> Iterator[Tensor]:
    """Yield the numbers of a tensor in blocks, scaled so that activations stay near one."""
    scale = 0.02 if len(shape) == 1 else 1 / math.sqrt(math.prod(shape[1:]))
    count = math.prod(shape)
    for start in range(0, count, _BLOCK):
        numbers = torch.randn(min(_BLOCK, count - start), generator=generator)
        yield numbers.mul_(scale).bfloat16()

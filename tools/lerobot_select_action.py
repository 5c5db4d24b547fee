"""Time a chunk of our exported pi0 beside ``PI0Policy.select_action`` of LeRobot: same sizes, same weights, one thread.

Libraries and checkout as for LeRobot in ``tools/pi0_fixtures.py``; then::

    PYTHONPATH=/tmp/lerobot_libs .venv/bin/python tools/lerobot_select_action.py --source /tmp/lerobot

Both get one picture of the network's size and the joints of an observation; LeRobot's is normalised and its prompt is
tokens before the clock starts, ours is as cameras and arms give it. Before the two take turns they must draw the same
chunk of the same noise.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from tqdm import trange

sys.path.insert(0, str(Path(__file__).parent))

import pi0_fixtures as theirs  # noqa: E402

from fpo_ros.bench.policy import VARIANTS, observation_of, stats_of  # noqa: E402
from fpo_ros.policy.checkpoint import FlowPolicy  # noqa: E402
from fpo_ros.policy.config import Pi0Config, preset  # noqa: E402
from fpo_ros.policy.contract import PolicyContract  # noqa: E402
from fpo_ros.policy.pi0 import Pi0  # noqa: E402
from fpo_ros.policy.pretrained import write_pretrained  # noqa: E402
from fpo_ros.runtime.export import export  # noqa: E402
from fpo_ros.runtime.session import PolicySession  # noqa: E402

#: Widths that pi0's files have, whatever its sizes; LeRobot's processor pads a prompt to 48 tokens.
PADDED_WIDTH, PROMPT_TOKENS = 32, 48
#: Largest difference of the two chunks [rad, grippers 0..1].
SAME = 1e-4
CAMERA, STATE = 'observation.images.cam_high', 'observation.state'
TOKENS, MASK = 'observation.language.tokens', 'observation.language.attention_mask'


def sizes(variant: str) -> tuple[Pi0Config, PolicyContract]:
    """Return a preset as LeRobot's network can be built: widths padded as in its files, pictures of one camera."""
    contract = dataclasses.replace(VARIANTS['pi0_small'], action_width=PADDED_WIDTH)
    config = dataclasses.replace(preset(variant), state_width=PADDED_WIDTH, steps_per_token=1, predicts='velocity')
    return config, contract


def lerobot(source: Path, config: Pi0Config, contract: PolicyContract, weights: Path) -> nn.Module:
    """Return LeRobot's policy with these sizes and weights."""
    theirs.SIZES = dataclasses.asdict(config)
    theirs.IMAGE_SIZE, theirs.HORIZON = contract.image_height, contract.horizon
    theirs.ACTION_WIDTH, theirs.STEPS = PADDED_WIDTH, contract.flow_steps
    policy = theirs.lerobot(source)
    renamed = policy._fix_pytorch_state_dict_keys(load_file(weights), policy.config)  # as its from_pretrained does
    missing, unexpected = policy.load_state_dict(renamed, strict=False)
    if unexpected or any(not name.endswith('lm_head.weight') for name in missing):
        raise RuntimeError(f'the weights do not fit LeRobot: missing {missing}, unexpected {unexpected}')
    return policy.eval()


def batch_of(policy: FlowPolicy, padded: bool) -> dict[str, torch.Tensor]:
    """Return the observation of :func:`observation_of` as LeRobot's processors hand it to its policy."""
    observation = observation_of(policy.contract)
    picture = torch.as_tensor(observation.images['cam_high']).permute(2, 0, 1)[None] / 255
    tokens = nn.functional.pad(policy.tokens, (0, PROMPT_TOKENS - policy.tokens.shape[1] if padded else 0))
    mask = torch.arange(tokens.shape[1])[None] < policy.tokens.shape[1]
    state = policy.states(observation.joint_positions[None], None)
    return {CAMERA: picture, STATE: state, TOKENS: tokens, MASK: mask}


def measure(source: Path, variant: str, rounds: int) -> dict[str, object]:
    """Return medians of both [ms], in wall time and in processor time.

    :raises RuntimeError: when the two do not compute the same.
    """
    torch.set_num_threads(1)
    config, contract = sizes(variant)
    torch.manual_seed(0)
    model = Pi0(config, contract)
    theirs.randomise(model, torch.Generator().manual_seed(0))
    policy = FlowPolicy(model.eval(), stats_of(contract))
    with tempfile.TemporaryDirectory(prefix='fpo_ros-bench-') as directory:
        weights = Path(directory) / 'model.safetensors'
        write_pretrained(model, weights, 'lerobot')
        other = lerobot(source, config, contract, weights)
        (graphs := Path(directory) / 'graphs').mkdir()
        export(policy, graphs)
        session = PolicySession.load(graphs)
        observation, batch, padded = observation_of(contract), batch_of(policy, False), batch_of(policy, True)
        noise = torch.randn(1, contract.horizon, PADDED_WIDTH, generator=torch.Generator().manual_seed(0))
        ours = session.infer(observation, noise[0].numpy())
        same = policy.to_raw(other.predict_action_chunk(batch, noise=noise), observation.joint_positions[None])[0]
        difference = float(np.abs(ours - same).max())
        if difference > SAME:
            raise RuntimeError(f'the two chunks differ by {difference:.1g}: the comparison means nothing')
        turns: dict[str, Callable[[], object]] = {
            'ours': lambda: session.infer(observation, np.random.default_rng(0).standard_normal(
                noise.shape[1:], np.float32)),
            'lerobot': lambda: selected(other, batch), 'lerobot_padded_prompt': lambda: selected(other, padded)}
        walls, processors = timed(turns, rounds)
    found: dict[str, object] = {'variant': variant, 'rounds': rounds, 'difference': difference}
    for kind, some in (('ms', walls), ('cpu_ms', processors)):
        found |= {f'{name}_{kind}': value for name, value in some.items()}
        found[f'speedup_{kind.removesuffix("_ms")}' if kind != 'ms' else 'speedup'] = some['lerobot'] / some['ours']
    return found


def selected(policy: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return an action of LeRobot's policy whose queue is empty, so that it draws a chunk."""
    policy.reset()
    return policy.select_action(batch)


def timed(turns: dict[str, Callable[[], object]], rounds: int) -> tuple[dict[str, float], dict[str, float]]:
    """Let all take turns; return their medians in wall and in processor time [ms]. The first round warms up."""
    walls: dict[str, list[float]] = {name: [] for name in turns}
    processors: dict[str, list[float]] = {name: [] for name in turns}
    for _ in trange(rounds + 1, unit='round'):
        for name, turn in turns.items():
            begun, worked = time.perf_counter(), time.process_time()
            turn()
            walls[name].append(time.perf_counter() - begun)
            processors[name].append(time.process_time() - worked)
    return tuple({name: float(np.median(some[1:])) * 1e3 for name, some in kind.items()}  # type: ignore[return-value]
                 for kind in (walls, processors))


def main() -> None:
    """Measure, print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--source', required=True, type=Path, help='a checkout of LeRobot')
    parser.add_argument('--variant', default='pi0_small', choices=('pi0_small', 'pi0_tiny'))
    parser.add_argument('--rounds', default=20, type=int)
    options = parser.parse_args()
    if not (options.source / 'src' / 'lerobot').is_dir():
        parser.error(f'{options.source} is no checkout of LeRobot: it has no src/lerobot')
    print(json.dumps(measure(options.source, options.variant, options.rounds)))


if __name__ == '__main__':
    main()

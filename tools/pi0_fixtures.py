"""Make the golden values of tests/policy/test_parity.py: what public implementations of pi0 compute at a small size.

The network is LeRobot's or openpi's own, with random weights of a fixed seed; a file holds its weights by its names,
what went in and what came out. Its libraries go into a directory of their own, beside the torch, numpy, safetensors,
packaging, PyYAML, requests, filelock, tqdm and typer of .venv::

    git clone https://github.com/huggingface/lerobot /tmp/lerobot
    git -C /tmp/lerobot checkout 7427f31801f944f5ec9ce53cda02862ce7d1638b
    .venv/bin/pip install --target /tmp/lerobot_libs --no-deps transformers==5.5.4 huggingface-hub==1.33.0 \
        tokenizers==0.22.2 regex==2026.11.19 httpx==0.28.1 httpcore==1.0.9 h11==0.16.0 anyio==4.16.0
    PYTHONPATH=/tmp/lerobot_libs .venv/bin/python tools/pi0_fixtures.py --implementation lerobot \
        --source /tmp/lerobot --out tests/policy/fixtures/pi0_lerobot.safetensors

    git clone https://github.com/Physical-Intelligence/openpi /tmp/openpi
    git -C /tmp/openpi checkout 15a9616a00943ada6c20a0f158e3adb39df2ccac
    .venv/bin/pip install --target /tmp/openpi_libs --no-deps transformers==4.53.2 huggingface-hub==0.36.2 \
        tokenizers==0.21.4 regex==2026.11.19
    cp -r /tmp/openpi/src/openpi/models_pytorch/transformers_replace/* /tmp/openpi_libs/transformers/
    PYTHONPATH=/tmp/openpi_libs .venv/bin/python tools/pi0_fixtures.py --implementation openpi \
        --source /tmp/openpi --out tests/policy/fixtures/pi0_openpi.safetensors

The files of tests/policy/fixtures were made so with Python 3.11 and torch 2.13. Nothing that computes is replaced. Both
implementations write the sizes of the vocabulary and of the vision tower into their code: they are changed in the
configuration on its way to the constructors. Stand-ins take the place of imports that only configure, download or
prepare data, some of which need jax or Python 3.12:

- LeRobot: ``lerobot.configs``, ``policies.pretrained``, ``policies.pi0.configuration_pi0``, ``policies.rtc`` and
  ``utils.import_utils``.
- openpi: ``openpi.models.gemma``, of which the sizes are used, and ``models_pytorch.preprocessing_pytorch``: pictures
  enter the network as they are, without augmentation.

LeRobot's network has an output head of its own beside its token embedding, and its files hold both; the head, which no
action depends on, is drawn apart from the embedding, so that a reader that takes it for the embedding fails.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

#: Sizes, by the names of fpo_ros.policy.config; widths differ so that none can be mistaken for another.
SIZES: dict[str, Any] = {
    'width': 48, 'mlp_dim': 56, 'expert_width': 32, 'expert_mlp_dim': 40, 'depth': 2, 'num_heads': 8,
    'num_kv_heads': 1, 'head_dim': 16, 'vocabulary_size': 64, 'state_width': 32,
    'vision': {'patch_size': 4, 'width': 24, 'depth': 2, 'num_heads': 2, 'mlp_dim': 36},
}
IMAGE_SIZE, ACTION_WIDTH, ACTION_DIM, HORIZON, STATE_DIM, STEPS = 12, 32, 14, 6, 14, 10
#: Which of three cameras are there, and how many of eight tokens: they differ between the two observations.
CAMERAS, TOKENS, TOKENS_MAX = ((True, True, False), (True, False, True)), (5, 3), 8
#: Flow times of the denoising steps, one row each.
TIMES = ((1.0, 0.35), (0.72, 0.05))
TRANSFORMERS = {'lerobot': '5.5.4', 'openpi': '4.53.2'}
UNUSED = 'paligemma_with_expert.gemma_expert.lm_head.weight'
SEED = 0


class Bare(nn.Module):
    """What a policy of LeRobot derives from, without the reading and sharing of files."""

    def __init__(self, config: object) -> None:
        super().__init__()


def stand_in(name: str, **members: Any) -> None:
    """Let ``import name`` find a module that has these members alone."""
    sys.modules[name] = ModuleType(name)
    vars(sys.modules[name]).update(members)


def package(name: str, source: Path) -> None:
    """Let modules of a package be imported without its ``__init__``, which would import all of it."""
    stand_in(name, __path__=[str(source.joinpath(*name.split('.')))])


def gemma(variant: str) -> SimpleNamespace:
    """Return the sizes of one of the two transformers, by the names that both implementations use."""
    front = 'expert_' if variant == 'gemma_300m' else ''
    return SimpleNamespace(width=SIZES[f'{front}width'], mlp_dim=SIZES[f'{front}mlp_dim'],
                           **{name: SIZES[name] for name in ('depth', 'num_heads', 'num_kv_heads', 'head_dim')})


def shrink(module: ModuleType, paligemma: str, expert: str) -> None:
    """Let two classes of a module be built with our sizes where the implementation's code has fixed ones."""
    vision, vocabulary = SIZES['vision'], SIZES['vocabulary_size']

    def smaller(config: Any) -> Any:
        if hasattr(config, 'vision_config'):
            for name, value in (('hidden_size', vision['width']), ('intermediate_size', vision['mlp_dim']),
                                ('num_hidden_layers', vision['depth']), ('num_attention_heads', vision['num_heads']),
                                ('patch_size', vision['patch_size']), ('image_size', IMAGE_SIZE),
                                ('projection_dim', SIZES['width'])):
                setattr(config.vision_config, name, value)
        getattr(config, 'text_config', config).vocab_size = vocabulary
        return config

    def smaller_one(whole: type[nn.Module]) -> Callable[..., nn.Module]:
        return lambda config: whole(config=smaller(config))

    for name in (paligemma, expert):
        setattr(module, name, smaller_one(getattr(module, name)))


def lerobot(source: Path) -> nn.Module:
    """Return LeRobot's policy, one camera and 14 actions beside the padding."""
    for name in ('lerobot', 'lerobot.policies', 'lerobot.policies.pi0', 'lerobot.policies.rtc', 'lerobot.utils'):
        package(name, source / 'src')
    stand_in('lerobot.configs', PreTrainedConfig=object)
    stand_in('lerobot.policies.pretrained', PreTrainedPolicy=Bare, T=TypeVar('T'))
    stand_in('lerobot.policies.rtc.modeling_rtc', RTCProcessor=object)
    stand_in('lerobot.policies.pi0.configuration_pi0', PI0Config=object, DEFAULT_IMAGE_SIZE=IMAGE_SIZE)
    stand_in('lerobot.utils.import_utils', _transformers_available=True, require_package=lambda *_, **__: None)
    module = importlib.import_module('lerobot.policies.pi0.modeling_pi0')
    module.get_gemma_config = gemma
    shrink(module, 'PaliGemmaForConditionalGenerationWithPiGemma', 'PiGemmaForCausalLM')
    return module.PI0Policy(SimpleNamespace(
        paligemma_variant='gemma_2b', action_expert_variant='gemma_300m', dtype='float32', chunk_size=HORIZON,
        max_state_dim=SIZES['state_width'], max_action_dim=ACTION_WIDTH, num_inference_steps=STEPS, min_period=4e-3,
        max_period=4.0, image_resolution=(IMAGE_SIZE, IMAGE_SIZE), freeze_vision_encoder=False,
        train_expert_only=False, compile_model=False, rtc_config=None, gradient_checkpointing=False, device='cpu',
        n_action_steps=HORIZON, validate_features=lambda: None, image_features=('observation.images.cam_high',),
        output_features={'action': SimpleNamespace(shape=(ACTION_DIM,))}))


def openpi(source: Path) -> nn.Module:
    """Return openpi's network."""
    for name in ('openpi', 'openpi.models', 'openpi.models_pytorch'):
        package(name, source / 'src')
    stand_in('openpi.models.gemma', get_config=gemma)
    stand_in('openpi.models_pytorch.preprocessing_pytorch',
             preprocess_observation_pytorch=lambda observation, train: observation)
    shrink(importlib.import_module('openpi.models_pytorch.gemma_pytorch'), 'PaliGemmaForConditionalGeneration',
           'GemmaForCausalLM')
    model = importlib.import_module('openpi.models_pytorch.pi0_pytorch').PI0Pytorch(SimpleNamespace(
        pi05=False, paligemma_variant='gemma_2b', action_expert_variant='gemma_300m', dtype='float32',
        action_dim=ACTION_WIDTH, action_horizon=HORIZON, pytorch_compile_mode=None))
    torch.set_float32_matmul_precision('highest')  # the constructor lowers it
    return model


def randomise(model: nn.Module, generator: torch.Generator) -> None:
    """Draw all weights, norms and biases too, so that activations stay near one and no weight is idle.

    Velocities are smaller, lest squared errors be so large that single precision rounds them by more than is tested.
    """
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            spread = 1 / math.sqrt(parameter[0].numel()) if parameter.dim() > 1 else 0.3
            spread *= 0.3 if 'action_out_proj' in name else 1
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread)
            if 'vision_model' in name and 'norm' in name and name.endswith('weight'):
                parameter.add_(1)


def weights(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors that a file of the implementation holds: of two names of one tensor the first, in order."""
    kept: dict[str, Tensor] = {}
    for name, value in sorted(model.state_dict().items()):
        if not name.endswith(UNUSED) and value.data_ptr() not in {other.data_ptr() for other in kept.values()}:
            kept[name] = value
    return kept


def draw(generator: torch.Generator) -> dict[str, Tensor]:
    """Return two observations with what a masked camera and the end of a short prompt hold, noise and actions."""
    batch, cameras = len(CAMERAS), len(CAMERAS[0])
    state = torch.zeros(batch, SIZES['state_width'])
    state[:, :STATE_DIM] = torch.randn(batch, STATE_DIM, generator=generator)
    return {
        'images': torch.rand(batch, cameras, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator) * 2 - 1,
        'image_masks': torch.tensor(CAMERAS),
        'tokens': torch.randint(1, SIZES['vocabulary_size'], (batch, TOKENS_MAX), generator=generator),
        'token_masks': torch.arange(TOKENS_MAX) < torch.tensor(TOKENS)[:, None],
        'state': state,
        'noise': torch.randn(batch, HORIZON, ACTION_WIDTH, generator=generator),
        'actions': torch.randn(batch, HORIZON, ACTION_WIDTH, generator=generator) / 2,
        'times': torch.tensor(TIMES), 'loss_time': torch.tensor([0.61, 0.18]),
    }


def compute(model: nn.Module, implementation: str, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return what the implementation makes of its inputs."""
    images, masks = given['images'].unbind(1), given['image_masks'].unbind(1)
    prompt, state, noise = (given['tokens'], given['token_masks']), given['state'], given['noise']
    embedded, valid, blocks = model.embed_prefix(images, masks, *prompt)
    code = importlib.import_module(type(model).__module__)
    allowed = code.make_att_2d_masks(valid, blocks)
    additive = getattr(model, '_prepare_attention_masks_4d', None) or code.prepare_attention_masks_4d
    model.paligemma_with_expert.paligemma.model.language_model.config._attn_implementation = 'eager'
    _, cache = model.paligemma_with_expert(
        attention_mask=additive(allowed), position_ids=valid.cumsum(1) - 1, past_key_values=None,
        inputs_embeds=[embedded, None], use_cache=True)
    kept = [(entry[0].clone(), entry[1].clone()) for entry in cache]
    found = {'prefix_keys': torch.stack([keys for keys, _ in kept]),
             'prefix_values': torch.stack([values for _, values in kept]),
             'velocities': torch.stack([model.denoise_step(state, valid, cache, noise, time)
                                        for time in given['times']])}
    if implementation == 'lerobot':
        seen = images, masks, *prompt, state
        found['sample'] = model.sample_actions(*seen, noise=noise, num_steps=STEPS)
        found['loss'] = model(*seen, given['actions'], noise, given['loss_time'])
    else:
        seen = SimpleNamespace(images=dict(enumerate(images)), image_masks=dict(enumerate(masks)), state=state,
                               tokenized_prompt=prompt[0], tokenized_prompt_mask=prompt[1])
        found['sample'] = model.sample_actions('cpu', seen, noise=noise, num_steps=STEPS)
        found['loss'] = model(seen, given['actions'], noise, given['loss_time'])
    return found


def main() -> None:
    """Build, compute, write."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--implementation', required=True, choices=TRANSFORMERS)
    parser.add_argument('--source', required=True, type=Path, help='a checkout of the implementation')
    parser.add_argument('--out', required=True, type=Path, help='the file to write')
    options = parser.parse_args()
    name = options.implementation
    if not (options.source / 'src' / name).is_dir():
        parser.error(f'{options.source} is no checkout of {name}: it has no src/{name}')
    if not options.out.absolute().parent.is_dir():
        parser.error(f'{options.out} cannot be written: make its directory first')
    try:
        import transformers
        if transformers.__version__ != TRANSFORMERS[name]:
            raise ImportError(f'transformers is {transformers.__version__}, not {TRANSFORMERS[name]}')
        model = {'lerobot': lerobot, 'openpi': openpi}[name](options.source)
    except (ImportError, ValueError) as error:
        parser.error(f'{name} cannot be built ({error}): install its libraries as the head of {__file__} says, and '
                     'name their directory in PYTHONPATH')
    generator = torch.Generator().manual_seed(SEED)
    randomise(model, generator)
    inputs = draw(generator)
    with torch.no_grad():
        outputs = compute(model.eval().model if name == 'lerobot' else model.eval(), name, inputs)
    parts = {'weights': weights(model), 'inputs': inputs, 'outputs': outputs}
    save_file({f'{part}/{key}': value.contiguous().clone() for part, tensors in parts.items()
               for key, value in tensors.items()}, options.out,
              {'made': json.dumps({'of': name, 'transformers': transformers.__version__, 'torch': torch.__version__,
                                   'sizes': SIZES})})
    print(f'{options.out}: {options.out.stat().st_size / 1024:.0f} KiB, {len(parts["weights"])} weights, '
          f'deviation of a velocity {outputs["velocities"].std():.2f}')


if __name__ == '__main__':
    main()

"""From raw observations to model inputs and back: the one implementation training and robot share."""

from __future__ import annotations

import cv2
import numpy as np

from fpo_ros.policy.aloha import ARM_COLUMNS, action_from_pi, action_to_pi, state_to_pi
from fpo_ros.policy.contract import ACTION_DIM, CAMERAS, ContractError, Observation, PolicyContract
from fpo_ros.policy.normalisation import NormStats


def fitted_size(shape: tuple[int, int], height: int, width: int) -> tuple[int, int]:
    """Return the rows and columns that a picture of ``shape`` fills of (height, width), its aspect ratio kept.

    One side is filled; the other is cut to whole pixels, as openpi does (shared/image_tools.py).
    """
    rows, columns = shape
    if rows * width >= columns * height:
        return height, max(1, columns * height // rows)
    return max(1, rows * width // columns), width


def resize_with_pad(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize an (h, w, 3) uint8 image into (height, width, 3), keeping its aspect ratio, black around it.

    Smaller pictures are means over areas, of halves of halves as long as those are large enough, which is faster and
    weighs pixels more as openpi does; larger ones are bilinear. docs/pi0.md says how that compares.

    :raises ContractError: for anything else than a picture.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ContractError(f'image must be (h, w, 3) uint8, got {image.shape} {image.dtype}')
    if image.shape[:2] == (height, width):
        return image
    size = fitted_size(image.shape[:2], height, width)
    small = _scaled(image, size)
    out = np.zeros((height, width, 3), np.uint8)
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    out[top:top + size[0], left:left + size[1]] = small
    return out


def _scaled(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return a picture scaled to (rows, columns)."""
    shrinks = size[0] < image.shape[0] or size[1] < image.shape[1]
    while all(side % 2 == 0 and side // 2 >= wanted for side, wanted in zip(image.shape, size, strict=False)):
        image = cv2.resize(image, (image.shape[1] // 2, image.shape[0] // 2), interpolation=cv2.INTER_AREA)
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def state_vector(joints: np.ndarray, object_pose: np.ndarray | None, contract: PolicyContract) -> np.ndarray:
    """Return the raw (..., state_dim) float32 state of (..., 14) joints and (..., 7 * objects) poses.

    :raises ContractError: for a missing pose, a wrong length or a value that is not finite.
    """
    parts = [np.asarray(joints, np.float32)]
    if contract.observation == 'state':
        if object_pose is None:
            raise ContractError("observation 'state' needs an object pose, and the observation has none: "
                                'start a tracker that publishes one, or use a policy that sees pixels')
        parts.append(np.asarray(object_pose, np.float32))
    # One part alone where the policy sees pixels.
    for part, size, name in zip(parts, (ACTION_DIM, contract.object_dim), ('joints', 'object pose'), strict=False):
        if part.shape[-1] != size:
            raise ContractError(f'{name} must have {size} entries, got {part.shape[-1]}')
        if not np.isfinite(part).all():
            raise ContractError(f'{name} are not finite: {part[~np.isfinite(part)][0]}')
    return np.concatenate(parts, -1)


def known_state(state: np.ndarray, contract: PolicyContract) -> np.ndarray:
    """Return raw (..., state_dim) states in the units of the network."""
    if contract.units == 'cell':
        return state
    return np.concatenate([state_to_pi(state[..., :ACTION_DIM]), state[..., ACTION_DIM:]], -1)


def known_actions(targets: np.ndarray, joints: np.ndarray, contract: PolicyContract) -> np.ndarray:
    """Return (..., H, 14) targets in the units of the network.

    :param joints: (..., 14) of the observation that each chunk answers.
    """
    actions = targets if contract.units == 'cell' else action_to_pi(targets)
    if not contract.relative:
        return actions
    actions = np.array(actions, np.float32)
    actions[..., ARM_COLUMNS] -= _arms(joints, contract)
    return actions


def targets_of(actions: np.ndarray, joints: np.ndarray | None, contract: PolicyContract) -> np.ndarray:
    """Return what the network's (..., H, 14) actions mean: the inverse of :func:`known_actions`.

    :raises ContractError: for a relative contract and no joints.
    """
    if contract.relative:
        if joints is None:
            raise ContractError('actions of this policy count from the joints of its observation, and there are none')
        actions = np.array(actions, np.float32)
        actions[..., ARM_COLUMNS] += _arms(joints, contract)
    return actions if contract.units == 'cell' else action_from_pi(actions)


def _arms(joints: np.ndarray, contract: PolicyContract) -> np.ndarray:
    """Return (..., 1, 12) arm joints in the units of the network."""
    return known_state(np.asarray(joints, np.float32), contract)[..., None, ARM_COLUMNS]


def image_tensor(images: np.ndarray) -> np.ndarray:
    """Map (..., H, W, 3) uint8 to (..., 3, H, W) float32 in [-1, 1], as openpi does."""
    return np.moveaxis(images, -1, -3).astype(np.float32) * np.float32(2 / 255) - np.float32(1)


def model_inputs(observation: Observation, contract: PolicyContract, stats: NormStats) -> dict[str, np.ndarray]:
    """Return the model's inputs for one observation, each with a leading batch axis of 1.

    ``state`` (1, state_dim) float32 normalised, and for ``'pixels'`` also ``images``
    (1, cameras, 3, H, W) float32 in [-1, 1]; optional cameras that are missing are left out.

    :raises ContractError: naming the missing, misshapen or unknown part.
    """
    raw = state_vector(observation.joint_positions, observation.object_pose, contract)
    inputs = {'state': stats.normalise_state(known_state(raw, contract))[None].astype(np.float32)}
    if contract.cameras:
        seen = [name for name in contract.cameras if name in observation.images]
        missing = [name for name in contract.cameras if name not in {*seen, *contract.optional_cameras}]
        if missing:
            raise ContractError(f'observation lacks camera {missing[0]}: it has {sorted(observation.images)}')
        unknown = sorted(observation.images.keys() - {*contract.cameras, *CAMERAS})
        if unknown:
            raise ContractError(f'observation has a picture of an unknown camera {unknown[0]}: the policy sees '
                                f'{", ".join(contract.cameras)}, and others may be {", ".join(CAMERAS)}')
        frames = [_frame(observation.images[name], name, contract) for name in seen]
        inputs['images'] = image_tensor(np.stack(frames))[None]
    return inputs


def _frame(image: np.ndarray, camera: str, contract: PolicyContract) -> np.ndarray:
    wanted = (contract.image_height, contract.image_width, 3)
    if image.shape != wanted or image.dtype != np.uint8:
        raise ContractError(f'picture of {camera} is {image.shape} {image.dtype}, the contract wants {wanted} uint8: '
                            'fit it with resize_with_pad first')
    return image

"""Which pictures an observation may bring."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fpo_ros.policy.contract import ContractError, PolicyContract


def check_pictures(message: Any, cell: PolicyContract, others: Sequence[str] = ()) -> None:
    """Refuse pictures that no camera of the cell gives; those that policies may lack are not asked for here.

    :param message: an observation message.
    :param cell: cameras that policies see, and the size of their pictures.
    :param others: further cameras of the cell, whose pictures nothing looks at here.
    :raises ContractError: naming a camera that is unknown or named twice, or whose picture has another size.
    """
    names = list(message.camera_names)
    for index, name in enumerate(names):
        if name not in cell.cameras and name not in others:
            known = ', '.join((*cell.cameras, *others)) or 'none'
            raise ContractError(f"observation has camera '{name}', the cell has {known}: name it alike everywhere, or, "
                                'if policies do not see it, in parameter other_cameras of the policy node')
        if name in names[:index]:
            raise ContractError(f"observation has camera '{name}' twice")
    for name, image in zip(names, message.images, strict=True):
        if name in cell.cameras and (image.height, image.width) != (cell.image_height, cell.image_width):
            raise ContractError(f"picture of camera '{name}' has {image.height}x{image.width} pixels, the cell has "
                                f'{cell.image_height}x{cell.image_width} (rows, columns): set image_height and '
                                'image_width of camera_ingest and of the policy node alike')

"""Gradient checkpointing: the backward pass computes activations again (Chen et al. 2016, arXiv 1604.06174)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from lavra.core.errors import InputError
from lavra.models.transforms.base import root_of


@dataclass(frozen=True)
class CheckpointBlocks:
    """Gradient checkpointing of the blocks: only the input of each block is kept for the backward pass.

    It saves memory for about a third more time. Losses, gradients and dropout do not change.
    """

    def apply(self, model: nn.Module) -> None:
        """Switch gradient checkpointing on.

        Args:
            model: Model to change in place.

        Raises:
            InputError: If the model does not support it.
        """
        self._switch(model, True)

    def merge(self, model: nn.Module) -> None:
        """Switch gradient checkpointing off.

        Args:
            model: Model to change in place.

        Raises:
            InputError: If the model does not support it.
        """
        self._switch(model, False)

    def _switch(self, model: nn.Module, on: bool) -> None:
        from transformers import PreTrainedModel

        from lavra.models.native.decoder import Decoder

        root = root_of(model)
        if isinstance(root, Decoder):
            root.checkpointing = on
        elif isinstance(root, PreTrainedModel) and root.supports_gradient_checkpointing:
            if on:
                root.gradient_checkpointing_enable({"use_reentrant": False})
            else:
                root.gradient_checkpointing_disable()
        else:
            raise InputError(
                f"{type(root).__name__} cannot compute its blocks again", "leave out --gradient-checkpointing"
            )

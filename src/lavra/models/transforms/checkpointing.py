"""Activations computed again in the backward pass (Chen et al. 2016, arXiv 1604.06174), block by block."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from lavra.core.errors import InputError
from lavra.models.transforms.base import root_of


@dataclass(frozen=True)
class CheckpointBlocks:
    """Keep only the inputs of each block for the backward pass. Losses, gradients and dropout stay what they are."""

    def apply(self, model: nn.Module) -> None:
        """Switch it on.

        Raises:
            InputError: if the model does not have it.
        """
        self._switch(model, True)

    def fold(self, model: nn.Module) -> None:
        """Switch it off."""
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

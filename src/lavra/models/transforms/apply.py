"""The edits of a run: made in one order, made again from their configuration, and folded for an export."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from lavra.config.transforms import EditConfig
from lavra.core.errors import Damaged
from lavra.models.transforms.adapters import Adapter
from lavra.models.transforms.base import ModelEdit
from lavra.models.transforms.checkpointing import CheckpointBlocks
from lavra.models.transforms.freezing import Freeze
from lavra.models.transforms.prefix import Prefix
from lavra.models.transforms.quantizing import Quantize
from lavra.models.transforms.resizing import ResizeVocabulary

TOLERANCE = 1e-5
"""Largest difference allowed between two logits before and after folding, as a share of the largest above 1."""


def edits_of(config: EditConfig, seed: int = 0) -> list[ModelEdit]:
    """Return the edits that a configuration asks for, in the order in which they are made."""
    edits: list[ModelEdit] = []
    if config.vocabulary:
        edits.append(ResizeVocabulary(config.vocabulary))
    if config.base_bits:
        edits.append(Quantize(config.base_bits))
    if config.adapter.kind == "prefix":
        edits.append(Prefix(config.adapter, seed, bool(config.vocabulary)))
    elif config.adapter.kind != "none":
        edits.append(Adapter(config.adapter, seed, bool(config.vocabulary)))
    if config.freeze:
        edits.append(Freeze(config.freeze))
    if config.gradient_checkpointing:
        edits.append(CheckpointBlocks())
    return edits


def apply_edits(model: nn.Module, config: EditConfig, seed: int = 0) -> list[ModelEdit]:
    """Make the edits of a configuration in place, and return them.

    The same model, configuration and seed give the same parameters under the same names, so that the base model, the
    configuration and the learned weights are the whole record of an edited model.

    Raises:
        InputError: if one matches nothing in the model, or the model cannot take it.
    """
    edits = edits_of(config, seed)
    for edit in edits:
        edit.apply(model)
    return edits


def learned_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return what a checkpoint must hold of an edited model: the parameters that learn, by name."""
    return {name: parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad}


@torch.no_grad()
def load_learned_weights(model: nn.Module, learned: dict[str, torch.Tensor], place: str) -> None:
    """Set the parameters that learn.

    Raises:
        Damaged: if names or shapes are others than the model's; names `place`.
    """
    own = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    odd = sorted(set(own) ^ set(learned))
    odd += sorted(name for name in set(own) & set(learned) if own[name].shape != learned[name].shape)
    if odd:
        raise Damaged(
            f"{place} holds other weights than the edited model learns: {', '.join(odd[:5])}",
            "give the base model and the edits that it was trained with",
        )
    for name, parameter in own.items():
        parameter.copy_(learned[name])


@dataclass(frozen=True)
class MergeCheck:
    """What folding changed.

    Attributes:
        largest_difference: between two logits before and after.
        largest_logit: in absolute value.
        tied_before: the head was the embedding.
        tied: it is.
    """

    largest_difference: float
    largest_logit: float
    tied_before: bool
    tied: bool

    @property
    def holds(self) -> bool:
        """Whether the folded model is the trained one."""
        return self.tied == self.tied_before and self.largest_difference <= TOLERANCE * max(1.0, self.largest_logit)

    def to_json(self) -> dict[str, Any]:
        """Return plain values, for the certificate."""
        return {"holds": self.holds, **asdict(self)}


def fold_edits(model: nn.Module, edits: Sequence[ModelEdit], logits: Callable[[nn.Module], torch.Tensor]) -> MergeCheck:
    """Take edits back in place, last first, with what was learned worked into the model's own weights.

    Args:
        model: in float32, since learned weights lose digits in shorter types.
        edits: as `apply_edits` returned them.
        logits: computes logits of some text, by which the model before and after is compared.

    Raises:
        InputError: if an edit has no place in a model of the first kind (a prefix).
    """
    training = model.training
    model.eval()
    with torch.no_grad():
        before, tied_before = logits(model).float(), is_tied(model)
        for edit in reversed(edits):
            edit.fold(model)
        after = logits(model).float()
    model.train(training)
    return MergeCheck(float((after - before).abs().max()), float(before.abs().max()), tied_before, is_tied(model))


def is_tied(model: nn.Module) -> bool:
    """Say whether the model's head is its embedding."""
    from lavra.models.transforms.adapters import vocabulary_modules
    from lavra.models.transforms.base import root_of

    root = root_of(model)
    weights = {id(root.get_submodule(name).weight) for name in vocabulary_modules(root)}
    return len(vocabulary_modules(root)) > 1 and len(weights) == 1

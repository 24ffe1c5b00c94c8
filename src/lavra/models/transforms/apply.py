"""Changes of a run's model: made in a fixed order, made again from their configuration, and merged for an export."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from lavra.config.transforms import TransformConfig
from lavra.core.errors import CorruptFile
from lavra.models.transforms.adapters import Adapter
from lavra.models.transforms.base import ModelTransform
from lavra.models.transforms.checkpointing import CheckpointBlocks
from lavra.models.transforms.freezing import Freeze
from lavra.models.transforms.prefix import Prefix
from lavra.models.transforms.quantizing import Quantize
from lavra.models.transforms.resizing import ResizeVocabulary

TOLERANCE = 1e-5
"""Largest difference allowed between a logit before and after merging, relative to the largest logit where that is
above 1."""


def transforms_of(config: TransformConfig, seed: int = 0) -> list[ModelTransform]:
    """Return the changes that a configuration asks for, in the order in which they are made.

    Args:
        config: Configuration of the changes.
        seed: Seed of an adapter's initial weights.

    Examples:
        >>> transforms_of(TransformConfig())
        []
    """
    transforms: list[ModelTransform] = []
    if config.vocabulary:
        transforms.append(ResizeVocabulary(config.vocabulary))
    if config.quantize_base:
        transforms.append(Quantize(config.quantize_base))
    if config.adapter.kind == "prefix":
        transforms.append(Prefix(config.adapter, seed, bool(config.vocabulary)))
    elif config.adapter.kind != "none":
        transforms.append(Adapter(config.adapter, seed, bool(config.vocabulary)))
    if config.freeze:
        transforms.append(Freeze(config.freeze))
    if config.gradient_checkpointing:
        transforms.append(CheckpointBlocks())
    return transforms


def apply_transforms(model: nn.Module, config: TransformConfig, seed: int = 0) -> list[ModelTransform]:
    """Make the changes of a configuration in place, and return them.

    The same model, configuration and seed give the same parameters under the same names. The base model, the
    configuration and the learned weights are therefore the whole record of a changed model.

    Args:
        model: Model to change.
        config: Configuration of the changes.
        seed: Seed of an adapter's initial weights.

    Raises:
        InputError: If a change matches nothing in the model, or the model cannot be changed in this way.
    """
    transforms = transforms_of(config, seed)
    for edit in transforms:
        edit.apply(model)
    return transforms


def learned_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the trainable parameters of a model by name, which are what a checkpoint must hold.

    Args:
        model: Changed model.
    """
    return {name: parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad}


@torch.no_grad()
def load_learned_weights(model: nn.Module, learned: dict[str, torch.Tensor], place: str) -> None:
    """Set the trainable parameters of a model.

    Args:
        model: Changed model.
        learned: Weights by name.
        place: File that the weights come from, for the error message.

    Raises:
        CorruptFile: If names or shapes differ from those of the model.
    """
    own = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    odd = sorted(set(own) ^ set(learned))
    odd += sorted(name for name in set(own) & set(learned) if own[name].shape != learned[name].shape)
    if odd:
        raise CorruptFile(
            f"{place} holds other weights than the edited model learns: {', '.join(odd[:5])}",
            "give the base model and the edits that it was trained with",
        )
    for name, parameter in own.items():
        parameter.copy_(learned[name])


@dataclass(frozen=True)
class MergeCheck:
    """The comparison of a model before and after merging.

    Attributes:
        largest_difference: Largest absolute difference between a logit before and after.
        largest_logit: Largest absolute value of a logit.
        tied_before: Whether the head shared the weight of the embedding before.
        tied: Whether it shares the weight after.
    """

    largest_difference: float
    largest_logit: float
    tied_before: bool
    tied: bool

    @property
    def holds(self) -> bool:
        """Whether the merged model computes the same as the trained one."""
        return self.tied == self.tied_before and self.largest_difference <= TOLERANCE * max(1.0, self.largest_logit)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object with the fields as named here, for the certificate."""
        return {"holds": self.holds, **asdict(self)}


def merge_transforms(
    model: nn.Module, transforms: Sequence[ModelTransform], logits: Callable[[nn.Module], torch.Tensor]
) -> MergeCheck:
    """Undo changes in place, the last one first, and merge what was learned into the weights of the model itself.

    Args:
        model: Model in float32, because learned weights would lose digits in shorter types.
        transforms: Changes as `apply_transforms` returned them.
        logits: Function that computes logits of some text with the model. It is called before and after merging, and
            the results are compared.

    Raises:
        InputError: If a change cannot be merged, as a prefix cannot.
    """
    training = model.training
    model.eval()
    with torch.no_grad():
        before, tied_before = logits(model).float(), is_tied(model)
        for edit in reversed(transforms):
            edit.merge(model)
        after = logits(model).float()
    model.train(training)
    return MergeCheck(float((after - before).abs().max()), float(before.abs().max()), tied_before, is_tied(model))


def is_tied(model: nn.Module) -> bool:
    """Return whether the head of a model shares the weight of the embedding.

    Args:
        model: Model of the contract.
    """
    from lavra.models.transforms.adapters import vocabulary_modules
    from lavra.models.transforms.base import root_of

    root = root_of(model)
    weights = {id(root.get_submodule(name).weight) for name in vocabulary_modules(root)}
    return len(vocabulary_modules(root)) > 1 and len(weights) == 1

"""The techniques of a request: the updates and the objective that they make, and what they cost.

This is the one place where a technique is named besides its own file and its options.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from lavra.config.techniques import TechniqueConfig
from lavra.core.errors import InputError
from lavra.data.tokenizers.tokenizer import Tokenizer
from lavra.data.tokenizers.word_boundaries import Words
from lavra.models.heads import head_of
from lavra.models.hf.model import HFModel
from lavra.models.native.decoder import Decoder
from lavra.objectives.base import ComparingObjective, Objective
from lavra.objectives.cutout import Cutout
from lavra.objectives.mixup import Mixup
from lavra.objectives.mlm import mask_token_of
from lavra.objectives.multi_sample import MultiSampleDropout
from lavra.objectives.progressive_length import ProgressiveLength
from lavra.objectives.r_drop import RDrop
from lavra.objectives.random_crop import RandomCrop
from lavra.objectives.replaced_tokens import ReplacedTokens
from lavra.objectives.wrapping import innermost
from lavra.tasks.datasets import Dataset, ExampleDataset
from lavra.training.trainer import Trainer
from lavra.training.updates import (
    AdversarialWeights,
    FastGradientMethod,
    GradualUnfreezing,
    SharpnessAware,
    Update,
)

# The updates and the objectives.


def technique_updates(asked: TechniqueConfig, trainer: Trainer) -> list[Update]:
    """Return the updates of the techniques, outermost first.

    What perturbs weights stands around gradual unfreezing, which holds back what the optimiser would apply.

    Args:
        asked: The techniques of the request.
        trainer: The trainer, whose weights are perturbed or held still.

    Raises:
        InputError: If a technique does not fit the task or the model.
    """
    weights, found = trainer.master_weights, list[Update]()
    if rho := asked.sam or asked.asam:
        if asked.ascent_fraction < 1.0 and isinstance(trainer.objective, ComparingObjective):
            raise InputError(
                "this task compares all rows of a step, which have no gradient of a part of them",
                "leave out --technique.ascent-fraction",
            )
        found.append(SharpnessAware(rho, adaptive=asked.asam > 0, ascent_fraction=asked.ascent_fraction))
    if asked.awp:
        found.append(AdversarialWeights(asked.awp, asked.awp_form, asked.awp_limit, asked.awp_start))
    if asked.fgm:
        found.append(FastGradientMethod(asked.fgm, weights))
    if asked.unfreeze:
        found.append(GradualUnfreezing(weights.weights, asked.unfreeze))
    return found


_OF_LABELS = ("mixup", "random_crop", "progressive_length", "r_drop", "dropout_samples")
"""Techniques for rows with labels."""

_OF_TEXTS = ("mixup", "random_crop", "progressive_length", "dropout_samples")
"""Techniques for labels of whole texts, by a head that makes one vector of each, such as `SequenceHead`."""


def with_techniques(
    asked: TechniqueConfig, objective: Objective, model: Decoder | HFModel, dataset: Dataset
) -> Objective:
    """Return an objective inside those of the techniques, and tell the head of the model its dropout samples.

    What is only measured is the same as without them.

    Args:
        asked: The techniques of the request.
        objective: The objective of the task.
        model: The model with the head of the task.
        dataset: The data set.

    Raises:
        InputError: If a technique does not fit the task, the data or the model.
    """
    usual = TechniqueConfig()
    given = [name for name in ("cutout", *_OF_LABELS) if getattr(asked, name) != getattr(usual, name)]
    if not given:
        return objective
    _refuse_misfits(given, objective, model, dataset)
    _prepare_dropout(asked, model)
    special = Words.of(dataset.tokenizer).special
    if asked.cutout:
        objective = Cutout(objective, special, asked.cutout, _mask_token(dataset.tokenizer))
    if asked.progressive_length:
        objective = ProgressiveLength(objective, special, _longest(dataset), asked.progressive_length)
    if asked.random_crop:
        objective = RandomCrop(objective, special, asked.random_crop)
    if asked.dropout_samples > 1 and asked.dropout_average == "losses":
        objective = MultiSampleDropout(objective, asked.dropout_samples)
    if asked.mixup:
        objective = Mixup(objective, asked.mixup)
    if asked.r_drop:
        objective = RDrop(objective, asked.r_drop)
    return objective


def _refuse_misfits(given: Sequence[str], objective: Objective, model: Decoder | HFModel, dataset: Dataset) -> None:
    def first(names: Sequence[str]) -> str | None:
        return next(("--" + name.replace("_", "-") for name in given if name in names), None)

    if (flag := first(_OF_LABELS)) and dataset.rows != "labelled":
        raise InputError(f"{flag} is for texts with labels", "leave it out")
    if "cutout" in given and isinstance(innermost(objective), ReplacedTokens):
        raise InputError(
            "--cutout takes tokens from what is read, and electra's detector reads what its generator wrote",
            "leave it out",
        )
    if isinstance(objective, ComparingObjective) or model.kind == "encoder-decoder":
        raise InputError(f"{first(given)} does not fit the task or the model", "leave it out")
    if (flag := first(_OF_TEXTS)) and not hasattr(head_of(model), "pooled"):
        raise InputError(f"{flag} is for labels of whole texts", "leave it out")


def _longest(dataset: Dataset) -> int:
    assert isinstance(dataset, ExampleDataset)
    return int(dataset.prepared.train.lengths().max())


def _prepare_dropout(asked: TechniqueConfig, model: Decoder | HFModel) -> None:
    """Refuse what does nothing without dropout, and set the number of dropout samples of the head."""
    head: Any = getattr(model, "task_head", None)
    if asked.dropout_samples > 1:
        if not head.options["dropout"]:
            raise InputError("--dropout-samples needs dropout in the head", "add --head.dropout 0.3")
        if asked.dropout_average == "logits":
            head.dropout_samples = asked.dropout_samples
    if asked.r_drop and not _has_dropout(model, head):
        raise InputError(
            "--r-drop compares passes that differ by dropout, and there is none",
            "add --model.dropout 0.1, or --head.dropout 0.1",
        )


def _has_dropout(model: nn.Module, head: Any) -> bool:
    layers = any(isinstance(module, nn.Dropout) and module.p > 0 for module in model.modules())
    native = isinstance(model, Decoder) and model.spec.dropout > 0
    return layers or native or getattr(head, "options", {}).get("dropout", 0.0) > 0


def _mask_token(tokenizer: Tokenizer) -> int | None:
    try:
        return mask_token_of(tokenizer)
    except InputError:
        return None


# What the techniques cost, for plans.


def passes_of(asked: TechniqueConfig) -> float:
    """Return how many times a gradient computes each row."""
    return 2.0 if asked.r_drop else 1.0


def cost_of_first_steps(asked: TechniqueConfig) -> float:
    """Return how many plain gradients a step at the beginning of a run takes.

    Args:
        asked: The techniques of the request.

    Examples:
        >>> cost_of_first_steps(TechniqueConfig(sam=0.05, ascent_fraction=0.25))
        1.25
    """
    gradients = 1.0
    if asked.sam or asked.asam:
        gradients += asked.ascent_fraction
    if asked.fgm or (asked.awp and not asked.awp_start):
        gradients += 1.0
    return gradients * passes_of(asked)


def cost_of_steps(asked: TechniqueConfig) -> float:
    """Return how many plain gradients a step takes, as a mean over the run.

    Args:
        asked: The techniques of the request.

    Examples:
        >>> cost_of_steps(TechniqueConfig()), cost_of_steps(TechniqueConfig(awp=0.01, awp_start=0.5, r_drop=1.0))
        (1.0, 3.0)
    """
    later = 1.0 - asked.awp_start if asked.awp and asked.awp_start else 0.0
    return cost_of_first_steps(asked) + later * passes_of(asked)


def perturbs_weights(asked: TechniqueConfig) -> bool:
    """Return whether a technique takes a second gradient at other weights, which takes two more copies of them."""
    return any((asked.sam, asked.asam, asked.awp, asked.fgm))


def follow_progress(asked: TechniqueConfig) -> bool:
    """Return whether the first steps of a run depend on its length, because a technique goes by shares of it."""
    return bool((asked.awp and asked.awp_start) or asked.unfreeze or asked.progressive_length)


def rows_together(asked: TechniqueConfig) -> int:
    """Return how many neighbouring rows of a step must share a micro-batch."""
    return 2 if asked.mixup else 1

"""The ranges of the numeric options, checked before anything is read or written."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

from lavra.config.training import TrainConfig
from lavra.core.errors import InputError


@dataclass(frozen=True)
class _Range:
    """The range of an option's values.

    Attributes:
        least: The lower bound.
        below: The upper bound, which is outside of the range; None for no upper bound.
        above: Whether the lower bound is outside of the range.
    """

    least: float
    below: float | None = None
    above: bool = False

    def holds(self, value: float) -> bool:
        """Return whether a value lies in the range."""
        large_enough = value > self.least if self.above else value >= self.least
        return large_enough and (self.below is None or value < self.below)

    def __str__(self) -> str:
        least = f"more than {self.least:g}" if self.above else f"at least {self.least:g}"
        return least if self.below is None else f"{least} and less than {self.below:g}"


_AT_LEAST_ONE = _Range(1)
_NOT_NEGATIVE = _Range(0)
_POSITIVE = _Range(0, above=True)
_SHARE = _Range(0, 1)

_RANGES = {
    "budget": _POSITIVE,
    "tokens": _AT_LEAST_ONE,
    "epochs": _POSITIVE,
    "steps": _AT_LEAST_ONE,
    "checkpoint_every": _AT_LEAST_ONE,
    "keep_checkpoints": _AT_LEAST_ONE,
    "samples": _NOT_NEGATIVE,
    "folds": _Range(2),
    "seeds": _AT_LEAST_ONE,
    "seed": _NOT_NEGATIVE,
    "text.validation_share": _SHARE,
    "text.validation_limit": _AT_LEAST_ONE,
    "text.extend": _AT_LEAST_ONE,
    "model.context": _AT_LEAST_ONE,
    "model.depth": _AT_LEAST_ONE,
    "model.width": _AT_LEAST_ONE,
    "model.heads": _AT_LEAST_ONE,
    "model.kv_heads": _AT_LEAST_ONE,
    "model.dropout": _SHARE,
    "model.window": _NOT_NEGATIVE,
    "model.experts": _NOT_NEGATIVE,
    "model.experts_per_token": _AT_LEAST_ONE,
    "model.shared_experts": _NOT_NEGATIVE,
    "model.balance_loss": _NOT_NEGATIVE,
    "model.attention_cap": _NOT_NEGATIVE,
    "model.logit_cap": _NOT_NEGATIVE,
    "model.shared_blocks": _NOT_NEGATIVE,
    "model.global_every": _NOT_NEGATIVE,
    "objective.source_context": _AT_LEAST_ONE,
    "objective.mask_rate": _Range(0, 1, above=True),
    "objective.final_mask_rate": _Range(0, 1, above=True),
    "optimization.learning_rate": _POSITIVE,
    "optimization.embedding_lr": _POSITIVE,
    "optimization.muon_lr": _POSITIVE,
    "optimization.weight_decay": _NOT_NEGATIVE,
    "optimization.muon_weight_decay": _NOT_NEGATIVE,
    "optimization.beta1": _SHARE,
    "optimization.beta2": _SHARE,
    "optimization.eps": _POSITIVE,
    "optimization.embedding_gradient": _POSITIVE,
    "optimization.z_loss": _NOT_NEGATIVE,
    "optimization.warmup_steps": _NOT_NEGATIVE,
    "optimization.decay_fraction": _Range(0, 1.0000001),
    "optimization.batch_tokens": _AT_LEAST_ONE,
    "optimization.max_grad_norm": _POSITIVE,
    "optimization.label_smoothing": _SHARE,
    "technique.sam": _NOT_NEGATIVE,
    "technique.asam": _NOT_NEGATIVE,
    "technique.ascent_fraction": _Range(0, 1.0000001, above=True),
    "technique.awp": _NOT_NEGATIVE,
    "technique.awp_limit": _POSITIVE,
    "technique.awp_start": _SHARE,
    "technique.fgm": _NOT_NEGATIVE,
    "technique.mixup": _NOT_NEGATIVE,
    "technique.cutout": _SHARE,
    "technique.random_crop": _NOT_NEGATIVE,
    "technique.progressive_length": _SHARE,
    "technique.r_drop": _NOT_NEGATIVE,
    "technique.dropout_samples": _AT_LEAST_ONE,
    "technique.unfreeze": _SHARE,
    "labels.pseudo": _NOT_NEGATIVE,
    "labels.adapt": _SHARE,
    "machine.threads": _AT_LEAST_ONE,
    "machine.micro_batch_size": _AT_LEAST_ONE,
    "embedding.batch": _Range(2),
    "embedding.temperature": _POSITIVE,
    "embedding.deleted": _SHARE,
    "anomalies.max_in_a_row": _AT_LEAST_ONE,
    "average.every": _AT_LEAST_ONE,
    "stability.every": _NOT_NEGATIVE,
}
"""The range of each option, by its place in the request; an option that is not given is not checked."""


def refuse_impossible(config: TrainConfig) -> None:
    """Raise an error for an option whose value is out of its range.

    Args:
        config: The request.

    Raises:
        InputError: If a value is out of its range; the message names the option and the range.
    """
    for place, wanted in _RANGES.items():
        value = reduce(getattr, place.split("."), config)
        if isinstance(value, int | float) and not wanted.holds(value):
            flag = "--" + place.replace("_", "-")
            raise InputError(f"{flag} {value:g} is no value that a run can have", f"give {wanted}")
    if config.folds is None and config.fold_by is not None:
        raise InputError("--fold-by is for a cross-validated run", "add --folds 5")
    if config.optimization.name == "schedule-free-adamw" and config.average.kind != "none":
        raise InputError(
            f"schedule-free-adamw averages the weights by itself, and --average.kind {config.average.kind} would "
            "average what is not measured",
            "leave out --average.kind, or choose another optimiser",
        )
    if config.technique.progressive_length and not (config.steps or config.epochs or config.tokens):
        raise InputError(
            "--progressive-length makes the first steps faster than the later ones, so that no time can be kept",
            "give the length of the run as --epochs or --steps",
        )

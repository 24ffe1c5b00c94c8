"""The options of training techniques, which are all off by default.

The module does not import torch, so that the command line's help is quick.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from lavra.config.flags import shown
from lavra.core.errors import InputError


@dataclass(frozen=True)
class TechniqueConfig:
    """Techniques that change how a model learns; at its default each of them is off.

    Examples:
        >>> from lavra.config.techniques import TechniqueConfig
        >>> TechniqueConfig(sam=0.05, unfreeze=0.2).mixup
        0.0
        >>> TechniqueConfig(sam=0.05, awp=0.01)
        Traceback (most recent call last):
            ...
        lavra.core.errors.InputError: --sam and --awp both perturb the weights
          what to do: choose one of them
    """

    sam: Annotated[float, shown("--sam", metavar="RHO")] = 0.0
    """Sharpness-aware minimisation (SAM) with this distance, such as 0.05; a second gradient in every step."""
    asam: Annotated[float, shown("--asam", metavar="RHO")] = 0.0
    """Adaptive sharpness-aware minimisation (ASAM) with this distance, such as 0.5; a second gradient in every step."""
    ascent_fraction: float = 1.0
    """Share of the rows of a step that say where SAM and ASAM climb; less than 1 makes the second gradient cheaper."""
    awp: Annotated[float, shown("--awp", metavar="STRENGTH")] = 0.0
    """Adversarial weight perturbation (AWP) by this share of the norm of each matrix, such as 0.001; a second gradient
    in every step."""
    awp_form: Literal["paper", "clamped"] = "paper"
    """The form of AWP: as published (paper), or with a limit for each weight (clamped), as in competitions."""
    awp_limit: float = 0.01
    """Largest change of a weight in the clamped form, as a share of its size."""
    awp_start: float = 0.0
    """Share of the run after which AWP begins."""
    fgm: Annotated[float, shown("--fgm", metavar="EPSILON")] = 0.0
    """Fast gradient method: add the gradient under an adversarial change of the embedding of this length, such as
    1.0; a second gradient in every step."""
    mixup: Annotated[float, shown("--mixup", metavar="ALPHA")] = 0.0
    """Mix the vectors and labels of neighbouring texts, by shares from a Beta distribution with this parameter, such as
    0.2."""
    cutout: Annotated[float, shown("--cutout", metavar="RATE")] = 0.0
    """Share of the tokens that are hidden from the model while it learns, such as 0.1."""
    random_crop: Annotated[int, shown("--random-crop", metavar="TOKENS")] = 0
    """Learn from a random window of so many tokens of each longer text; 0 reads whole texts."""
    progressive_length: Annotated[float, shown("--progressive-length", metavar="SHARE")] = 0.0
    """Share of the run over which texts grow from an eighth of the longest one to their whole length."""
    r_drop: Annotated[float, shown("--r-drop", metavar="ALPHA")] = 0.0
    """R-Drop: compute each batch twice with different dropout, and weigh by this how far the outputs are apart, such as
    1.0."""
    dropout_samples: Annotated[int, shown("--dropout-samples", metavar="N")] = 1
    """Number of dropout masks that the head draws for each text (multi-sample dropout); 1 is plain dropout."""
    dropout_average: Literal["logits", "losses"] = "logits"
    """What is averaged over these masks."""
    unfreeze: Annotated[float, shown("--unfreeze", metavar="SHARE")] = 0.0
    """Gradual unfreezing: share of the run over which the blocks begin to learn, from the last one down to the
    embedding."""

    def __post_init__(self) -> None:
        self._only_one("both perturb the weights", sam=self.sam, asam=self.asam, awp=self.awp, fgm=self.fgm)
        losses = self.dropout_samples > 1 and self.dropout_average == "losses"
        several = {"mixup": self.mixup, "r_drop": self.r_drop, "technique.dropout_average losses": losses}
        self._only_one("both compute the loss of a batch several times", **several)

    def _only_one(self, told: str, **given: float) -> None:
        named = ["--" + name.replace("_", "-") for name, value in given.items() if value]
        if len(named) > 1:
            raise InputError(f"{named[0]} and {named[1]} {told}", "choose one of them")

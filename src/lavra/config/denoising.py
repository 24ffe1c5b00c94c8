"""The options of the denoising objectives: what is hidden of a text, how often, and in which mixture.

The module does not import torch, so that the command line's help is quick.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, cast

from lavra.core.errors import InputError

Mode = Literal["", "R", "S", "X"]
"""The mode of a denoiser, which a mode token tells the model: regular, sequential, extreme; or none."""

UL2 = ("R=0.15/3", "R=0.15/8", "S=0.25", "X=0.5/3", "X=0.5/8", "X=0.15/64", "X=0.5/64")
"""The mixture of UL2 (Tay et al. 2022, arXiv 2205.05131, table 2): each denoiser as often as every other."""

UL2R = ("R=0.15/3*2", "S=0.25*4", "X=0.5/3", "X=0.15/32")
"""The mixture of UL2R (Tay et al. 2022, arXiv 2210.11399, section 3.1): half sequential, a quarter regular, a quarter
extreme, by length or by rate."""

_WRITTEN = re.compile(r"(?:(?P<mode>[RSX])=)?(?P<rate>[0-9.]+)(?:/(?P<mean>[0-9.]+))?(?:\*(?P<weight>[0-9.]+))?")


@dataclass(frozen=True)
class Denoiser:
    """One kind of noise of a mixture.

    Attributes:
        rate: Share of the tokens that are hidden on average, above 0 and below 1.
        mean: Mean length of a hidden span in tokens, at least 1; None hides the end of the text (sequential).
        mode: Mode of which a token tells the model at the beginning; "" for none.
        weight: How often it is drawn, relative to the others of the mixture.

    Examples:
        >>> from lavra.config.denoising import Denoiser
        >>> Denoiser.parse("X=0.5/32*2")
        Denoiser(rate=0.5, mean=32.0, mode='X', weight=2.0)
        >>> Denoiser.parse("S=0.25").mean is None
        True
    """

    rate: float
    mean: float | None = None
    mode: Mode = ""
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.rate < 1:
            raise InputError(f"a noise density of {self.rate:g} is not possible", "choose more than 0 and less than 1")
        if self.mean is not None and self.mean < 1:
            raise InputError(
                f"hidden spans of {self.mean:g} tokens are not possible", "choose a mean length of 1 or more"
            )
        if not self.weight > 0:
            raise InputError(f"a weight of {self.weight:g} is not possible", "choose more than 0, or leave it out")

    @classmethod
    def parse(cls, text: str) -> Denoiser:
        """Return the denoiser that `[MODE=]RATE[/MEAN LENGTH][*WEIGHT]` describes; without a length the end is hidden.

        Args:
            text: Description, such as "R=0.15/3".

        Raises:
            InputError: If it is no such description, or a value is out of range.
        """
        found = _WRITTEN.fullmatch(text.replace(" ", ""))
        try:
            if found is None:
                raise ValueError(text)
            mean, weight = found["mean"], found["weight"]
            return cls(
                float(found["rate"]),
                None if mean is None else float(mean),
                cast(Mode, found["mode"] or ""),
                1.0 if weight is None else float(weight),
            )
        except ValueError as error:
            raise InputError(
                f"{text!r} is no denoiser", "write [MODE=]RATE[/MEAN LENGTH][*WEIGHT], such as R=0.15/3 or S=0.25*2"
            ) from error


@dataclass(frozen=True)
class DenoisingConfig:
    """What the denoising objectives hide.

    Examples:
        >>> from lavra.config.denoising import DenoisingConfig
        >>> DenoisingConfig(noise_density=0.3).mean_span
        3.0
        >>> DenoisingConfig(denoisers=("S=2",))
        Traceback (most recent call last):
            ...
        lavra.core.errors.InputError: a noise density of 2 is not possible
          what to do: choose more than 0 and less than 1
    """

    noise_density: float = 0.15
    """Share of the tokens that span corruption hides, above 0 and below 1."""
    mean_span: float = 3.0
    """Mean length in tokens of the spans that span corruption hides."""
    denoisers: tuple[str, ...] = ()
    """The mixture of ul2 and ul2r, each as MODE=RATE/LENGTH*WEIGHT, such as R=0.15/3 X=0.5/32*2 S=0.25: mode R, S or X,
    share of the tokens that is hidden, mean length of a span (none: the end of the text), and how often. By default
    those of the papers."""
    prefix_attention: Literal["auto", "bidirectional", "causal"] = "auto"
    """How a decoder attends within what it is given (the prefix, or the text with holes). auto: bidirectional in a
    decoder of lavra's own, which then only lavra can read; causal for ul2r and in models of transformers."""
    fim_rate: float = 0.5
    """Share of the texts from which fim takes a middle; the others are read from left to right."""
    spm_share: float = 0.5
    """Share of those texts that are laid out as suffix, prefix, middle (SPM), not as prefix, suffix, middle (PSM)."""
    masked_share: float = 0.5
    """Share of the texts whose masked tokens mlm+causal predicts, at --objective.mask-rate; the others are read from
    left to right."""

    def __post_init__(self) -> None:
        Denoiser(self.noise_density, self.mean_span)
        for one in self.denoisers:
            Denoiser.parse(one)
        for name in ("fim_rate", "spm_share", "masked_share"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                flag = "--objective." + name.replace("_", "-")
                raise InputError(f"{flag} is {value:g}", "choose a share from 0 to 1")

    def mixture(self, objective: str) -> tuple[Denoiser, ...]:
        """Return the denoisers of an objective: one for span-corruption and prefix-lm, several for ul2 and ul2r.

        Args:
            objective: Name of the objective.
        """
        if objective == "span-corruption":
            return (Denoiser(self.noise_density, self.mean_span),)
        if objective == "prefix-lm":
            return (Denoiser(0.5),)  # T5's prefix language model cuts anywhere, so that half is predicted on average
        written = self.denoisers or (UL2 if objective == "ul2" else UL2R)
        return tuple(Denoiser.parse(one) for one in written)

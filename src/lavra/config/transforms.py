"""The options of what is done to a model before it is trained: adapters, freezing, quantisation, another vocabulary.

The module does not import torch, so that the command line's help is quick.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from lavra.config.flags import Common, shown
from lavra.core.errors import InputError

AdapterKind = Literal["none", "lora", "rslora", "dora", "ia3", "prefix"]
"""The kinds of small trainable additions to a frozen model."""

LOW_RANK: frozenset[str] = frozenset({"lora", "rslora", "dora"})
"""The adapters that learn a low-rank update of a linear layer, to which rank, alpha, dropout and targets apply."""


@dataclass(frozen=True)
class AdapterConfig:
    """A small trainable addition to a model whose own weights stay as they are.

    Examples:
        >>> from lavra.config.transforms import AdapterConfig
        >>> AdapterConfig(kind="lora", rank=8).scale
        16.0
    """

    kind: Annotated[AdapterKind, Common, shown("--adapter", metavar="KIND")] = "none"
    """lora (arXiv 2106.09685), rslora (scaled for high ranks, 2312.03732), dora (direction and size apart, 2402.09353),
    ia3 (rescaled activations, 2205.05638), prefix (P-tuning v2, 2110.07602), or none: the model itself is trained."""
    rank: Annotated[int, shown("--rank")] = 16
    """Rank of each low-rank update; for prefix, the number of learned positions."""
    alpha: float | None = None
    """Weight of the update, which is scaled by alpha / rank (rslora: by alpha / √rank). Twice the rank by default."""
    dropout: float = 0.0
    """Dropout probability on the inputs of the low-rank updates."""
    targets: tuple[str, ...] = ()
    """Linear layers to adapt, as names or globs (q_proj, attention, blocks.1?.mlp.*); all of the blocks by default."""
    modules_to_save: tuple[str, ...] = ()
    """Modules trained whole and saved beside the adapter, as names or globs (lm_head). New heads and embeddings of
    another vocabulary are always among them."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise InputError(f"adapter.rank is {self.rank}; it must be at least 1", "--adapter.kind none adds nothing")
        if not 0.0 <= self.dropout < 1.0:
            raise InputError(f"adapter.dropout is {self.dropout}; it must be at least 0 and below 1")
        if self.kind == "prefix" and self.targets:
            raise InputError("a prefix goes before every layer's keys and values", "leave adapter.targets out")

    @property
    def scale(self) -> float:
        """The value of `alpha`, or its default of twice the rank."""
        return 2.0 * self.rank if self.alpha is None else self.alpha


@dataclass(frozen=True)
class TransformConfig:
    """Everything that is done to a model before it is trained, in the order of the fields.

    Examples:
        >>> from lavra.config.transforms import AdapterConfig, TransformConfig
        >>> transforms = TransformConfig(quantize_base=4, adapter=AdapterConfig(kind="lora"))
        >>> transforms.adapter.rank, transforms.freeze
        (16, ())
        >>> TransformConfig(quantize_base=4)
        Traceback (most recent call last):
            ...
        lavra.core.errors.InputError: weights in 4 bits cannot be trained themselves
          what to do: add an adapter: --adapter.kind lora
    """

    vocabulary: Annotated[int, tyro.conf.Suppress] = 0
    """Size of another vocabulary to which embedding and head are resized; 0 keeps the model's own. It is no flag: rows
    without a tokenizer would stand for no token, and --text.vocabulary and --text.extend bring both."""
    quantize_base: Literal[0, 8, 4] = 0
    """Hold the frozen weights of the blocks in 8 or 4 bits under an adapter (QLoRA, arXiv 2305.14314); 0 keeps them as
    they are."""
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    """A small trainable addition; everything else is frozen."""
    freeze: Annotated[tuple[str, ...], shown("--freeze", metavar="NAME…")] = ()
    """Parameters that are not trained, as names of modules or parameters, or globs (embedding, blocks.[0-5])."""
    gradient_checkpointing: Annotated[bool, shown("--gradient-checkpointing")] = False
    """Compute each block again in the backward pass instead of keeping its activations, which takes less memory and a
    third more time."""

    def __post_init__(self) -> None:
        if self.quantize_base and self.adapter.kind == "none":
            raise InputError(
                f"weights in {self.quantize_base} bits cannot be trained themselves",
                "add an adapter: --adapter.kind lora",
            )
        if self.freeze and self.adapter.kind != "none":
            raise InputError(
                "an adapter freezes everything but itself and adapter.modules_to_save",
                "leave out --freeze or the adapter",
            )

"""The protocol of a check: the training set-up that it receives, and the result that it returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from torch import nn

from lavra.core.seeds import row_streams
from lavra.models.protocols import Batch, Model
from lavra.objectives.base import Objective
from lavra.training.batches import Source
from lavra.training.trainer import Trainer

if TYPE_CHECKING:
    from lavra.data.token_store.prepare import Prepared
    from lavra.data.tokenizers.tokenizer import Tokenizer

Verdict = Literal["ok", "warn", "fail"]
"""Verdict of a check: all is well; worth a look, training goes on; or training would be wrong."""


@dataclass(frozen=True)
class CheckResult:
    """Result of a check.

    Attributes:
        name: Name of the check.
        verdict: `ok`; `warn`, which is worth a look and does not stop training; or `fail`, with which training would be
            wrong.
        measured: What was observed, with its numbers.
        expected: What a correct set-up shows.
        remedy: What to do about the problem; empty if there is none.
        details: Further lines to look at, such as the labels as text.

    Examples:
        >>> CheckResult("evaluation", "ok", "2.5 and 2.5 nats per token", "the same loss twice").to_json()["verdict"]
        'ok'
    """

    name: str
    verdict: Verdict
    measured: str
    expected: str
    remedy: str = ""
    details: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON values, with `details` only if there are any."""
        values: dict[str, Any] = {
            "name": self.name,
            "verdict": self.verdict,
            "measured": self.measured,
            "expected": self.expected,
            "remedy": self.remedy,
        }
        return values | ({"details": list(self.details)} if self.details else {})


@dataclass(frozen=True)
class Storage:
    """How a model is saved and loaded.

    Attributes:
        save: Function that writes the model into a folder.
        load: Function that reads a model from a folder and returns it on the device that trains.
    """

    save: Callable[[Path], None]
    load: Callable[[Path], Model]


class Store(Protocol):
    """Protocol of a token store or an example store, whose files can be verified."""

    @property
    def folder(self) -> Path:
        """Folder of the store."""
        ...

    def verify(self) -> None:
        """Read every file and compare its hash with the one in the manifest.

        Raises:
            CorruptFile: if a file differs from what was written; the message names it.
        """
        ...


@dataclass
class CheckContext:
    """Everything that the checks need to know about a training set-up, before its first step.

    Checks may change weights, gradients and the state of the trainer only inside the context managers of
    `lavra.checks.sandbox`, which restore everything.

    Attributes:
        trainer: Trainer with model, objective, optimisers and updates as they will train.
        objective: The same objective, for rows short enough for a quick check.
        source: Source of such rows.
        rows: Number of rows in the batch that checks work on.
        token_targets: Whether what is predicted are tokens, one for each position, and not something about whole texts.
        causal: Whether a prediction may depend only on earlier tokens.
        mixed_rows: Rows that contain several documents each and the ends of documents; empty if the objective does not
            pack documents.
        must_learn: Token ids that have to be a target somewhere, such as the end-of-document token.
        frozen: Names of the parameters that are meant to be frozen.
        first_loss: Loss in nats of predictions without any knowledge; None for the uniform ones over the vocabulary.
        loaded: Whether the weights come from a pretrained model.
        tied: Whether head and embedding are meant to share one tensor.
        storage: How the model is saved and loaded; None skips that check.
        export: How the model is exported and imported; None if no other format can express it.
        data: Prepared text; None if it is not known.
        stores: Stores that contain the training and the validation data.
        tokenizer: Tokenizer that decodes token ids; None shows them as numbers.
        tokens_per_second: Speed that the plan expects; None if it has no estimate.
        encoded: First batch of `rows` rows on the device of the trainer, which is made once.
    """

    trainer: Trainer
    objective: Objective
    source: Source
    rows: int
    token_targets: bool = True
    causal: bool = True
    mixed_rows: Sequence[Any] = ()
    must_learn: tuple[int, ...] = ()
    frozen: frozenset[str] = frozenset()
    first_loss: float | None = None
    loaded: bool = False
    tied: bool = False
    storage: Storage | None = None
    export: Storage | None = None
    data: Prepared | None = None
    stores: tuple[Store, ...] = ()
    tokenizer: Tokenizer | None = None
    tokens_per_second: float | None = None
    encoded: Batch = field(init=False)

    def __post_init__(self) -> None:
        self.encoded = self.encode(self.source.rows(0, self.rows)).to(self.trainer.device)

    @property
    def model(self) -> Model:
        """The model that the trainer trains."""
        return self.trainer.model

    @property
    def module(self) -> nn.Module:
        """The model that the trainer trains, as a `torch.nn.Module`."""
        return self.trainer.model  # pyright: ignore[reportReturnType]

    def encode(self, rows: Sequence[Any]) -> Batch:
        """Return a batch of `rows` on the CPU, with the same random masks in every call."""
        return self.objective.encode(rows, row_streams(self.trainer.batches.seed, "check", first=0), 0.0)

    def decode(self, number: int) -> str:
        """Return a token as visible text, with `·` for spaces and `⏎` for line breaks; its id without a tokenizer."""
        if self.tokenizer is None:
            return str(number)
        return self.tokenizer.decode([number], special=True).replace("\n", "⏎").replace(" ", "·") or f"<{number}>"


Check = Callable[[CheckContext], Sequence[CheckResult]]
"""Function that examines a training set-up and returns one result or several."""

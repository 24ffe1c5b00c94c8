"""The contract of a check: what it is given, and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from torch import nn

from lavra.core.seeds import row_streams
from lavra.models.contract import Batch, Model
from lavra.objectives.base import Objective
from lavra.training.batches import Source
from lavra.training.trainer import Trainer

if TYPE_CHECKING:
    from lavra.data.token_store.prepare import Prepared
    from lavra.data.tokenizers.tokenizer import Tokenizer

Verdict = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class CheckResult:
    """What a check found.

    Attributes:
        name: of the check.
        verdict: `ok`; `warn`: worth a look, training goes on; `fail`: the training would be wrong.
        measured: what was seen, with its numbers.
        expected: what a right set-up shows.
        remedy: what to do about it; empty when all is well.
        details: further lines to look at, such as labels as text.
    """

    name: str
    verdict: Verdict
    measured: str
    expected: str
    remedy: str = ""
    details: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain values; details only where there are some."""
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
    """How a model is written and read again.

    Attributes:
        save: writes the model into a folder.
        load: reads it from there, on the same device.
    """

    save: Callable[[Path], None]
    load: Callable[[Path], Model]


class Store(Protocol):
    """A token store or an example store, whose files can be compared with what was written."""

    @property
    def folder(self) -> Path:
        """Where it is."""
        ...

    def verify(self) -> None:
        """Read every file and compare its hash with the manifest's; raises `Damaged`, naming the file."""
        ...


@dataclass
class Subject:
    """A training set-up to be checked, before its first step.

    Checks may change weights, gradients and the trainer's state only inside the blocks of `checks.state`, which put
    everything back.

    Attributes:
        trainer: model, objective, optimisers and updates as they will train.
        objective: as the trainer's, with rows short enough for a quick check.
        source: of such rows.
        rows: how many of them make the batch that checks work on.
        causal: whether a prediction may see only what stands before it.
        mixed_rows: rows that hold several documents each, where the objective packs documents; they also hold the ends
            of documents.
        must_learn: ids that have to be a target somewhere, such as the end-of-document token.
        frozen: names of the parameters that are meant not to learn.
        loaded: the weights come from a trained model.
        tied: the head is meant to be the embedding.
        storage: how the model is saved; None leaves that check out.
        export: how it is written for others and read from there; None where no other format expresses it.
        data: the text, where it is known.
        stores: that hold what is trained on and validated with.
        tokenizer: that decodes the ids; None shows them as numbers.
        tokens_per_second: that the plan expects; None when it has no opinion.
        encoded: the first batch, made once.
    """

    trainer: Trainer
    objective: Objective
    source: Source
    rows: int
    causal: bool = True
    mixed_rows: Sequence[Any] = ()
    must_learn: tuple[int, ...] = ()
    frozen: frozenset[str] = frozenset()
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
        """The same, as a module."""
        return self.trainer.model  # pyright: ignore[reportReturnType]

    def encode(self, rows: Sequence[Any]) -> Batch:
        """Make a batch of rows, with the same randomness every time, on the CPU."""
        return self.objective.encode(rows, row_streams(self.trainer.batches.seed, "check", first=0), 0.0)

    def decode(self, number: int) -> str:
        """Return one token as visible text: its number where there is no tokenizer."""
        if self.tokenizer is None:
            return str(number)
        return self.tokenizer.decode([number], special=True).replace("\n", "⏎").replace(" ", "·") or f"<{number}>"


Check = Callable[[Subject], Sequence[CheckResult]]
"""A check looks at a subject and answers with one result or several."""

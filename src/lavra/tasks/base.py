"""What a task is: which rows it reads, what is learned from them, and how the result is measured."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch

from lavra.core.errors import InputError
from lavra.data.examples.labelled import LabelReader
from lavra.data.tokenizers.tokenizer import Tokenizer
from lavra.generation.classifying import Classification
from lavra.models.heads import attach_head, width_of
from lavra.objectives.base import Objective
from lavra.objectives.room import Room
from lavra.tasks.datasets import DataDescription, Dataset, Rows
from lavra.training.deadline import Deadline, amount_in_time
from lavra.training.plan import Plan
from lavra.training.validation import ValidationLoss, likelihood_metrics, validation_loss

if TYPE_CHECKING:
    from lavra.config.training import ObjectiveConfig, SetupConfig
    from lavra.models.hf.model import HFModel
    from lavra.models.native.decoder import Decoder

ModelKind = Literal["decoder", "encoder", "encoder-decoder"]
"""The kinds of models."""


TRIAL_SHARE = 32
"""Part of the final evaluation by which its speed is measured."""

LEAST_EVALUATED = 4096
"""Fewest tokens that are evaluated, however slow the machine is."""

_LEAST_ROWS = 8
"""Fewest rows that are evaluated, however slow the machine is."""

_MASK_RATE = 0.3
"""Share of the tokens that the masked objective predicts from scratch (Wettig et al. 2022, arXiv 2202.08005: more than
BERT's 15 % is better), and with a base model."""
_MASK_RATE_OF_A_BASE = 0.15


@dataclass(frozen=True)
class Trained:
    """A trained model with what its task needs to measure it.

    Attributes:
        model: The model in evaluation mode, with its head.
        objective: The objective that it was trained with.
        dataset: The data set.
        plan: The plan of the run.
        device: Device that holds the model and computes.
        folder: The folder of the run, in which a task may write files of its own; None where it may not.
        deadline: When the measurement should be done; None for no limit.
        run: The folder of the run that the model comes from, whose baselines are measured beside it; None for none.
    """

    model: Decoder | HFModel
    objective: Objective
    dataset: Dataset
    plan: Plan
    device: torch.device
    folder: Path | None = None
    deadline: Deadline | None = None
    run: Path | None = None


@dataclass(frozen=True)
class Measured:
    """The figures of a trained model on validation data.

    Attributes:
        figures: The figures by name, as plain values; an estimate is `{"value": …, "low": …, "high": …}`. Those of
            `result.json` are made of them.
        table: The figures as a table of plain text.
    """

    figures: Mapping[str, Any]
    table: str


class Task(ABC):
    """A task: what a model is to learn from which rows, and how it is measured.

    A task is one class in one file, registered in the table of tasks by `lavra.tasks.table.register`. Everything else
    (reading, splitting, the plan, the steps, checkpoints, resuming, the record of the run) is the same for all tasks.

    Attributes:
        name: The name of the task, as in `--task`.
        objectives: The names of its objectives, as in `--objective`; the first is the default.
        kinds: The kinds of models that can learn it.
        rows: What its rows are.
        columns: For labelled rows, what reads them where their columns have fixed names; see `reader`.
        causal: Whether a prediction may depend only on the tokens before it, which the checks prove.
        bos: Whether documents begin with the tokenizer's own first token, as encoders need it.
        gives_likelihood: Whether its models give a text a probability, which is measured in bits per byte.
        follows_scaling_law: Whether the built-in scaling law forecasts its loss.
        counts_ngrams: Whether a new model starts from n-gram counts, because it predicts what comes next.
        packs: Whether its objective takes several documents or examples in one row, where the model can keep them
            apart.
        fewest_steps: Steps that a run has at least by its plan, for which a step is made smaller than suits the data
            where the time is short; 1 for no such number.
        fewest_rows: Rows that such a step keeps at least.
        adapting_rate: AdamW's peak learning rate for all weights of a base model; None for the usual one.
        most_epochs: Passes over the data after which a base model, and a model from scratch, only memorises them, in
            a run whose length is not given otherwise; None for no such number.
        sources: Whether the model reads a source beside the text that it writes.
        keeps_head: Whether the head belongs to the trained model. Otherwise it is a part of checkpoints alone.
        comparable_losses: Whether the validation losses of different steps can be compared, so that the step with the
            lowest is the best.
        learns: What its targets are called, in the plural.
        headline: The metric that is shown while training goes on.

    Examples:
        >>> from lavra.tasks.table import find_task
        >>> find_task("language-modelling").objectives
        ('causal',)
    """

    name: ClassVar[str]
    objectives: ClassVar[tuple[str, ...]]
    kinds: ClassVar[tuple[ModelKind, ...]] = ("decoder",)
    rows: ClassVar[Rows] = "pairs"
    columns: ClassVar[LabelReader | None] = None
    causal: ClassVar[bool] = True
    bos: ClassVar[bool] = False
    gives_likelihood: ClassVar[bool] = False
    follows_scaling_law: ClassVar[bool] = False
    counts_ngrams: ClassVar[bool] = False
    packs: ClassVar[bool] = True
    fewest_steps: ClassVar[int] = 1
    fewest_rows: ClassVar[int] = 16
    adapting_rate: ClassVar[float | None] = None
    most_epochs: ClassVar[tuple[float, float] | None] = None
    sources: ClassVar[bool] = False
    keeps_head: ClassVar[bool] = True
    comparable_losses: ClassVar[bool] = True
    learns: ClassVar[str] = "tokens"
    headline: ClassVar[str] = "bits_per_byte"

    def recognises(self, data: DataDescription) -> bool:
        """Return whether rows like these are what the task learns from, where the request does not name a task.

        By default a task of text takes any documents, and another task nothing.
        """
        plain = data.prepared == "text" or (data.prepared is None and not data.pairs_named)
        return self.rows == "text" and plain

    def usual_objective(self, data: DataDescription) -> str:
        """Return the name of the objective that is taken for data like these where the request names none.

        Args:
            data: What is known of the data.
        """
        return self.objectives[0]

    def headline_of(self, objective: str) -> str:
        """Return the name of the metric that is shown while training goes on.

        Args:
            objective: The name of the objective.
        """
        return self.headline

    def usual_dropout(self, objective: str) -> float:
        """Return the dropout probability with which a base model learns where the request names none.

        Args:
            objective: The name of the objective.
        """
        return 0.0

    def reader(self, data: DataDescription) -> LabelReader | None:
        """Return what reads the labelled rows of data like these; None for other rows.

        By default it is `columns`.

        Args:
            data: What is known of the data.
        """
        return self.columns

    def reader_from(self, columns: dict[str, Any]) -> LabelReader:
        """Return what reads further rows of a trained model, which may lack labels.

        Args:
            columns: What `LabelReader.to_json` returned when the model was trained; the facts hold it as `columns`.

        Raises:
            ValueError: If the rows of the task have no labels.
        """
        if self.columns is None:
            raise ValueError(f"the task {self.name} reads no labelled rows")
        return type(self.columns)(**columns)

    @abstractmethod
    def objective(self, plan: Plan, model: Decoder | HFModel, dataset: Dataset) -> Objective:
        """Return the training objective.

        Args:
            plan: The plan of the run.
            model: The model that learns.
            dataset: The data set.
        """

    def mask_rates(self, asked: ObjectiveConfig, *, adapting: bool) -> tuple[float, float]:
        """Return the share of the tokens that a masked objective predicts at the beginning and at the end of a run.

        Args:
            asked: The request, as far as it is about the objective.
            adapting: Whether a base model is trained.
        """
        usual = _MASK_RATE_OF_A_BASE if adapting else _MASK_RATE
        first = usual if asked.mask_rate is None else asked.mask_rate
        return first, first if asked.final_mask_rate is None else asked.final_mask_rate

    def predicted(self, mask_rates: tuple[float, float]) -> float:
        """Return the share of the tokens at which the head of a model from scratch is computed: all, by default.

        Args:
            mask_rates: The share that a masked objective predicts at the beginning and at the end of the run.
        """
        return 1.0

    def room(
        self, asked: ObjectiveConfig, objective: str, kind: ModelKind, context: int, limit: int | None, *, base: Any
    ) -> Room:
        """Return how much text a row holds, and how long the sequences become that are made of it.

        By default a row is a sequence as it is.

        Args:
            asked: The request, as far as it is about the objective.
            objective: The name of the objective.
            kind: The kind of the model.
            context: Tokens of a row that are wanted.
            limit: Most tokens of a sequence that the model can read; None where that can be set.
            base: The pretrained model, or the shape of a decoder of lavra's own; None for training from scratch.

        Raises:
            InputError: If such a model cannot learn the objective.
        """
        return Room(context, context)

    def complete_tokenizer(
        self, tokenizer: Tokenizer, asked: ObjectiveConfig, objective: str, kind: ModelKind
    ) -> Tokenizer:
        """Return a tokenizer with the special tokens that an objective needs; by default the tokenizer itself.

        Args:
            tokenizer: The tokenizer of the model.
            asked: The request, as far as it is about the objective.
            objective: The name of the objective.
            kind: The kind of the model.
        """
        return tokenizer

    def objective_named(self, name: str) -> str:
        """Return the name of the objective of a request: the one that is named, or the task's first for "auto"."""
        return name if name in self.objectives else self.objectives[0]

    def facts(self, dataset: Dataset) -> dict[str, Any]:
        """Return what the task has to know of the data for good, such as the names of classes, as plain values.

        They are kept in the plan of the run and beside the model. For labelled rows, what reads them is added as
        `columns`, and the options of the head as `head`.

        Args:
            dataset: The data set.
        """
        return {}

    def asked(self, config: SetupConfig, data: DataDescription) -> dict[str, Any]:
        """Return what the task has to know of the request for good, as plain values, which become part of the facts.

        Args:
            config: The request.
            data: What is known of the data, and of the model that is trained.
        """
        return {}

    def before_training(self, trained: Trained) -> None:
        """Measure a model before its first step, where the task compares the trained model with it.

        It is called on the process that keeps the record. By default nothing is measured.

        Args:
            trained: The model as it came, its data, and the folder of the run.
        """
        return

    def head(self, facts: dict[str, Any], width: int) -> torch.nn.Module | None:
        """Return the head that the model gets for this task; None to keep the model's own.

        The head becomes `model.task_head`, and is trained, saved and exported with the model. It is made again whenever
        a run is resumed or opened. Initial weights are drawn from torch's default generator, which is seeded for it.

        Args:
            facts: What `facts` returned.
            width: Size of the model's features.
        """
        return None

    def attach_head(self, model: Decoder | HFModel, facts: dict[str, Any]) -> None:
        """Give a model the head of this task, with initial weights; by default that of `head`.

        Args:
            model: The model.
            facts: What `facts` returned.
        """
        head = self.head(facts, width_of(model))
        if head is not None:
            attach_head(model, head)

    def no_forecast(self, objective: str) -> str | None:
        """Return why the loss of an objective cannot be forecast, in words; None where the scaling law does it.

        Args:
            objective: The name of the objective.
        """
        if self.follows_scaling_law:
            return None
        return f"the scaling law is that of predicting every next token, and says nothing of {objective}"

    def forecast_caveat(self, objective: str) -> str | None:
        """Return what limits the forecast of an objective that the scaling law does forecast; None for nothing.

        Args:
            objective: The name of the objective.
        """
        return None

    def share_of_pretraining(self, objective: str) -> float | None:
        """Return the usual length of a run as a share of the tokens that its base model was trained on.

        None, the default, is for objectives that have no such length.

        Args:
            objective: The name of the objective.
        """
        return None

    def first_loss(self, facts: dict[str, Any]) -> float | None:
        """Return the loss in nats of predictions without any knowledge, which a new model is to have.

        None, the default, is for tasks that predict tokens: the logarithm of the size of the vocabulary, and for a base
        model at most the loss of a unigram model. NaN says that nothing is known of it beforehand.

        Args:
            facts: What `facts` returned.
        """
        return None

    def must_learn(self, tokenizer: Tokenizer) -> tuple[int, ...]:
        """Return the ids that have to occur among the targets, such as the end of a document."""
        return (tokenizer.end_of_document,)

    def metrics(
        self,
        loss: float,
        parts: Mapping[str, float],
        *,
        bytes_per_target: float,
        words_per_target: float | None = None,
    ) -> dict[str, float]:
        """Return the metrics of a training step or of a validation, beside the loss.

        Args:
            loss: Mean loss over the targets, in nats.
            parts: Mean over the targets of whatever else the objective measured (`Loss.parts`); empty for a step.
            bytes_per_target: Bytes of text for each target.
            words_per_target: Words of text for each target; None where they were not counted.
        """
        return likelihood_metrics(bytes_per_target, words_per_target)(loss, parts)

    def evaluate(self, trained: Trained) -> Measured:
        """Measure a trained model on the validation data, with confidence intervals.

        By default the loss of the objective, as perplexity and bits per byte.

        Args:
            trained: The model and its data.
        """
        plan, found = trained.plan, trained.dataset.validation_set(trained.plan)

        def measure(rows: int) -> ValidationLoss:
            return validation_loss(
                trained.model,
                trained.objective,
                found.source,
                rows,
                name=plan.objective,
                bytes_per_target=found.bytes_per_target,
                device=trained.device,
                seed=plan.seed,
            )

        measured = measure(rows_in_time(trained, found.rows, measure))
        values = measured.to_json()
        figures = {name: values[name] for name in ("loss", "perplexity", "bits_per_byte")}
        return Measured({**figures, "evaluation": {**values, "validation_rows": found.rows}}, str(measured))

    def predict(self, trained: Trained) -> Iterator[tuple[int, Classification]]:
        """Yield the number of each row that was given to a trained model (its label `row`), and what is predicted.

        Args:
            trained: The model, with the given rows as its validation data.

        Raises:
            InputError: If the models of the task predict nothing of this kind.
        """
        raise InputError(f"a model for {self.name} says nothing of rows", "use it with the command of its task")

    def samples(self, trained: Trained, count: int) -> list[dict[str, str]]:
        """Return what the model makes of some validation rows, for a person to read: `prompt`, `text` and `expected`.

        Args:
            trained: The model and its data.
            count: Number of samples.
        """
        return []


def rows_in_time(trained: Trained, rows: int, measure: Callable[[int], object]) -> int:
    """Return on how many validation rows a model is measured: as many as the plan says and the time allows.

    Args:
        trained: The model, with its plan and its deadline.
        rows: Number of validation rows that there are.
        measure: Function that measures a number of rows.
    """
    rows = min(rows, max(1, trained.plan.evaluation_tokens // trained.plan.context))
    least = min(rows, max(_LEAST_ROWS, LEAST_EVALUATED // trained.plan.context))
    return amount_in_time(rows, trained.deadline, measure, trial=max(1, rows // TRIAL_SHARE), least=least)

"""The table of tasks: the one place where tasks are listed, found by name, and chosen by the data and the model."""

from __future__ import annotations

from lavra.config.training import SetupConfig
from lavra.core.errors import InputError
from lavra.core.nearest import did_you_mean
from lavra.models.presets import named_architecture
from lavra.tasks.base import ModelKind, Task
from lavra.tasks.classification import ClassificationTask
from lavra.tasks.completion import CompletionTask
from lavra.tasks.datasets import DataDescription
from lavra.tasks.denoising import Denoising
from lavra.tasks.embedding import EmbeddingTask
from lavra.tasks.infilling import Infilling
from lavra.tasks.language_modelling import LanguageModelling
from lavra.tasks.mlm import MaskedLanguageModelling
from lavra.tasks.multi_label import MultiLabelTask
from lavra.tasks.ordinal import OrdinalTask
from lavra.tasks.question_answering import QuestionAnsweringTask
from lavra.tasks.regression import RegressionTask
from lavra.tasks.replaced_tokens import ReplacedTokenDetection
from lavra.tasks.seq2seq import Seq2SeqTask
from lavra.tasks.token_classification import TokenClassificationTask

_TABLE: dict[str, Task] = {
    task.name: task
    for task in (
        MultiLabelTask(),
        TokenClassificationTask(),
        ClassificationTask(),
        RegressionTask(),
        OrdinalTask(),
        CompletionTask(),
        EmbeddingTask(),
        QuestionAnsweringTask(),
        Seq2SeqTask(),
        MaskedLanguageModelling(),
        ReplacedTokenDetection(),
        LanguageModelling(),
        Infilling(),
        Denoising(),
    )
}
"""Every task by its name. Where several fit, the first one is taken."""

FROM_SCRATCH = "a model trained from scratch"
"""What messages call a model that is not a base model."""

_KINDS = {"text": "plain text", "pairs": "examples with a part to predict", "labelled": "rows with labels"}
"""What the rows of tasks are called in messages."""


def register(task: Task) -> None:
    """Add a task to the table; it is tried before those that are there already.

    Args:
        task: The task. One of the same name is replaced.

    Examples:
        >>> from lavra.tasks.table import register, tasks
        >>> register(CompletionTask())
        >>> tasks()[0].name
        'completion'
    """
    others = {name: other for name, other in _TABLE.items() if name != task.name}
    _TABLE.clear()
    _TABLE.update({task.name: task, **others})


def tasks() -> tuple[Task, ...]:
    """Return all tasks, in the order in which they are tried."""
    return tuple(_TABLE.values())


def find_task(name: str) -> Task:
    """Return a task by its name.

    Raises:
        InputError: If there is no such task; the message names the nearest.
    """
    if name in _TABLE:
        return _TABLE[name]
    hint = did_you_mean(name, _TABLE)
    raise InputError(
        f"there is no task {name!r}",
        f"{hint}tasks: {', '.join(_TABLE)}; one of your own is registered by lavra.tasks.table.register",
    )


def choose_task(asked: str, objective: str, kind: ModelKind, data: DataDescription, place: str) -> tuple[Task, str]:
    """Return the task of a run and its objective: those of the request, or the first that fits model and data.

    Args:
        asked: The name of the task in the request, or "auto".
        objective: The name of the objective in the request, or "auto".
        kind: The kind of the model.
        data: What is known of the data.
        place: The model, for messages.

    Raises:
        InputError: If there is no such task or objective, or it does not fit the model and the data.
    """
    named = [find_task(asked)] if asked != "auto" else list(tasks())
    if objective != "auto":
        named = [task for task in named if objective in task.objectives]
        if not named:
            known = ", ".join(sorted({name for task in tasks() for name in task.objectives}))
            whose = f"the task {asked} has" if asked != "auto" else "there is"
            raise InputError(f"{whose} no objective {objective!r}", f"objectives: {known}")
    able = [task for task in named if kind in task.kinds]
    fitting = [task for task in able if task.recognises(data)]
    explicit = asked != "auto" or objective != "auto"
    if explicit and able and data.prepared in (None, able[0].rows):
        fitting = fitting or able[:1]  # what the data lack is told when they are read
    if not fitting or (explicit and not able):
        raise _misfit(asked, objective, kind, data, place)
    chosen = fitting[0]
    return chosen, objective if objective != "auto" else chosen.usual_objective(data)


def kind_from_scratch(config: SetupConfig) -> ModelKind:
    """Return what a model trained from scratch is: what the request says, what its preset is, or what the task needs.

    Args:
        config: The request.

    Examples:
        >>> from lavra.config.training import ObjectiveConfig, SetupConfig
        >>> kind_from_scratch(SetupConfig(objective=ObjectiveConfig(name="mlm"))), kind_from_scratch(SetupConfig())
        ('encoder', 'decoder')
    """
    known = config.model.architecture or named_architecture(config.model.preset)
    if known is not None:
        return known
    named = [task for task in tasks() if config.task == task.name or config.objective.name in task.objectives]
    return "decoder" if not named or "decoder" in named[0].kinds else named[0].kinds[0]


def _misfit(asked: str, objective: str, kind: ModelKind, data: DataDescription, place: str) -> InputError:
    possible = next((task for task in tasks() if kind in task.kinds and task.recognises(data)), None)
    what = _KINDS["pairs" if find_task("completion").recognises(data) else "text"]
    if possible is None:
        remedy = "give rows with a source and a target" if kind == "encoder-decoder" else "give plain text"
        return InputError(f"{place} is an {kind}, which cannot learn from {what}", remedy)
    flag, value = ("--objective", objective) if objective != "auto" else ("--task", asked)
    other = possible.objectives[0] if objective != "auto" else possible.name
    return InputError(
        f"{flag} {value} does not fit: {place} is a {kind} and the data are {what}",
        f"use {flag} {other}, or leave it out",
    )

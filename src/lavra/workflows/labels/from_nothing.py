"""A network from nothing, beside the linear model, where no pretrained model is given and many texts have no label.

It first learns the language of the user's own texts, without labels, and then the labels. Whether that is better than
the linear model is decided inside the training rows: an ordinary run on them divides them anew, and says which of the
linear model, the frozen features and the whole network is best there.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from lavra.config.training import LabelsConfig, ModelConfig, TrainConfig
from lavra.core.disk.run_folder import RunFolder
from lavra.core.errors import InputError
from lavra.core.progress import log
from lavra.core.units import counted, show_count, show_duration
from lavra.data.readers.documents import is_repeatable, read_rows
from lavra.data.readers.rows import BadRows
from lavra.evaluation.labels.metrics import METRICS
from lavra.tasks.labelled_text import LabelledTextTask
from lavra.tasks.linear_baseline import LINEAR
from lavra.tasks.table import FROM_SCRATCH, choose_task, find_task, kind_from_scratch
from lavra.workflows.datasets.preparation import describe_data
from lavra.workflows.datasets.text import is_prepared
from lavra.workflows.labels.adaptation import adapted
from lavra.workflows.labels.fold_rows import FOLDER, FoldRows, write_rows, written_rows
from lavra.workflows.labels.labeller import DELIVERS
from lavra.workflows.labels.linear_run import is_linear_request
from lavra.workflows.labels.several_models import continued, started, task_of_rows
from lavra.workflows.labels.staged_run import deliver
from lavra.workflows.labels.table_rows import is_unlabelled
from lavra.workflows.labels.trials import Trial, fold_request, train_trial

SHORTEST = 300.0
"""Least seconds of a time budget in which a network from nothing is a candidate."""
LEAST_BYTES = 1 << 20
"""Least bytes of texts without a label, of which a network from nothing may learn a language."""

_READING = 0.4
"""Share of the time in which texts are read without labels."""
_DECIDING = 0.25
"""Share of what is left of it in which a network is tried inside the training rows."""

_TRIAL = "trial"
"""Name of the folder of the run that decides, among those of the folds."""

_NAMES = {LINEAR: "the linear model", "frozen": "frozen features with a linear head", "model": "the whole network"}


@dataclass(frozen=True)
class Unlabelled:
    """The texts without a label among the rows of a request.

    Attributes:
        rows: Number of them.
        bytes: Their bytes as UTF-8.
    """

    rows: int
    bytes: int

    @property
    def suffice(self) -> bool:
        """Whether a network from nothing may learn a language of them."""
        return self.bytes >= LEAST_BYTES

    def sentence(self, seconds: float | None) -> str:
        """Return in words whether a network from nothing is a candidate; empty where no row lacks a label.

        Args:
            seconds: Time budget of the run; None where none is given.
        """
        if not self.rows:
            return ""
        texts = f"{counted(self.rows, 'text')} without a label ({show_count(self.bytes)} bytes)"
        if not self.suffice:
            return f"{texts} are too few for a network from nothing to read: they are left out"
        if seconds is None or seconds < SHORTEST:
            return (
                f"{texts} are left out; with --budget {show_duration(SHORTEST)} or more, a network from nothing that "
                "first reads them is a candidate"
            )
        reading, deciding = _READING * seconds, _DECIDING * (1 - _READING) * seconds
        return (
            f"beside it, a network from nothing that first reads {texts} for {show_duration(reading)}: in "
            f"{show_duration(deciding)} it is decided inside the training rows which of them learns all of these"
        )


def unlabelled_texts(config: TrainConfig, task: LabelledTextTask) -> Unlabelled:
    """Count the texts without a label among the rows of a request.

    Args:
        config: The request.
        task: Its task.

    Raises:
        InputError: If the rows cannot be read.
    """
    reader, rows, size = task.reader(describe_data(config)), 0, 0
    text = config.text
    source = read_rows(
        config.data,
        text_column=None,
        encoding=text.encoding,
        validation=text.validation,
        wanted=list(reader.names),
        bad_rows=BadRows(),
    )
    lenient = replace(reader, may_lack_labels=True)
    for row in source:
        if row.is_validation or not is_unlabelled(reader, row):
            continue
        if (read := lenient.read(row, BadRows())) is not None:
            rows += 1
            size += len(read.prompt.encode()) + len(read.completion.encode())
    return Unlabelled(rows, size)


def may_begin_from_nothing(config: TrainConfig) -> bool:
    """Return whether a network from nothing is a candidate in a run: no model is named, and there are texts and time.

    Args:
        config: The request.
    """
    plain = config.base is None and config.model == ModelConfig() and config.folds is None and config.seeds == 1
    if not plain or config.labels.pseudo or config.budget is None or is_prepared(config.data):
        return False
    if config.budget < SHORTEST and not config.labels.adapt:
        return False
    try:
        if not all(is_repeatable(location) for location in config.data) or not is_linear_request(config):
            return False
        kind = kind_from_scratch(config)
        task, _ = choose_task(config.task, config.objective.name, kind, describe_data(config), FROM_SCRATCH)
        return isinstance(task, LabelledTextTask) and (
            config.labels.adapt > 0 or unlabelled_texts(config, task).suffice
        )
    except InputError:  # what is wrong is said by the run
        return False


def train_from_nothing(config: TrainConfig, began: float | None = None) -> RunFolder:
    """Train a network from nothing on the texts of a request, and deliver it or the linear model.

    Args:
        config: The request, with a time budget, for which `may_begin_from_nothing` is true.
        began: When the command started (`time.monotonic`), from which the budget counts; now if None.

    Returns:
        The folder of the finished run. `result.json` tells under `from_nothing` how it was decided.

    Raises:
        InputError: If the rows cannot be used.
        Interrupted: After a signal to stop; `resume_from_nothing` continues.
    """
    return started(config, began, _take_to_the_end)


def resume_from_nothing(run: RunFolder) -> RunFolder:
    """Continue a run that began from nothing to its end; stages that are finished are not trained again.

    Args:
        run: The folder of the run.
    """
    return continued(run, _take_to_the_end)


def began_from_nothing(run: RunFolder) -> bool:
    """Return whether a run without folds and stages of its request is one of `train_from_nothing`.

    Args:
        run: The folder of the run.
    """
    return written_rows(run.path) is not None


def _take_to_the_end(config: TrainConfig, run: RunFolder, began: float | None) -> None:
    begun = time.monotonic() if began is None else began
    reading = config.labels.adapt or _READING
    asked = replace(config, labels=LabelsConfig(adapt=reading))
    rows = written_rows(run.path) or write_rows(asked, run.path, task_of_rows(config))
    assert config.budget is not None
    log(
        "no --from MODEL is given: the candidates are a linear model, and a network from nothing that first reads "
        f"{counted(rows.unlabelled + rows.trained[0], 'text')} without labels. It is decided inside the "
        f"{counted(rows.trained[0], 'training row')} which of them learns all of these"
    )
    read = adapted(asked, rows, run, begun)
    left = max(1.0, config.budget - (time.monotonic() - begun))
    decided = _decided(read, rows, run, _DECIDING * left)
    left = max(1.0, config.budget - (time.monotonic() - begun))
    trial = Trial(0, config.seed, run.path / FOLDER / f"0-{config.seed}")
    final = fold_request(read, rows, 0, config.seed, str(trial.run), left)
    if decided[DELIVERS] == LINEAR:
        final = replace(final, base=None, model=ModelConfig(preset=LINEAR))
    train_trial(final, rows.known, run)
    told = {"from_nothing": {**decided, "read": rows.unlabelled + rows.trained[0]}}
    deliver(config, run, trial, told, begun)


def _decided(config: TrainConfig, rows: FoldRows, run: RunFolder, seconds: float) -> Mapping[str, Any]:
    """Return which model is best inside the training rows, and how they compare there, after saying it.

    Args:
        config: The request, whose base is the network that read the texts.
        rows: The rows of the run.
        run: The run.
        seconds: Time of the trial.
    """
    asked = replace(
        fold_request(config, rows, 0, config.seed, str(rows.folder / _TRIAL), seconds),
        text=replace(config.text, validation=(), encoding=None),
    )
    result = train_trial(asked, rows.known, run).result
    best = result.get(DELIVERS, "model")
    learner = "it" if best == LINEAR else "the network"
    log(f"inside the training rows, {_NAMES[best]} is best, so that {learner} now learns all of them")
    task = find_task(rows.task)
    assert isinstance(task, LabelledTextTask)
    metric = METRICS[task.kind][0]
    compared = {name: result[name] for name in ("against_linear", "against_frozen") if name in result}
    return {DELIVERS: best, "metric": metric, metric: result.get(metric), **compared}

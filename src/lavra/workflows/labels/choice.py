"""Which model of a run labels texts: the network that was trained, or the linear model beside it."""

from __future__ import annotations

from lavra.config.training import Prefer
from lavra.evaluation.labels.comparison import PairedComparison, compare
from lavra.evaluation.labels.metrics import METRICS
from lavra.evaluation.labels.predictions_file import read_predictions, write_predictions
from lavra.tasks.base import Measured
from lavra.tasks.labelled_dataset import LabelledDataset
from lavra.tasks.labelled_text import PREDICTIONS, LabelledTextTask
from lavra.tasks.linear_baseline import LINEAR, baseline_predictions
from lavra.workflows.labels.labeller import DELIVERS
from lavra.workflows.training.job_parts import JobParts

NETWORK = "model"
"""What `result.json` calls the network of a run."""


def choose_model(job: JobParts, measured: Measured) -> tuple[Measured, str]:
    """Return the figures of the model of a run that labels texts, and a sentence on why it does.

    The better one on the validation texts is taken, by the first metric of the task; with `--prefer small` the linear
    one, unless the network is better beyond the interval of the difference.

    Args:
        job: The training job, whose predictions for the validation texts lie in the folder of the run; they become
            those of the model that is taken.
        measured: The figures of the network.

    Returns:
        The same figures and an empty text for a run without a linear baseline. The figures say in `delivers` which
        model is taken, and in `against_linear` how the two compare.
    """
    task, data, run = job.task, job.dataset, job.run
    if run is None or not isinstance(task, LabelledTextTask) or not isinstance(data, LabelledDataset):
        return measured, ""
    if job.config.deliver == "last":  # a fold: the rows that measure it may not choose, neither step nor model
        return measured, ""
    if not (run.path / PREDICTIONS).is_file():  # a model of all rows has none to be measured on
        return measured, ""
    linear = baseline_predictions(run.path, task, job.plan.facts, data)
    if linear is None:
        return measured, ""
    network = read_predictions(run.path / PREDICTIONS)
    compared = compare(linear, network, METRICS[task.kind][0], seed=job.plan.seed)
    chosen = better(compared, job.config.head.prefer)
    if chosen == LINEAR:
        write_predictions(run.path / PREDICTIONS, linear)
        measured = task.measured(job.plan.facts, linear, {"network": network}, job.plan.seed)
    figures = {**measured.figures, DELIVERS: chosen, "against_linear": compared.to_json()}
    return Measured(figures, measured.table), sentence(compared, chosen, job.config.head.prefer)


def better(compared: PairedComparison, prefer: Prefer) -> str:
    """Return which model is delivered: `model` or `linear`.

    Args:
        compared: The network (second) against the linear model (first).
        prefer: Whether the better one is wanted, or the small one where it is as good within the interval.
    """
    if prefer == "small" and not _is_certain(compared):
        return LINEAR
    return NETWORK if compared.gain >= 0 else LINEAR


def _is_certain(compared: PairedComparison) -> bool:
    """Return whether the network is better beyond the interval of the difference."""
    low, high = compared.difference.low, compared.difference.high
    return compared.gain > 0 and low is not None and high is not None and low * high > 0


def sentence(compared: PairedComparison, chosen: str, prefer: Prefer) -> str:
    """Return in words how the network and the linear model compare, and which of them is delivered.

    Args:
        compared: The network (second) against the linear model (first).
        chosen: What `better` returned.
        prefer: What is wanted.
    """
    name, change = compared.metric.replace("_", " "), compared.difference
    low, high = change.low, change.high
    interval = "" if low is None or high is None else f" [{low:+.3f}, {high:+.3f}]"
    difference = f"{name} {compared.second.value:.3f} of the network, {compared.first.value:.3f} of the linear model"
    difference += f": {change.value:+.3f}{interval}, p = {compared.p_randomisation:.2g}"
    if chosen == NETWORK:
        return f"{difference}. The network labels texts"
    why = "it is as good within the interval" if prefer == "small" and compared.gain >= 0 else "it is better here"
    return f"{difference}. The linear model labels texts, because {why}; the network stays in the folder of the run"

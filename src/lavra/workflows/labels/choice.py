"""Which model of a run labels texts: the network that was trained, or a smaller one beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lavra.config.training import Prefer
from lavra.evaluation.labels.comparison import PairedComparison, compare
from lavra.evaluation.labels.metrics import METRICS, metric_value
from lavra.evaluation.labels.nested import best_member, cross_fitted
from lavra.evaluation.labels.predictions import Predictions
from lavra.evaluation.labels.predictions_file import read_predictions, write_predictions
from lavra.tasks.base import Measured
from lavra.tasks.labelled_dataset import LabelledDataset
from lavra.tasks.labelled_text import PREDICTIONS, LabelledTextTask
from lavra.tasks.linear_baseline import LINEAR, baseline_predictions
from lavra.workflows.labels.labeller import DELIVERS
from lavra.workflows.training.job_parts import JobParts

NETWORK = "model"
"""What `result.json` calls the network of a run."""
FROZEN = "frozen"
"""What it calls the base model with a linear head on its frozen features, and the folder of that head in a run."""

_COLUMNS = {NETWORK: "network"}
"""Names under which models stand beside the delivered one, where they are not their own."""

_IN_WORDS = {NETWORK: "the network", FROZEN: "the frozen features", LINEAR: "the linear model"}

_FEWEST = 20
"""Fewest rows of which halves choose for each other."""


def choose_model(job: JobParts, measured: Measured, frozen: Predictions | None = None) -> tuple[Measured, str]:
    """Return the figures of the model of a run that labels texts, and a sentence on why it does.

    The better one on the validation texts is taken, by the first metric of the task; with `--prefer small` the linear
    one, unless the network is better beyond the interval of the difference.

    Args:
        job: The training job, whose predictions for the validation texts lie in the folder of the run; they become
            those of the model that is taken.
        measured: The figures of the network.
        frozen: What a linear head on the frozen features of the base model predicts; None where it is no candidate.

    Returns:
        The same figures and an empty text for a run without other candidates. The figures say in `delivers` which
        model is taken, and in `against_linear` and `against_frozen` how they compare.
    """
    task, data, run, seed = job.task, job.dataset, job.run, job.plan.seed
    if run is None or not isinstance(task, LabelledTextTask) or not isinstance(data, LabelledDataset):
        return measured, ""
    if job.config.deliver == "last":  # a fold: the rows that measure it may not choose, neither step nor model
        return measured, ""
    if not (run.path / PREDICTIONS).is_file():  # a model of all rows has none to be measured on
        return measured, ""
    linear = baseline_predictions(run.path, task, job.plan.facts, data)
    beside = {} if linear is None else {LINEAR: linear}
    beside |= {} if frozen is None else {FROZEN: frozen}
    if not beside:
        return measured, ""
    found = chosen_among({**beside, NETWORK: read_predictions(run.path / PREDICTIONS)}, job.config.head.prefer, seed)
    if found.name != NETWORK:
        write_predictions(run.path / PREDICTIONS, found.tables[found.name])
    if found.name != NETWORK or frozen is not None:
        others = {_COLUMNS.get(name, name): table for name, table in found.tables.items() if name != found.name}
        measured = task.measured(job.plan.facts, found.tables[found.name], others, seed)
    return Measured({**measured.figures, DELIVERS: found.name, **found.told}, measured.table), found.sentence


@dataclass(frozen=True)
class Chosen:
    """The model that is delivered.

    Attributes:
        name: Its name: `model`, `frozen` or `linear`.
        tables: The predictions of all candidates by name.
        told: How they compare, as plain values.
        sentence: The same in words.
    """

    name: str
    tables: Mapping[str, Predictions]
    told: Mapping[str, Any]
    sentence: str


def chosen_among(tables: Mapping[str, Predictions], prefer: Prefer, seed: int = 0) -> Chosen:
    """Choose among the linear model, the frozen features with a linear head, and the network, by the same rows.

    What the choice itself flatters is measured too: each half of the rows by the model that the other half chooses.

    Args:
        tables: The predictions of the candidates, from the smallest to the largest; the last is the network.
        prefer: Whether the better one is wanted, or the small one where it is as good within the interval.
        seed: Seed of the intervals and of the division into halves.
    """
    names = list(tables)
    metric = METRICS[tables[names[-1]].kind][0]
    name, told, sentences = names[-1], dict[str, Any](), list[str]()
    for smaller in names[-2::-1]:
        compared = compare(tables[smaller], tables[name], metric, seed=seed)
        told[f"against_{smaller}"] = compared.to_json()
        chosen = better(compared, prefer, smaller, name)
        sentences.append(sentence(compared, chosen, prefer, smaller, name))
        name = chosen
    members = [tables[one] for one in names]
    if int(members[0].known.sum()) >= _FEWEST:
        table, decisions = cross_fitted(members, best_member(metric), seed=seed)
        told["choice"] = {"metric": metric, "on_rows_that_did_not_choose": metric_value(table, metric, decisions)}
    return Chosen(name, tables, told, "\n".join(sentences))


def better(compared: PairedComparison, prefer: Prefer, first: str = LINEAR, second: str = NETWORK) -> str:
    """Return the name of the model that is delivered.

    Args:
        compared: The larger model (second) against the smaller one (first).
        prefer: Whether the better one is wanted, or the small one where it is as good within the interval.
        first: Name of the smaller model.
        second: Name of the larger one.
    """
    if prefer == "small" and not _is_certain(compared):
        return first
    return second if compared.gain >= 0 else first


def _is_certain(compared: PairedComparison) -> bool:
    """Return whether the network is better beyond the interval of the difference."""
    low, high = compared.difference.low, compared.difference.high
    return compared.gain > 0 and low is not None and high is not None and low * high > 0


def sentence(
    compared: PairedComparison, chosen: str, prefer: Prefer, first: str = LINEAR, second: str = NETWORK
) -> str:
    """Return in words how two models compare, and which of them is delivered.

    Args:
        compared: The larger model (second) against the smaller one (first).
        chosen: What `better` returned.
        prefer: What is wanted.
        first: Name of the smaller model.
        second: Name of the larger one.
    """
    told = difference(compared, f"of {_IN_WORDS[second]}", f"of {_IN_WORDS[first]}")
    named = _IN_WORDS[chosen]
    delivered = f"{named[0].upper()}{named[1:]} labels texts"
    if chosen == second:
        return f"{told}. {delivered}"
    why = "it is as good within the interval" if prefer == "small" and compared.gain >= 0 else "it is better here"
    return f"{told}. {delivered}, because {why}"


def difference(compared: PairedComparison, second: str, first: str) -> str:
    """Return two models on one metric in words, with the difference, its interval, and the p-value of a paired test.

    Args:
        compared: The comparison.
        second: What stands behind the figure of the second model, which is named first: "of the network".
        first: What stands behind the figure of the first model.
    """
    name, change = compared.metric.replace("_", " "), compared.difference
    ends = "" if change.low is None or change.high is None else f" [{change.low:+.3f}, {change.high:+.3f}]"
    return (
        f"{name} {compared.second.value:.3f} {second}, {compared.first.value:.3f} {first}: {change.value:+.3f}{ends}, "
        f"p = {compared.p_randomisation:.2g}"
    )

"""The request of a trial: what the plan would choose anew is fixed, so that only the swept fields differ."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields, replace

from lavra.config.training import ModelConfig, TrainConfig
from lavra.tasks.datasets import Dataset
from lavra.training.plan import Plan

_DATA_FIELDS = ("base", "task", "objective.name")
"""Fields on which the prepared data depend, besides those of `text`, and for examples those of `_LENGTHS`."""
_LENGTHS = ("model.context", "objective.source_context", "model.preset")

_HEADS = ("heads", "kv_heads")


def shares_data(swept: Collection[str], rows: str) -> bool:
    """Return whether all trials learn from the same prepared data.

    Args:
        swept: The names of the swept fields.
        rows: What the rows of the data are, see `lavra.tasks.datasets.Rows`.
    """
    lengths = () if rows == "text" else _LENGTHS
    return not any(name.startswith("text.") or name in (*_DATA_FIELDS, *lengths) for name in swept)


def pinned(
    config: TrainConfig, plan: Plan, dataset: Dataset, swept: Collection[str], *, threads: int | None = None
) -> TrainConfig:
    """Return the request with what its plan chose by the speed of the machine and the size of the text.

    A trial is then to the bit the run that its own request gives, at any time on the same machine, and a swept field
    changes nothing but itself and what follows from it.

    Args:
        config: The request.
        plan: The plan of the request.
        dataset: The prepared data.
        swept: The names of the swept fields, which stay as they are.
        threads: Processor threads of a trial; those of the plan if None.
    """
    config = replace(config, model=_pinned_model(config.model, plan, swept))
    if "text.vocabulary" not in swept and plan.base is None and config.text.tokenizer is None:
        config = replace(config, text=replace(config.text, vocabulary=_vocabulary(config, dataset)))
    free = {"optimization.batch_tokens", "model.context", "model.preset", "base"} & set(swept)
    if not free:
        batch = config.optimization.batch_tokens or plan.batch_tokens
        config = replace(config, optimization=replace(config.optimization, batch_tokens=batch))
    machine = replace(
        config.machine,
        precision=plan.precision,
        threads=plan.threads if threads is None else threads,
        compile="yes" if plan.compile else "no",
        micro_batch_size=config.machine.micro_batch_size if free else plan.micro_batch_size,
    )
    every = (
        config.checkpoint_every or plan.checkpoint_every
    )  # the plan chooses it, and that of validations, by the speed
    return replace(config, machine=machine, checkpoint_every=every)


def _pinned_model(asked: ModelConfig, plan: Plan, swept: Collection[str]) -> ModelConfig:
    """Return the options of the shape with those of the plan; of a model of `transformers` as they are."""
    if plan.model is None or "model.preset" in swept:
        return asked
    free = {name.removeprefix("model.") for name in swept}
    if free & {"width", *_HEADS}:
        free |= set(_HEADS) - {name for name in _HEADS if getattr(asked, name) is not None}
    names = [field.name for field in fields(ModelConfig) if field.name not in ("preset", *free)]
    found = {name: getattr(plan.model, name, None) for name in names}
    return replace(asked, **{name: value for name, value in found.items() if value})  # what is off is so by default


def _vocabulary(config: TrainConfig, dataset: Dataset) -> int | None:
    """Return the size of the vocabulary to train; as asked for examples, whose tokenizer may have a token more."""
    return dataset.vocabulary if dataset.rows == "text" else config.text.vocabulary

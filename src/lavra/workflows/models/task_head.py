"""The head of a task on a model: attached to it, written beside its weights, and read again."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch

from lavra.config.training import HeadConfig
from lavra.core.disk.files import read_json, write_json
from lavra.core.errors import CorruptFile
from lavra.models.hf.model import HFModel
from lavra.models.native.decoder import Decoder
from lavra.tasks.base import ModelKind, Task
from lavra.tasks.table import find_task

HEAD_FILE = "head.json"
"""Name of the description of a head in the folder of a model."""
HEAD_WEIGHTS = "head.safetensors"
"""Name of the weights of a head in the folder of a model."""

FEW_TEXTS = 500
"""Training texts below which the head of a pretrained model is fitted to its frozen features first; with many, tuning
from random weights ended better."""

_PREFIX = "task_head."


def head_facts(asked: HeadConfig, kind: ModelKind, isolate: bool, context: int, texts: int = 0) -> dict[str, Any]:
    """Return the options of the head of a labelled task as plain values, for its facts.

    Args:
        asked: The options of the request.
        kind: The kind of the model: an encoder's texts are pooled by their first token, which the classes of
            `transformers` hold, or where there are few by their mean, which says more before the model is tuned; a
            decoder's by their last token, which alone has read all of the text.
        isolate: Whether several texts may share a row.
        context: Longest text in tokens that the model was trained for.
        texts: Number of training texts.
    """
    usual = "last" if kind == "decoder" else "mean" if texts < FEW_TEXTS else "first"
    pooling = usual if asked.pooling == "auto" else asked.pooling
    return {
        "kind": kind,
        "pooling": pooling,
        "dropout": asked.dropout,
        "class_weights": asked.class_weights,
        "isolate": isolate,
        "context": context,
    }


def give_head(model: Decoder | HFModel, task: Task, facts: dict[str, Any], seed: int) -> None:
    """Give a model the head of a task, with initial weights; nothing for a task without one.

    The model's own language-modelling head is frozen then, because nothing is learned by it.

    Args:
        model: The model.
        task: The task.
        facts: What the task knows of the data (`Task.facts`).
        seed: Seed of the initial weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        task.attach_head(model, facts)


def own_weights(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return weights by name without those of the head of a task."""
    return {name: weight for name, weight in weights.items() if not name.startswith(_PREFIX)}


def write_head(folder: Path, model: Decoder | HFModel, weights: dict[str, torch.Tensor], task: str, facts: Any) -> None:
    """Write the head of a model beside its weights; nothing for a model without one.

    Args:
        folder: The folder of the model.
        model: The model.
        weights: Weights by name that take the place of those of the model.
        task: The name of the task.
        facts: What the task knows of the data.
    """
    from safetensors.torch import save_file

    head = getattr(model, "task_head", None)
    if head is None:
        return
    state = head.state_dict()
    state |= {name.removeprefix(_PREFIX): weight for name, weight in weights.items() if name.startswith(_PREFIX)}
    save_file({name: weight.detach().cpu().contiguous() for name, weight in state.items()}, folder / HEAD_WEIGHTS)
    write_json(folder / HEAD_FILE, {"task": task, "facts": facts})


def read_head(folder: Path, model: Decoder | HFModel) -> tuple[str, dict[str, Any]] | None:
    """Give a model the head that lies beside its weights.

    Args:
        folder: The folder of the model.
        model: The model.

    Returns:
        The name and the facts of the task; None where the folder holds no head.

    Raises:
        InputError: If the task is not registered.
        CorruptFile: If the weights do not fit the head.
    """
    from safetensors.torch import load_file

    path = folder / HEAD_FILE
    if not path.is_file():
        return None
    record: Any = read_json(path)
    give_head(model, find_task(record["task"]), record["facts"], 0)
    try:
        cast(torch.nn.Module, model.task_head).load_state_dict(load_file(folder / HEAD_WEIGHTS))
    except (RuntimeError, OSError) as error:
        raise CorruptFile(f"{folder / HEAD_WEIGHTS} does not fit {path}: {error}", "copy the model again") from error
    return record["task"], record["facts"]

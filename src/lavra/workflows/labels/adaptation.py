"""Domain adaptation: a model first reads the texts of the rows, without their labels.

An encoder learns to fill hidden words, and a decoder to continue texts (Gururangan et al. 2020, arXiv 2004.10964); a
new model is an encoder. The rows that measure a model are not among what it reads: of folds, therefore, the rows
without a label alone are.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from lavra.config.training import ObjectiveConfig, TrainConfig
from lavra.core.disk.files import write_atomically
from lavra.core.disk.json_lines import JsonLines, one_line
from lavra.core.disk.run_folder import RunFolder
from lavra.core.errors import InputError
from lavra.core.progress import log
from lavra.core.units import counted, show_duration
from lavra.workflows.labels.fold_rows import FoldRows
from lavra.workflows.labels.trials import train_trial
from lavra.workflows.training.autoconfig import given_seconds

_FOLDER = "adapted"
"""Name of the folder of the adapted model among those of the folds."""
_TEXTS = "texts.jsonl"


def refuse_adaptation(config: TrainConfig) -> None:
    """Refuse a request for an adaptation that has no model.

    Args:
        config: The request.

    Raises:
        InputError: If it names no pretrained model.
    """
    if config.labels.adapt and config.base is None:
        raise InputError(
            "--labels.adapt adapts a pretrained model",
            "name one: --from MODEL; without folds and with a --budget, a network from nothing reads the texts too",
        )


def adapted(config: TrainConfig, rows: FoldRows, run: RunFolder, began: float) -> TrainConfig:
    """Return the request with an adapted model in place of its own, after it was trained; the same without adaptation.

    Args:
        config: The request.
        rows: Its rows.
        run: The whole run.
        began: When the command started (`time.monotonic`).

    Raises:
        InputError: If there is no text that the model may read.
    """
    if not config.labels.adapt:
        return config
    path, texts = rows.folder / _FOLDER, rows.folder / _TEXTS
    read = _texts(config, rows)
    if not texts.exists():
        write_atomically(texts, "".join(one_line({"text": text}) + "\n" for text in read))
    length, told = _length(config, began)
    log(f"{config.base or 'a new encoder'} first reads {counted(len(read), 'text')} without labels, for {told}")
    asked = TrainConfig(
        data=(str(texts),),
        base=config.base,
        objective=ObjectiveConfig(name="auto" if config.base else "mlm"),
        out=str(path),
        force=True,
        seed=config.seed,
        machine=config.machine,
        check=False,
        samples=0,
        **length,
    )
    train_trial(asked, {}, run)
    return replace(config, base=str(path), labels=replace(config.labels, adapt=0.0))


def _length(config: TrainConfig, began: float) -> tuple[dict[str, Any], str]:
    """Return the length of the adaptation as a field of its request, and in words."""
    share, budget = config.labels.adapt, given_seconds(config)
    if budget is not None:
        seconds = max(1.0, share * (budget - (time.monotonic() - began)))
        return {"budget": seconds}, show_duration(seconds)
    if config.steps is not None:
        steps = max(1, round(share * config.steps))
        return {"steps": steps}, counted(steps, "step")
    name = "epochs" if config.epochs is not None else "tokens"
    amount = type(getattr(config, name))(share * getattr(config, name))
    return {name: amount}, f"{amount:,.3g} {name}"


def _texts(config: TrainConfig, rows: FoldRows) -> list[str]:
    files = [str(rows.without_label)] if rows.unlabelled else []
    files += [] if config.folds else rows.training(0)
    found = [
        " ".join(str(row[name]) for name in rows.columns) for file in files for row in JsonLines(Path(file)).read()
    ]
    if not found:
        raise InputError(
            "with --folds, an adapted model reads the rows without a label, and there are none",
            "add rows without a label, or leave --folds or --labels.adapt out",
        )
    return found

"""A first look at a request, before anything is written: whether its inputs exist and its packages are installed.

The folder of a run is made after that, so that a slip (a wrong path, a missing column or package) leaves no run behind.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from lavra.config.training import TrainConfig
from lavra.core.disk.run_folder import RunFolder, remove_run
from lavra.core.errors import InputError
from lavra.core.progress import log
from lavra.data.readers.documents import is_repeatable, read_rows
from lavra.data.readers.locations import find_files
from lavra.data.readers.rows import BadRows
from lavra.tasks.datasets import DataDescription
from lavra.tasks.table import FROM_SCRATCH, choose_task, kind_from_scratch
from lavra.training.updates.table import find_update
from lavra.workflows.datasets.preparation import describe_data
from lavra.workflows.datasets.text import is_prepared, open_tokenizer
from lavra.workflows.training.autoconfig import given_seconds

_TRACKERS = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}
"""The package that each experiment tracker needs."""


def look_first(config: TrainConfig) -> None:
    """Check the inputs of a request, without reading more than one row of them.

    Args:
        config: The request.

    Raises:
        InputError: If a file, a column, a package or an update is missing, or several lengths are given.
    """
    given_seconds(config)
    for name in config.track:
        if find_spec(_TRACKERS[name]) is None:
            raise InputError(f"--track {name} needs the package {_TRACKERS[name]}", "pip install 'lavra[track]'")
    for name in config.update:
        find_update(name)
    if any(location.startswith("hf:") for location in config.data) and find_spec("datasets") is None:
        raise InputError("hf: needs the package datasets", "pip install datasets")
    if config.text.tokenizer:
        open_tokenizer(config.text.tokenizer)
    files = [location for location in config.data if is_repeatable(location)]
    if not files or is_prepared(config.data):
        return
    find_files(files)
    if len(files) < len(config.data):
        return
    described, asked = describe_data(config), (config.task, config.objective.name)
    if config.base is None:
        choose_task(*asked, kind_from_scratch(config), described, FROM_SCRATCH)
    if asked == ("auto", "auto") and choose_task(*asked, "decoder", described, FROM_SCRATCH)[0].rows == "text":
        _tell_of_other_columns(config, described)
        next(read_rows(files, text_column=config.text.column, bad_rows=BadRows(policy=config.text.on_bad_row)), None)


_ABOUT_TEXT = frozenset(
    ("id", "source", "url", "title", "date", "author", "lang", "language", "split", "meta", "group")
)
"""Columns that tell about a text, and are no labels."""


def _tell_of_other_columns(config: TrainConfig, described: DataDescription) -> None:
    """Say how labels would be learned, where text is learned from a table that has another column."""
    others = sorted(described.columns - {config.text.column} - _ABOUT_TEXT)
    if others and config.text.column in described.columns:
        log(
            f"the column {config.text.column!r} is read as text to write like; to learn labels from another column "
            f"({', '.join(others[:5])}), name it: --label-column {others[0]}"
        )


def located(config: TrainConfig) -> TrainConfig:
    """Return the request with absolute paths, so that the run can be resumed from any working directory.

    Args:
        config: The request.
    """
    text = replace(config.text, tokenizer=_absolute(config.text.tokenizer))
    return replace(config, data=tuple(map(_place, config.data)), base=_absolute(config.base), text=text)


def _place(location: str) -> str:
    return os.path.abspath(os.path.expanduser(location)) if is_repeatable(location) else location


def _absolute(location: str | None) -> str | None:
    """Return the absolute path of an existing file or folder; a hub name is returned as it is."""
    return os.path.abspath(location) if location and Path(location).exists() else location


@contextmanager
def no_ghost(run: RunFolder) -> Iterator[None]:
    """Remove the run when the block raises an error about the request before a plan was written.

    Args:
        run: The folder of the run.
    """
    try:
        yield
    except (InputError, ImportError):
        if not run.plan:
            remove_run(run.path)
        raise

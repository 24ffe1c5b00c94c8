"""The table of further updates: those that a request names, besides the ones that every run has."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from lavra.core.errors import InputError
from lavra.core.nearest import did_you_mean
from lavra.training.updates.base import Update

if TYPE_CHECKING:
    from lavra.training.trainer import Trainer

_TABLE: dict[str, Callable[[Trainer], Update]] = {}


def register_update(name: str, make: Callable[[Trainer], Update]) -> None:
    """Add an update to the table, so that `--update NAME` puts it around each step.

    Args:
        name: Name of the update. One of the same name is replaced.
        make: Function that returns the update for a trainer. It is called when a run is built, also when it is
            resumed, before the state of the update is restored.
    """
    _TABLE[name] = make


def find_update(name: str) -> Callable[[Trainer], Update]:
    """Return the function that makes a registered update for a trainer.

    Args:
        name: Name of the update.

    Raises:
        InputError: If no update of this name is registered.
    """
    if name in _TABLE:
        return _TABLE[name]
    hint = did_you_mean(name, _TABLE)
    known = f"registered: {', '.join(_TABLE)}; " if _TABLE else ""
    raise InputError(
        f"no update {name!r} is registered",
        f"{hint}{known}one of your own is registered by lavra.training.updates.table.register_update",
    )

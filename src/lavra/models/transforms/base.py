"""The plug point: a change of a model that is recorded as plain values and can be made again."""

from __future__ import annotations

from typing import Protocol

from torch import nn


class ModelEdit(Protocol):
    """A change of a model. Edits are dataclasses of plain values; the same edit of the same model gives the same names.

    Their order matters: each sees what those before it have made of the model.
    """

    def apply(self, model: nn.Module) -> None:
        """Change `model` in place.

        Raises:
            InputError: if it matches nothing in the model (naming what there is), or the model cannot take it.
        """
        ...

    def fold(self, model: nn.Module) -> None:
        """Take the change back for an export, with what was learned worked into the model's own weights.

        Raises:
            InputError: if that cannot be done exactly.
        """
        ...


def root_of(model: nn.Module) -> nn.Module:
    """Return the module whose names people know: the `transformers` model inside a wrapped one, or the model itself."""
    inner = getattr(model, "inner", None)
    return inner if isinstance(inner, nn.Module) else model

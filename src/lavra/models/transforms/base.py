"""The interface of a change of a model, which is recorded as plain values so that it can be made again."""

from __future__ import annotations

from typing import Protocol

from torch import nn


class ModelTransform(Protocol):
    """A change of a model, such as an adapter or a frozen part.

    Implementations are dataclasses of plain values. The same change of the same model gives parameters of the same
    names. The order of several changes matters, because each sees the model that the earlier ones left.
    """

    def apply(self, model: nn.Module) -> None:
        """Change a model in place.

        Args:
            model: Model to change.

        Raises:
            InputError: If nothing in the model matches, in which case the message lists what there is, or the model
                cannot be changed in this way.
        """
        ...

    def merge(self, model: nn.Module) -> None:
        """Undo the change in place for an export, and merge what was learned into the weights of the model itself.

        Args:
            model: Model that `apply` changed.

        Raises:
            InputError: If that cannot be done exactly.
        """
        ...


def root_of(model: nn.Module) -> nn.Module:
    """Return the module whose parameter names users know: the `transformers` model itself, or our own decoder.

    Args:
        model: Model of the contract.

    Examples:
        >>> layer = nn.Linear(1, 1)
        >>> root_of(layer) is layer
        True
    """
    inner = getattr(model, "inner", None)
    return inner if isinstance(inner, nn.Module) else model

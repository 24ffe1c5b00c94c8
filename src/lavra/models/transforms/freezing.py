"""Freezing: parameters that training does not change."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from lavra.core.errors import InputError
from lavra.models.parameter_names import matching
from lavra.models.transforms.base import root_of


@dataclass(frozen=True)
class Freeze:
    """Freezes parameters, which then keep their values.

    Attributes:
        patterns: Names of modules or parameters, or globs, each of which must match something.

    Examples:
        >>> model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
        >>> Freeze(("0",)).apply(model)
        >>> [parameter.requires_grad for parameter in model.parameters()]
        [False, False, True, True]
    """

    patterns: tuple[str, ...]

    def apply(self, model: nn.Module) -> None:
        """Freeze the parameters that the patterns match; a tied head and its embedding go by either name.

        Args:
            model: Model to change in place.

        Raises:
            InputError: If a pattern matches nothing, or nothing is left to learn.
        """
        root = root_of(model)
        parameters = dict(root.named_parameters(remove_duplicate=False))
        for name in matching(parameters, self.patterns, "parameters"):
            parameters[name].requires_grad_(False)
        if not any(parameter.requires_grad for parameter in parameters.values()):
            raise InputError(f"--freeze {' '.join(self.patterns)} leaves nothing to learn", "freeze less")

    def merge(self, model: nn.Module) -> None:
        """Make every parameter trainable again.

        Args:
            model: Model to change in place.
        """
        model.requires_grad_(True)

"""Parameters that do not learn."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from lavra.core.errors import InputError
from lavra.models.parameter_names import matching
from lavra.models.transforms.base import root_of


@dataclass(frozen=True)
class Freeze:
    """Parameters that keep their values.

    Attributes:
        patterns: names of modules or parameters, or globs; each must match something.
    """

    patterns: tuple[str, ...]

    def apply(self, model: nn.Module) -> None:
        """Freeze what the patterns mean; a tied head and its embedding are one parameter: either name will do.

        Raises:
            InputError: if a pattern means nothing, or nothing is left to learn.
        """
        root = root_of(model)
        parameters = dict(root.named_parameters(remove_duplicate=False))
        for name in matching(parameters, self.patterns, "parameters"):
            parameters[name].requires_grad_(False)
        if not any(parameter.requires_grad for parameter in parameters.values()):
            raise InputError(f"--freeze {' '.join(self.patterns)} leaves nothing to learn", "freeze less")

    def fold(self, model: nn.Module) -> None:
        """Let every parameter learn again."""
        model.requires_grad_(True)

"""The columns of examples that a request names."""

from __future__ import annotations

from lavra.core.errors import InputError
from lavra.data.example_rows import PairColumns
from lavra.recipes.config import TextConfig


def pair_columns(asked: TextConfig) -> PairColumns | None:
    """Return the columns of prompt and completion, or None where they are to be recognised.

    Raises:
        InputError: if only one of the two is named.
    """
    if asked.prompt and asked.completion:
        return PairColumns(asked.prompt, asked.completion)
    if asked.prompt or asked.completion:
        raise InputError("one of --text.prompt and --text.completion was given", "name both columns")
    return None

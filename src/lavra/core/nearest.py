"""The name that was probably meant, for the remedies of errors."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the question whether the most similar of the known names was meant, with a space after it.

    Args:
        name: The name that is not known.
        known: The names that are.

    Returns:
        The question; empty where no name is similar.

    Examples:
        >>> did_you_mean("sentimant", ["sentiment", "topic"])
        'did you mean sentiment? '
        >>> did_you_mean("zebra", ["sentiment"])
        ''
    """
    near = get_close_matches(name, list(known), n=1)
    return f"did you mean {near[0]}? " if near else ""

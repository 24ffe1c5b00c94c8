"""Which columns the embedding task reads: a pair, with negatives or a score where there are some, or a text alone."""

from __future__ import annotations

import re
from collections.abc import Collection

from lavra.data.examples.text_groups import TextGroups
from lavra.tasks.datasets import DataDescription
from lavra.tasks.labelled_text import PAIR_NAMES, SCORE_NAMES

PAIRS = (("anchor", "positive"), ("query", "positive"), ("query", "passage"))
"""Names of columns of texts that belong together, which say by themselves that vectors are to be learned."""

_NEGATIVE = re.compile(r"negatives?(_(?P<number>\d+))?")
_MARGINS = ("margin", "score")
"""Names of columns that say by how much the second text is better than the negative."""


def columns_of(data: DataDescription) -> TextGroups | None:
    """Return what reads rows with columns like these; None where they hold no text.

    Args:
        data: What is known of the data.
    """
    names = data.columns
    if (pair := pair_of(names)) is not None:
        negatives = negatives_of(names)
        margins = _MARGINS if data.label_column is None else (data.label_column,)
        margin = next((name for name in margins if name in names), "") if negatives else ""
        return TextGroups(*pair, negatives, margin, _prompts(data, "query", "passage"))
    likes = next((pair for pair in PAIR_NAMES if set(pair) <= names), None)
    if likes is not None:
        known = SCORE_NAMES if data.label_column is None else (data.label_column,)
        score = next((name for name in known if name in names), "")
        kinds = ("text", "text") if score else ("query", "passage")
        return TextGroups(*likes, (), score, _prompts(data, *kinds))
    if data.text_column in names or not names:
        return TextGroups(data.text_column, "", prompts=_prompts(data, "text", "text"))
    return None


def pair_of(names: Collection[str]) -> tuple[str, str] | None:
    """Return the columns of two texts that belong together; None where there are none of these names.

    Examples:
        >>> pair_of({"query", "passage", "id"})
        ('query', 'passage')
    """
    return next((pair for pair in PAIRS if set(pair) <= set(names)), None)


def negatives_of(names: Collection[str]) -> tuple[str, ...]:
    """Return the columns of negatives in their order.

    Examples:
        >>> negatives_of({"negative_10", "query", "negative_2"})
        ('negative_2', 'negative_10')
    """
    matches = [match for name in names if (match := _NEGATIVE.fullmatch(name))]
    return tuple(match[0] for match in sorted(matches, key=lambda match: (int(match["number"] or 0), match[0])))


def _prompts(data: DataDescription, first: str, second: str) -> tuple[str, str]:
    return data.prompts.get(first, ""), data.prompts.get(second, "")

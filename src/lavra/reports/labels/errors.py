"""Section of the errors of which a model was most sure, with their texts."""

from __future__ import annotations

from lavra.evaluation.labels.confusions import SureError, sure_errors
from lavra.reports.labels.record import LabelRecord
from lavra.reports.page import Section, Text

MOST_ERRORS = 12
"""Number of errors on a page."""

_LONGEST = 1200  # characters of a text that are shown


def errors_section(record: LabelRecord) -> Section:
    """Return the section of the errors of which a model was most sure; of numbers, of the largest errors."""
    found = sure_errors(record.table, MOST_ERRORS)
    of_numbers = record.table.kind == "values"
    title = "The largest errors" if of_numbers else "The surest errors"
    if not found:
        known = bool(record.table.known.any())
        return Section(title, "No validation row is predicted wrongly." if known else "")
    note = "Where the label and not the model is wrong, correct the label: a model that is sure has often found one."
    texts = [Text(said_of(record, one), cut(record.text(one.row))) for one in found]
    return Section(title, note=note, texts=texts)


def said_of(record: LabelRecord, error: SureError) -> str:
    """Return what a model said of a row, how sure it was, and what is right, in a line.

    Args:
        record: The predictions.
        error: The error.
    """
    table, row = record.table, error.row
    targets, said, name = table.targets[row], table.probabilities[row], table.classes[error.output]
    where = f"row {table.ids[row]}"
    if table.kind == "values":
        right, given = targets[error.output], said[error.output]
        return f"predicted {given:.4g}, is {right:.4g} (off by {given - right:+.4g}) · {where}"
    if table.kind == "labels":
        given = said[error.output] >= 0.5
        told = f"gives {name!r} with {said[error.output]:.3f}, which does not hold"
        return f"{told if given else f'does not give {name!r} ({said[error.output]:.3f}), which holds'} · {where}"
    truth = int(targets.argmax())
    return f"says {name!r} with {error.sure:.3f}, is {table.classes[truth]!r} ({said[truth]:.3f}) · {where}"


def cut(text: str) -> str:
    """Return a text, without its end where it is long, which is then said.

    Args:
        text: The text.
    """
    left = len(text) - _LONGEST
    return text if left <= 0 else f"{text[:_LONGEST]}… ({left:,} more characters)"

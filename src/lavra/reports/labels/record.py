"""What a run recorded of the labels that it predicted: the table, its texts, the words that decided."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lavra.core.errors import CorruptFile, InputError
from lavra.evaluation.labels.predictions import Predictions
from lavra.evaluation.labels.predictions_file import read_predictions


@dataclass(frozen=True)
class LabelRecord:
    """The predictions of a run for its validation texts.

    Attributes:
        table: The table of predictions.
        texts: The text of each row of the table, the parts of a pair one below the other; None where they are not
            known, because the data folder is missing or holds other rows.
        missing: Why they are not known; an empty string otherwise.
    """

    table: Predictions
    texts: tuple[str, ...] | None
    missing: str = ""

    def text(self, row: int) -> str:
        """Return the text of a row, or words that stand for it where it is not known."""
        return f"(row {self.table.ids[row]}; its text is not known)" if self.texts is None else self.texts[row]


def read_labels(predictions: Path, data: Path) -> LabelRecord:
    """Read the predictions of a run, with their texts.

    Args:
        predictions: The file of the table.
        data: The folder of the prepared data; the texts are those of its validation rows.

    Raises:
        CorruptFile: If the table is damaged. Texts that cannot be read are only missing.
        InputError: If another version of lavra wrote the table.
    """
    table = read_predictions(predictions)
    try:
        texts = _texts(data)
    except (CorruptFile, InputError, OSError, ValueError, KeyError, TypeError) as error:
        why = error.message if isinstance(error, CorruptFile | InputError) else f"{type(error).__name__}: {error}"
        return LabelRecord(table, None, f"the texts of the predictions are not known: {why}")
    if len(texts) != len(table):
        why = f"{data} has {len(texts):,} validation rows, and {predictions.name} {len(table):,}"
        return LabelRecord(table, None, f"the texts of the predictions are not known: {why}")
    return LabelRecord(table, texts)


def _texts(data: Path) -> tuple[str, ...]:
    from lavra.data.examples.prepare import open_prepared_examples

    store = open_prepared_examples(data).validation
    return tuple("\n".join(store.labels(number)["texts"]) for number in range(len(store)))

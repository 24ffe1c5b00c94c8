"""Section of the words that decided, as the run recorded them in `words.json`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lavra.reports.labels.errors import cut
from lavra.reports.labels.record import LabelRecord
from lavra.reports.page import Section, Table, Text

_MOST_WORDS = 12  # words of a side of a text, and of an output
_MOST_OUTPUTS = 20
_LEAST = 0.005  # smaller effects are rounding and noise beside the others

_OCCLUSION = (
    "Each word was removed from the text in turn (of a long text, several words at once): a number is by how much what "
    "the model predicted here fell (+) or rose (−). Removing a word shows what the model uses, not why it is wrong."
)
_WEIGHTS = "A weight of the linear model counts once for each text that has the word, the more the rarer the word is."


def words_section(words: Mapping[str, Any], record: LabelRecord | None) -> Section:
    """Return the section of the words that decided; it is empty where none were recorded.

    Args:
        words: What `words.json` holds.
        record: The predictions of the run, for the texts; None where they are missing.
    """
    rows = [one for one in words.get("rows") or () if one.get("words")]
    texts = [Text(f"for {one['output']!r}", "\n".join(_lines(one, record))) for one in rows]
    tables = [_weights(words["outputs"])] if words.get("outputs") else []
    note = " ".join([_OCCLUSION] * bool(texts) + [_WEIGHTS] * bool(tables))
    return Section("The words that decided", tables=tables, note=note, texts=texts)


def _lines(one: Mapping[str, Any], record: LabelRecord | None) -> Iterator[str]:
    if record is not None and 0 <= one["row"] < len(record.table):
        yield cut(record.text(one["row"]))
        yield ""
    for title, side in (("for it", 1), ("against it", -1)):
        strongest = _strongest(one["words"], side)
        if strongest:
            yield f"{title}:  {'  '.join(strongest)}"
    if not any(_strongest(one["words"], side) for side in (1, -1)):
        yield "no single word changes it"


def _strongest(words: Sequence[Mapping[str, Any]], side: int) -> list[str]:
    """Return the words with the largest effects for an output (side 1) or against it (-1), with the effects."""
    chosen = [one for one in words if side * one["effect"] >= _LEAST]
    ordered = sorted(chosen, key=lambda one: -side * one["effect"])[:_MOST_WORDS]
    return [f"{one['word']} ({one['effect']:+.2f})".replace("-", "−") for one in ordered]


def _weights(outputs: Mapping[str, Sequence[Mapping[str, Any]]]) -> Table:
    shown = list(outputs.items())[:_MOST_OUTPUTS]
    rows = [[_NUMBERS.get(name, name), ", ".join(_strongest(words, 1))] for name, words in shown]
    some = f" (the first {len(shown)} of {len(outputs)})" if len(outputs) > len(shown) else ""
    return Table([f"linear model{some}", "words with the largest weights"], rows, words=2)


_NUMBERS = {">": "higher", "<": "lower"}  # what a model of numbers calls its two sides

"""Tokenising a corpus once, to train on it many times."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lavra.core.errors import InputError
from lavra.core.files import read_json
from lavra.core.progress import say
from lavra.recipes.config import TextConfig, TrainConfig
from lavra.recipes.material import TextMaterial, has_examples
from lavra.recipes.text import prepare_as_asked


def prepare_text(data: Sequence[str], out: str | Path, text: TextConfig, *, force: bool = False) -> dict[str, Any]:
    """Read, divide and tokenise `data` into the folder `out`, and return the report of what was found.

    Args:
        data: files, folders, globs, `-`, `hf:NAME[:SPLIT]` or `installed-docs:`.
        out: the folder, with the token stores `train` and `validation` and the tokenizer.
        text: how text is read, divided and tokenised.
        force: replace an existing folder.

    Raises:
        InputError: if the text or the folder is wrong.
    """
    if has_examples(TrainConfig(data=tuple(data), text=text)):
        raise InputError(
            f"{', '.join(data)} holds prompts with their answers, not documents",
            "give it to `lavra train` itself, which prepares it for its model; or name a column with --text-column",
        )
    prepared = prepare_as_asked(data, out, text, vocabulary_size=text.vocabulary, force=force)
    say(TextMaterial(prepared).summary())
    return read_json(Path(out) / "report.json")

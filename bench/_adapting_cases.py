"""The cases of bench/adapting.py: which model is adapted to what, how, and at which context."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

CONTEXTS = (256, 512, 1024)
EXTENDED_BY = 4000
"""Portuguese tokens that are added to a vocabulary of English ones."""

WAYS: dict[str, tuple[str, ...]] = {
    "whole": (),
    "lora": ("--adapter", "lora"),
    "frozen": ("--freeze", "*embed*"),
    "extended": ("--text.extend", str(EXTENDED_BY)),
}
"""How a model is adapted, and the flags of `lavra train` for it."""

TEXTS = ("pt_freecodecamp", "pt_python_docs")
CHATS = ("instruct_en",)

_EVERY = 20
"""One document in so many, by a hash of its content, may be held out."""


@dataclass(frozen=True)
class Case:
    """One row of the benchmark.

    Attributes:
        model: Name of the model's folder.
        kind: "text" (next tokens), "mlm" (masked tokens) or "chats" (answers).
        context: Tokens of a sequence.
        way: One of `WAYS`.
    """

    model: str
    kind: str
    context: int
    way: str

    @property
    def name(self) -> str:
        """The name by which `--only` picks the case."""
        return f"{self.model}-{self.kind}-{self.context}-{self.way}"


CASES = (
    *(
        Case(model, "text", context, way)
        for model in ("smollm2", "gemma-270m")
        for context in CONTEXTS
        for way in WAYS
        if way != "extended" or context == 512
    ),
    Case("minilm", "mlm", 256, "whole"),
    Case("e5-en-pt", "mlm", 256, "whole"),
    Case("smollm2", "chats", 512, "whole"),
)


def chosen(patterns: list[str]) -> list[Case]:
    """Return the cases whose names match one of the patterns, all without any.

    Args:
        patterns: Names or globs.

    Raises:
        ValueError: If a pattern matches no case.
    """
    for pattern in patterns:
        if not any(fnmatch(case.name, pattern) for case in CASES):
            raise ValueError(f"{pattern!r} matches no case; --list names them")
    return [case for case in CASES if not patterns or any(fnmatch(case.name, pattern) for pattern in patterns)]


@dataclass(frozen=True)
class Data:
    """Rows to train on and rows held out, as JSON Lines."""

    train: Path
    held_out: Path


def write_data(kind: str, folder: Path, out: Path, held_out_bytes: int) -> Data:
    """Divide the rows of a kind into those to train on and those held out, always alike, and write both.

    Args:
        kind: Of a case.
        folder: Folder with one folder of JSON Lines files for each data set.
        out: Folder that gets the two files.
        held_out_bytes: Most bytes of text that are held out.

    Raises:
        FileNotFoundError: If a data set is not there.
    """
    data = Data(out / f"{kind}-train.jsonl", out / f"{kind}-held-out.jsonl")
    with data.train.open("w", encoding="utf8") as train, data.held_out.open("w", encoding="utf8") as held_out:
        left = held_out_bytes
        for row in _rows(CHATS if kind == "chats" else TEXTS, folder):
            line = json.dumps(_chat(row) if kind == "chats" else {"text": row["text"]}, ensure_ascii=False) + "\n"
            place = int(hashlib.blake2b(line.encode(), digest_size=4).hexdigest(), 16) % _EVERY
            if place == 0 and len(line.encode()) <= left:
                left -= len(line.encode())
                held_out.write(line)
            else:
                train.write(line)
    return data


def _rows(names: tuple[str, ...], folder: Path) -> Iterator[dict[str, Any]]:
    for name in names:
        files = sorted(path for path in (folder / name).glob("*.jsonl*") if path.suffix in (".jsonl", ".gz"))
        if not files:
            raise FileNotFoundError(f"{folder / name} holds no .jsonl or .jsonl.gz file")
        for file in files:
            with (gzip.open if file.suffix == ".gz" else open)(file, "rt", encoding="utf8") as lines:
                yield from map(json.loads, lines)


def _chat(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of instruction, input and output as a chat of two turns."""
    asked = f"{row['instruction']}\n\n{row['input']}" if row.get("input") else row["instruction"]
    return {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": row["output"]}]}

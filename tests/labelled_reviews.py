"""Rows with labels that a tiny model learns in some steps, and the smallest model that learns them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from lavra.config.training import MachineConfig, ModelConfig, TextConfig, TrainConfig

_BOTH = ["the", "film", "was", "a", "story", "of", "some", "people", "in", "a", "town", "by", "the", "sea"]
_WORDS = {"good": ["great", "lovely", "fine", "superb"], "bad": ["awful", "poor", "sad", "boring"]}
LABELS = ("bad", "good")


def review(chance: random.Random, label: str) -> str:
    """Return a text whose words tell its label."""
    words = [*chance.choices(_BOTH, k=10), *chance.choices(_WORDS[label], k=3)]
    chance.shuffle(words)
    return " ".join(words)


def reviews(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Return rows with the columns `id`, `text` and `label`, half of them good."""
    chance = random.Random(seed)
    names = [LABELS[number % 2] for number in range(count)]
    return [{"id": f"r{number}", "text": review(chance, name), "label": name} for number, name in enumerate(names)]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows as JSON lines, and return the path."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf8")
    return path


TINY: dict[str, Any] = {
    "text": {"vocabulary": 300},
    "model": {"depth": 1, "width": 32, "heads": 2, "context": 64},
    "machine": {"device": "cpu", "threads": 1, "precision": "fp32"},
    "check": False,
}
"""Fields of a request for the smallest model, as `lavra.train` takes them."""


def tiny_request(data: Path, out: Path, **fields: Any) -> TrainConfig:
    """Return the request of a run of the smallest model."""
    return TrainConfig(
        data=(str(data),),
        out=str(out),
        text=TextConfig(**TINY["text"]),
        model=ModelConfig(**TINY["model"]),
        machine=MachineConfig(**TINY["machine"]),
        check=False,
        **fields,
    )

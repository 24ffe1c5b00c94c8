"""What tests read of finished runs, and a text to make them of."""

from __future__ import annotations

import json
from pathlib import Path
from pydoc_data.topics import topics

import torch

import lavra
from lavra.training.checkpoints.checkpoints import CheckpointStore


def weights(run: lavra.Run) -> dict[str, torch.Tensor]:
    """The master weights of the newest checkpoint of a run."""
    checkpoint = CheckpointStore(run.path / "checkpoints").latest()
    assert checkpoint is not None
    return checkpoint.load("master_weights")


def topics_of_python(folder: Path) -> Path:
    """A file of forty short texts of Python's own documentation."""
    path = folder / "topics.jsonl"
    rows = [{"text": topic[:1500]} for topic in sorted(topics.values(), key=len)[10:50]]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf8")
    return path

"""Ordinal classification: ranks are learned by thresholds, measured as ranks, and predicted for new texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lavra
from lavra.core.errors import InputError
from lavra.models.heads import OrdinalHead, head_of
from lavra.workflows.models.open import open_model

SMALL: dict[str, Any] = {
    "model": {"depth": 1, "width": 32, "context": 32},
    "machine": {"device": "cpu", "compile": "no", "precision": "fp32"},
    "text": {"vocabulary": 300},
    "steps": 3,
    "check": False,
}
WORDS = ("awful", "poor", "fair", "good", "great")


@pytest.fixture(autouse=True)
def networks_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the linear baseline, which would label these texts better than a network of a few steps."""
    monkeypatch.setattr("lavra.workflows.labels.baseline.is_available", lambda: False)


def written(folder: Path, labels: tuple[Any, ...]) -> Path:
    rows = [{"text": f"a {WORDS[n % 5]} film, number {n}", "label": labels[n % 5]} for n in range(150)]
    path = folder / "stars.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf8")
    return path


def test_ranks_are_learned_measured_and_predicted(tmp_path: Path):
    run = lavra.train(written(tmp_path, (1, 2, 3, 4, 5)), task="ordinal", out=str(tmp_path / "run"), **SMALL)
    assert run.plan["facts"]["classes"] == ["1", "2", "3", "4", "5"]
    assert {"quadratic_kappa", "mean_absolute_error", "accuracy"} <= run.result.keys()
    head = head_of(open_model(str(run.path / "model"), "cpu").model)
    assert isinstance(head, OrdinalHead)
    assert {"accuracy", "absolute_error"} <= set(run.metrics[-1])
    found = lavra.evaluate(str(run.path)).to_json()
    assert found["mean_absolute_error"]["value"] == pytest.approx(run.result["mean_absolute_error"]["value"])


def test_labels_without_an_order_are_refused(tmp_path: Path):
    path = written(tmp_path, WORDS)
    with pytest.raises(InputError, match="'awful' in the column 'label' has no place among ranks"):
        lavra.train(path, task="ordinal", out=str(tmp_path / "run"), **SMALL)


def test_the_probabilities_of_a_text_are_those_of_ranks():
    import torch

    from lavra.tasks.ordinal import OrdinalTask

    found = OrdinalTask().probabilities({}, torch.tensor([[2.0, 1.0, -3.0]], dtype=torch.float64)).numpy()
    assert found.dtype == np.float64
    assert found.sum() == pytest.approx(1.0)
    assert OrdinalTask().answer({"classes": ["1", "2", "3", "4"]}, found[0]) == "3"

"""The verbs of Python: seen, and fed from memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import lavra
from lavra.cli.main import main
from lavra.core.errors import InputError

TEXTS = [f"a text of number {number}, and some words more" for number in range(200)]


class Frame:
    """What pandas and its likes have in common."""

    columns = ("text",)

    def to_dict(self, orient: str) -> list[dict[str, Any]]:
        assert orient == "records"
        return [{"text": text} for text in TEXTS]


def test_the_verbs_are_seen() -> None:
    assert set(lavra.__all__) <= set(dir(lavra))


@pytest.mark.parametrize("data", [Frame(), [{"text": text} for text in TEXTS], ({"text": text} for text in TEXTS)])
def test_rows_in_memory_are_data(data: Any, tmp_path: Path) -> None:
    report = lavra.prepare(data, tmp_path / "out", vocabulary=300)
    assert report["rows"] == len(TEXTS)
    assert report["bytes"] == sum(map(len, TEXTS))


def test_what_is_neither_locations_nor_rows_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="they hold a int"):
        lavra.prepare([1, 2], tmp_path / "out")


@pytest.mark.parametrize(
    ("flag", "here"),
    [
        ("--lr=1", "--optimization.learning-rate"),
        ("--batch-size=8", "--machine.micro-batch-size"),
        ("--wandb", "--track wandb"),
        ("--vocab-size=500", "--text.vocabulary"),
    ],
)
def test_flags_of_other_programs_are_told_their_name_here(
    flag: str, here: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "text/", flag]) == 2
    assert here in capsys.readouterr().err

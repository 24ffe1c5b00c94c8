"""Half of the validation data is kept apart: no text is in both halves, and the training data stay the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.labelled_reviews import reviews, write_rows

from lavra.data.split import Halves, cut_in_half
from lavra.data.token_store.prepare import prepare
from lavra.tasks.datasets import TextDataset
from lavra.tasks.labelled_dataset import LabelledDataset
from lavra.tasks.opening import open_dataset, open_held_out


@given(st.lists(st.tuples(st.text(max_size=3), st.sampled_from(["a", "b", "c"])), max_size=60))
def test_equal_texts_stay_together_and_the_halves_are_alike(texts: list[tuple[str, str]]) -> None:
    halves, sides = Halves(), {}
    for text, kind in texts:
        side = halves.is_held_out(text.encode(), kind)
        assert sides.setdefault(text.strip(), (side, kind))[0] == side
    for kind in "abc":
        mine = [side for side, one in sides.values() if one == kind]
        assert abs(mine.count(True) - mine.count(False)) <= 1
    total = [side for side, _ in sides.values()]
    assert not total or False in total


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [{"text": f"Text number {number} is about {number * 7} things. " * 8} for number in range(300)]
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_text_is_divided_in_three_and_trained_on_as_without_it(texts: Path, tmp_path: Path) -> None:
    whole = prepare([str(texts)], tmp_path / "whole", vocabulary_size=300)
    parted = prepare([str(texts)], tmp_path / "parted", vocabulary_size=300, held_out=True)
    assert (parted.train.tokens == whole.train.tokens).all()
    assert open_held_out(tmp_path / "whole") is None
    other = open_held_out(tmp_path / "parted")
    assert isinstance(other, TextDataset)
    halves = [list(parted.validation.texts()), list(other.prepared.validation.texts())]
    assert set(halves[0]).isdisjoint(halves[1])
    assert sorted(halves[0] + halves[1]) == sorted(whole.validation.texts())
    assert abs(len(halves[0]) - len(halves[1])) <= 1
    assert set(parted.report["split"]) >= {"train", "validation", "held_out"}


def test_the_end_of_a_single_text_is_cut_in_two(tmp_path: Path) -> None:
    text = "\n\n".join(f"Paragraph {number} of the only book that there is." for number in range(900))
    (tmp_path / "book.txt").write_text(text)
    parted = prepare([str(tmp_path / "book.txt")], tmp_path / "parted", vocabulary_size=300, held_out=True)
    other = open_held_out(tmp_path / "parted")
    assert isinstance(other, TextDataset)
    first, second = (next(iter(store.texts())) for store in (parted.validation, other.prepared.validation))
    assert text.endswith(first + second)
    assert 0.7 < len(first) / len(second) < 1.4


def test_a_single_validation_text_that_was_named_stays_whole(texts: Path, tmp_path: Path) -> None:
    (tmp_path / "dev.txt").write_text("A text to choose by.")
    validation = [str(tmp_path / "dev.txt")]
    prepare([str(texts)], tmp_path / "out", vocabulary_size=300, validation=validation, held_out=True)
    assert open_held_out(tmp_path / "out") is None


def test_labelled_rows_are_divided_by_class(tmp_path: Path) -> None:
    from lavra.config.training import TextConfig, TrainConfig
    from lavra.training.devices import choose_device
    from lavra.workflows.datasets.preparation import measured_machine, training_dataset
    from lavra.workflows.training.first_look import located

    rows = write_rows(tmp_path / "rows.jsonl", reviews(200))
    found: dict[bool, Any] = {}
    for held_out in (False, True):
        config = located(TrainConfig(data=(str(rows),), text=TextConfig(vocabulary=300, held_out=held_out)))
        machine = measured_machine(config, choose_device("cpu"))
        home = tmp_path / str(held_out)
        home.mkdir()
        from lavra.tasks.table import find_task

        found[held_out] = training_dataset(config, home, machine, None, find_task("classification"))
    other = open_held_out(tmp_path / "True" / "data")
    assert isinstance(other, LabelledDataset)
    assert other.context == found[True].context == open_dataset(tmp_path / "True" / "data").context
    labels = [one.labels("label", validation=True) for one in (found[False], found[True], other)]
    assert sorted(labels[1] + labels[2]) == sorted(labels[0])
    for half in labels[1:]:
        assert abs(half.count("good") - half.count("bad")) <= 1
    assert found[True].labels("label") == found[False].labels("label")


def test_a_cut_text_is_whole() -> None:
    assert "".join(cut_in_half("one\n\ntwo three")) == "one\n\ntwo three"

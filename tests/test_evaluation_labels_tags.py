"""Entity scores equal conlleval's counting; malformed tags are read as it reads them, and named."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lavra.core.errors import InputError
from lavra.evaluation.labels.tags import Entity, entities, entity_counts, tag_scores
from lavra.text.bio import valid_bio

TAGS = ["O", "B-A", "I-A", "B-B", "I-B", "E-A", "S-B", "E-B", "S-A", "B", "I"]


def conlleval(tags: list[str]) -> list[Entity]:
    """The chunks of a sequence by the two functions of conlleval.pl, condition by condition."""

    def ends(before: str, tag: str, type_before: str, kind: str) -> bool:
        return (
            before in "ES"
            or (before == "B" and tag in "BSO")
            or (before == "I" and tag in "BSO")
            or (before not in "O." and type_before != kind)
        )

    def starts(before: str, tag: str, type_before: str, kind: str) -> bool:
        return (
            tag in "BS"
            or (before in "ES" and tag in "EI")
            or (before == "O" and tag in "EI")
            or (tag not in "O." and type_before != kind)
        )

    found, before, type_before, start = [], "O", "", 0
    for position, tag in enumerate([*tags, "O"]):
        place, kind = tag[0], tag[1:].split("-", 1)[-1] or "_"
        if ends(before, place, type_before, kind):
            found.append(Entity(type_before, start, position))
        if starts(before, place, type_before, kind):
            start = position
        before, type_before = place, kind
    return found


@given(st.lists(st.sampled_from(TAGS), max_size=12))
def test_entities_are_the_chunks_of_conlleval(tags: list[str]) -> None:
    assert entities(tags) == conlleval(tags)


def test_a_worked_example_of_scores() -> None:
    truth = [["O", "O", "O", "B-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]]
    predicted = [["O", "O", "B-MISC", "I-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]]
    scores = tag_scores(truth, predicted)  # the example in the documentation of seqeval: F1 .50
    assert (scores.precision.value, scores.recall.value, scores.f1.value) == (0.5, 0.5, 0.5)
    assert (scores.types["MISC"].f1.value, scores.types["PER"].f1.value, scores.macro_f1.value) == (0.0, 1.0, 0.5)
    assert scores.token_accuracy.value == pytest.approx(0.8)
    assert scores.types["MISC"].support == 1
    assert scores.f1.low is None  # two sequences say nothing of others


def test_a_type_that_is_only_predicted_lowers_the_mean_over_types() -> None:
    scores = tag_scores([["B-A", "O"]], [["B-A", "B-C"]])
    assert scores.macro_f1.value == 0.5
    assert scores.types["C"].precision.value == 0.0


def test_perfect_and_empty_predictions() -> None:
    truth = [["B-A", "I-A", "O"]] * 6
    perfect = tag_scores(truth, truth).f1
    assert (perfect.value, perfect.low, perfect.high) == (1.0, 1.0, 1.0)
    empty = tag_scores(truth, [["O"] * 3] * 6)
    assert (empty.precision.value, empty.recall.value, empty.f1.value) == (0.0, 0.0, 0.0)
    assert tag_scores([["O"]], [["O"]]).f1.value == 0.0


def test_intervals_hold_the_value_and_counts_are_those_of_the_rows() -> None:
    random = np.random.default_rng(0)
    truth = [[TAGS[tag] for tag in row] for row in random.integers(0, 5, (60, 8))]
    predicted = [[tag if random.random() < 0.8 else TAGS[random.integers(0, 5)] for tag in row] for row in truth]
    scores = tag_scores(truth, predicted)
    for estimate in (scores.f1, scores.macro_f1, scores.token_accuracy, scores.types["A"].recall):
        assert estimate.low is not None
        assert estimate.low < estimate.value < estimate.high
    names, counts = entity_counts(truth, predicted)
    found, given_, true = counts.sum(axis=(0, 1))
    assert scores.f1.value == pytest.approx(2 * found / (given_ + true))
    assert names == ["A", "B"]
    assert scores.to_json()["types"]["A"]["support"] == counts[:, 0, 2].sum()


@pytest.mark.parametrize(
    ("tags", "position"),
    [
        (["O", "I-A"], 1),
        (["I-A"], 0),
        (["B-A", "I-B"], 1),
        (["B-A", "I-A", "O", "I-A"], 3),
        (["B-A", "E-A"], 1),
        (["NOUN"], 0),
        (["B-A", ""], 1),
    ],
)
def test_the_first_violation_of_bio_is_named(tags: list[str], position: int) -> None:
    violation = valid_bio(tags)
    assert violation is not None
    assert (violation.position, violation.tag) == (position, tags[position])
    assert str(violation).startswith(f"tag {position + 1} is {tags[position]!r}")


@given(st.lists(st.sampled_from(["O", "B-A", "I-A", "B-B", "I-B"]), max_size=10))
def test_valid_tags_are_exactly_those_that_their_entities_give_back(tags: list[str]) -> None:
    again = ["O"] * len(tags)
    for entity in entities(tags):
        again[entity.start : entity.end] = ["B-" + entity.type] + ["I-" + entity.type] * (entity.end - entity.start - 1)
    assert (valid_bio(tags) is None) == (again == tags)


def test_bad_input_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="sequence 1 has 1 predicted tags and 2 true ones"):
        tag_scores([["O"], ["O", "O"]], [["O"], ["O"]])
    with pytest.raises(InputError, match="predicted tags of sequence 0: tag 2 is 'NOUN'"):
        tag_scores([["O", "O"]], [["O", "NOUN"]])
    with pytest.raises(InputError, match="0 sequences"):
        tag_scores([], [])

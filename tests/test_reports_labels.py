"""What the page of a run says of predicted labels, and how runs that predict labels are compared."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.prediction_tables import table_of
from tests.run_folders import HOSTILE, PLAN
from tests.test_reports_page import parsed

from lavra.core.disk.files import write_json
from lavra.core.disk.run_folder import RunFolder
from lavra.evaluation.labels.by_class import scores_by_class, share
from lavra.evaluation.labels.confusions import confused_pairs, confusion, sure_errors
from lavra.evaluation.labels.metrics import metric_value, scores
from lavra.evaluation.labels.predictions import Predictions
from lavra.evaluation.labels.predictions_file import PREDICTIONS, write_predictions
from lavra.evaluation.labels.reliability import reliability
from lavra.reports.comparison import comparison_page, show_comparison
from lavra.reports.labels.classes import classes_section
from lavra.reports.labels.comparison import LabelComparison, compare_labels
from lavra.reports.labels.confusion import confusion_section
from lavra.reports.labels.errors import errors_section
from lavra.reports.labels.learning_curve import learning_curve_section
from lavra.reports.labels.record import LabelRecord
from lavra.reports.labels.regression import regression_section
from lavra.reports.labels.reliability import reliability_section
from lavra.reports.labels.words import words_section
from lavra.reports.run_comparison import compare_runs
from lavra.reports.run_files import read_run
from lavra.reports.run_page import run_page
from lavra.reports.run_summary import summary
from lavra.reports.run_table import run_line, show_runs
from lavra.tasks.deciding_words import occluded


def record(table: Predictions, **changed: Any) -> LabelRecord:
    return LabelRecord(table, tuple(f"text {name} {HOSTILE}" for name in table.ids), **changed)


def labelled_run(path: Path, table: Predictions, **result: Any) -> RunFolder:
    run = RunFolder.create(path, 'data = ["rows.csv"]\nseed = 7\n')
    run.write_plan({**PLAN, "task": "classification", "objective": "classification", "forecast": {}})
    write_predictions(path / PREDICTIONS, table)
    figures = scores(table).to_json()
    run.write_result({"step": 20, "task": "classification", "tokens": 400, "seconds": 9.0, **figures, **result})
    return run


# What is counted.


@given(seed=st.integers(0, 50), kind=st.sampled_from(["classes", "labels"]))
def test_the_scores_of_the_classes_are_those_of_the_metrics(seed: int, kind: Any) -> None:
    table = table_of(kind, rows=40, seed=seed)
    found = scores_by_class(table)
    for one in found:
        assert one.hits + one.misses + one.false_alarms + one.others == len(table)
        for estimate in (one.precision, one.recall, one.f1):
            if estimate is not None:
                assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1
                assert estimate.low < estimate.high
    mean = np.mean([one.f1.value for one in found if one.f1 is not None])
    assert metric_value(table, "macro_f1") == pytest.approx(mean)


def test_an_interval_of_few_rows_is_wide_also_where_all_are_right() -> None:
    assert share(2, 2).low == pytest.approx(0.342, abs=1e-3)  # Wilson's formula by hand
    assert share(2000, 2000).low > 0.998


def test_the_confusions_are_those_of_the_decisions() -> None:
    table = table_of(rows=60, classes=4)
    counts = confusion(table)
    assert counts.sum() == 60
    assert counts.trace() / 60 == metric_value(table, "accuracy")
    pairs = confused_pairs(counts)
    assert sum(one.rows for one in pairs) == 60 - counts.trace()
    assert [one.rows for one in pairs] == sorted((one.rows for one in pairs), reverse=True)


@pytest.mark.parametrize("kind", ["classes", "labels", "values"])
def test_the_surest_errors_come_first_and_are_errors(kind: Any) -> None:
    table = table_of(kind, rows=80)
    found = sure_errors(table, 10)
    assert [one.sure for one in found] == sorted((one.sure for one in found), reverse=True)
    for one in found:
        if kind != "values":
            truth, said = table.truth()[one.row], table.decisions()[one.row]
            assert np.any(truth != said)
    perfect = table.with_probabilities(table.targets)
    assert sure_errors(perfect) == []


def test_the_bins_of_the_reliability_add_up_to_the_calibration_error() -> None:
    table = table_of(rows=300)
    bins = reliability(table)
    gaps = sum(abs(one.right.value - one.confidence) * one.count for one in bins) / 300
    assert metric_value(table, "calibration_error") == pytest.approx(gaps)


# What is shown.


def test_up_to_twenty_classes_are_a_matrix_and_more_are_pairs() -> None:
    few, many = (confusion_section(record(table_of(rows=400, classes=size))) for size in (20, 21))
    assert few.title == "Confusion matrix"
    assert few.pictures[0].count("<title>") == 400
    assert (many.title, list(many.pictures)) == ("Most confused classes", [])
    assert "21 classes are too many" in many.sentence
    assert len(many.tables[0].rows) == 15


def test_names_of_classes_are_escaped_in_the_matrix() -> None:
    table = replace(table_of(), classes=["<b>", "a & b", "c"])
    (picture,) = confusion_section(record(table)).pictures
    assert "<b>" not in picture
    assert "&lt;b&gt;" in picture
    assert "a &amp; b" in picture


def test_many_classes_stand_by_their_f1_and_the_rest_is_counted() -> None:
    section = classes_section(record(table_of(rows=900, classes=120)))
    assert len(section.tables[0].rows) == 100
    assert "lowest F1 comes first; the 20 with the highest are left out" in section.sentence
    labels = classes_section(record(table_of("labels", rows=50)))
    assert labels.title == "Labels"
    first = labels.tables[0].rows[0]
    assert sum(int(cell) for cell in first[4:]) == 50


def test_sections_are_empty_where_they_do_not_fit() -> None:
    numbers, classes = record(table_of("values")), record(table_of())
    assert all(one(numbers).empty for one in (confusion_section, classes_section, reliability_section))
    assert regression_section(classes).empty
    unknown = record(replace(table_of(), targets=np.full((200, 3), np.nan)))
    sections = (confusion_section, classes_section, reliability_section, errors_section)
    assert all(one(unknown).empty for one in sections)


def test_numbers_are_drawn_with_their_residuals() -> None:
    table = table_of("values", rows=50, classes=1)
    section = regression_section(record(table))
    assert [one.count("<circle") for one in section.pictures] == [50, 50]
    assert "50 predictions" in section.sentence
    constant = table.with_probabilities(np.zeros((50, 1)))  # an axis of width 0
    assert "nan" not in "".join(regression_section(record(constant)).pictures)


def test_the_errors_say_what_was_said_and_what_is_right() -> None:
    table = Predictions("ab", [[1, 0], [0, 1]], [[0.1, 0.9], [0.2, 0.8]], ["no", "yes"])
    (text,) = errors_section(record(table)).texts
    assert text.title == "says 'yes' with 0.900, is 'no' (0.100) · row a"
    assert text.body.startswith("text a")
    assert "no validation row" in errors_section(record(table.select([1]))).sentence.lower()


def test_words_are_shown_by_their_effect_and_sign() -> None:
    words = [{"word": "good", "effect": 0.4}, {"word": "not", "effect": -0.2}, {"word": "the", "effect": 0.0}]
    section = words_section({"rows": [{"row": 0, "output": "yes", "words": words}]}, record(table_of()))
    body = section.texts[0].body
    assert "for it:  good (+0.40)" in body
    assert "against it:  not (−0.20)" in body
    assert "the (" not in body
    assert words_section({}, None).empty


def test_a_word_is_taken_out_and_long_texts_lose_several_at_once() -> None:
    parts, without = occluded(["one two three", "four"], 9)
    assert parts == ["one", "two", "three", "four"]
    assert without[1] == ["one three", "four"]
    assert without[3] == ["one two three", ""]
    parts, without = occluded(["w " * 100], 7)
    assert len(parts) == len(without) == 7
    assert sum(len(part.split()) for part in parts) == 100
    assert occluded(["alone"], 9) == ([], [])


def test_a_learning_curve_is_drawn_where_there_is_one() -> None:
    points = [{"labels": size, "value": 1 - size**-0.5, "low": None, "high": None} for size in (100, 200, 400)]
    curve = {"metric": "accuracy", "points": points, "floor": 0.0, "scale": 1.0, "power": 0.5, "sentence": "more"}
    section = learning_curve_section({"learning_curve": curve})
    assert section.pictures[0].count("<polyline") == 2
    assert section.sentence == "more"
    assert learning_curve_section({}).empty
    assert learning_curve_section({"learning_curve": {"points": [{"labels": None}]}}).empty


# The page, the lists and the summary.


def test_the_page_of_a_labelled_run_tells_of_its_labels(tmp_path: Path) -> None:
    run = labelled_run(tmp_path / "run", table_of(), baseline_scores={"majority": scores(table_of(skill=0)).to_json()})
    words = [{"row": 3, "output": "c1", "words": [{"word": HOSTILE, "effect": 0.3}]}]
    write_json(run.path / "words.json", {"method": "occlusion", "rows": words})
    page = run_page(read_run(run))
    outline, text = parsed(page)
    for heading in ("Results", "Confusion matrix", "Classes", "Reliability", "The surest errors", "that decided"):
        assert heading in text, heading
    assert "script" not in outline.tags
    assert "its text is not known" in text
    assert "the texts of the predictions are not known" in text
    assert "majority" in text
    assert "bits per byte" not in text


def test_damaged_predictions_are_named_and_the_rest_is_shown(tmp_path: Path) -> None:
    run = labelled_run(tmp_path / "run", table_of())
    (run.path / PREDICTIONS).write_bytes(b"nothing")
    _, text = parsed(run_page(read_run(run)))
    assert "predictions.parquet: " in text
    assert "accuracy" in text


def test_lists_and_summaries_give_the_first_metric_and_commands_for_labels(tmp_path: Path) -> None:
    run = labelled_run(tmp_path / "run", table_of())
    accuracy = scores(table_of()).metrics["accuracy"]
    assert run_line(run)["headline"] == {"metric": "accuracy", **accuracy.to_json()}
    assert f"accuracy {accuracy.value:.3f}  [{accuracy.low:.3f}, {accuracy.high:.3f}]" in show_runs([run])
    told = summary(run)
    assert f"accuracy {accuracy.value:.3f}" in told
    assert "classify" in told
    assert "--data FILE" in told
    assert "generate" not in told


# Comparison.


def shuffled(table: Predictions, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).permutation(len(table))


def test_rows_are_matched_by_id_and_text_whatever_their_order() -> None:
    one, other = record(table_of(skill=0.5)), record(table_of(skill=3.0))
    order = shuffled(other.table)
    turned = LabelRecord(other.table.select(order), tuple(other.texts[place] for place in order))
    found, again = compare_labels(one, other), compare_labels(one, turned)
    assert isinstance(found, LabelComparison)
    assert found == again
    assert found.note == ""
    assert found.difference.value == pytest.approx(
        metric_value(other.table, "accuracy") - metric_value(one.table, "accuracy")
    )
    assert found.p_randomisation < 0.01


def test_rows_that_differ_are_left_out_and_counted() -> None:
    one, other = record(table_of()), record(table_of(seed=1))
    texts = list(other.texts)
    texts[:7] = ["something else"] * 7
    targets = other.table.targets.copy()
    targets[10] = np.roll(targets[10], 1)
    changed = LabelRecord(replace(other.table, targets=targets).select(np.arange(190)), tuple(texts[:190]))
    found = compare_labels(one, changed)
    assert isinstance(found, LabelComparison)
    assert (found.paired.rows, found.only_first, found.only_second, found.other_labels) == (182, 17, 7, 1)
    assert "182 rows that both share, without 17 rows of the baseline alone, 7 of the other run alone" in found.note


def test_numbered_rows_are_matched_by_their_texts_alone() -> None:
    table = replace(table_of(), ids=[str(number) for number in range(200)])
    one = LabelRecord(table, tuple(f"text {number // 2}" for number in range(200)))  # each text twice
    order = np.arange(200).reshape(-1, 2)[::-1].ravel()
    turned = table.select(order)
    other = LabelRecord(replace(turned, ids=table.ids), tuple(one.texts[place] for place in order))
    found = compare_labels(one, other)
    assert isinstance(found, LabelComparison)
    assert (found.paired.rows, found.difference.value) == (200, 0.0)
    without = replace(one, texts=None)
    assert "cannot be matched" in str(compare_labels(without, other))


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (table_of("labels"), "one predicts classes and the other labels"),
        (table_of(classes=4), "only one of them has 'c3'"),
        (replace(table_of(), ids=[f"q{number}" for number in range(200)]), "no row was predicted by both"),
    ],
)
def test_runs_that_cannot_be_compared_say_why(other: Predictions, why: str) -> None:
    assert why in str(compare_labels(record(table_of()), record(other)))


def test_classes_in_another_order_are_brought_into_one() -> None:
    table = table_of()
    order = [2, 0, 1]
    turned = replace(
        table,
        classes=[table.classes[place] for place in order],
        targets=table.targets[:, order],
        probabilities=table.probabilities[:, order],
    )
    found = compare_labels(record(table), record(turned))
    assert isinstance(found, LabelComparison)
    assert (found.difference.value, found.other_labels) == (0.0, 0)


def test_the_comparison_of_labelled_runs_as_text_and_page(tmp_path: Path) -> None:
    runs = [
        labelled_run(tmp_path / name, table_of(skill=skill, seed=seed))
        for name, skill, seed in (("base", 0.5, 0), ("better", 3.0, 0), ("chance", 0.5, 1))
    ]
    comparison = compare_runs(runs)
    better, chance = comparison.verdicts
    assert (better.more_than_chance, chance.more_than_chance) == (True, False)
    alone = compare_runs(runs[:2]).verdicts[0]
    assert better.p_holm == pytest.approx(2 * alone.p_holm)
    told = " ".join(show_comparison(comparison).split())
    for part in ("accuracy better against base: +", "on 200 rows, better on", "better, more than chance (p = "):
        assert part in told, part
    assert "no more than chance would bring" in told
    assert "paired randomisation test over rows" in told
    assert "matched by their ids alone" in told
    outline, text = parsed(comparison_page(comparison))
    assert "Accuracy on the validation rows (higher is better)" in text
    assert "script" not in outline.tags
    values = json.loads(json.dumps(comparison.to_json()))
    assert [one["run"] for one in values["accuracy_against_the_baseline"]] == ["better", "chance"]


def test_a_labelled_run_and_a_language_model_are_not_compared(tmp_path: Path) -> None:
    from tests.run_folders import make_run

    runs = [labelled_run(tmp_path / "labels", table_of()), make_run(tmp_path / "text")]
    (verdict,) = compare_runs(runs).verdicts
    assert verdict.comparison is None
    assert verdict.reason == "text has no predictions of labels, and labels has"

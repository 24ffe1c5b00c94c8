"""Pseudo-labels: blind teachers, soft labels, kept only where they are not worse, and the same bits after a kill."""

from __future__ import annotations

import hashlib
import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.forked_processes import LAVRA, TRAINING, ForkServer
from tests.labelled_reviews import reviews, tiny_request, write_rows

import lavra
from lavra.checks.leaks import check_permuted_labels
from lavra.config.training import LabelsConfig, TextConfig, TrainConfig
from lavra.core.disk.run_folder import RunFolder
from lavra.core.errors import InputError
from lavra.data.blindness import Learner
from lavra.data.folds import make_folds
from lavra.evaluation.labels.predictions import Predictions, one_hot
from lavra.evaluation.labels.predictions_file import read_predictions
from lavra.models.linear.fitting import fit_linear
from lavra.workflows.labels import trials
from lavra.workflows.labels.fold_rows import written_rows
from lavra.workflows.labels.pseudo_labels import Teacher
from lavra.workflows.train import resume, train

pytest.importorskip("sklearn")


def rows_with_and_without_labels() -> list[dict[str, Any]]:
    """80 rows with a label, 40 without, and two without that repeat one with a label."""
    known = reviews(80)
    others = [{**row, "id": f"u{row['id']}", "label": ""} for row in reviews(40, seed=9)]
    copies = [{"id": "copy", "text": known[0]["text"], "label": ""}, {"id": "near", "text": f"{known[1]['text']}!"}]
    return [*known, *others, *copies]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows") / "reviews.jsonl", rows_with_and_without_labels())


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _linear(data: Path, out: Path, **fields: Any) -> RunFolder:
    asked: dict[str, Any] = {"labels": LabelsConfig(pseudo=0.5), "check": False, **fields}
    return train(TrainConfig(data=(str(data),), out=str(out), **asked))


@pytest.fixture(scope="module")
def folds(data: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return _linear(data, tmp_path_factory.mktemp("folds") / "run", folds=2)


def test_each_student_learns_what_the_teacher_of_its_fold_says(folds: RunFolder) -> None:
    for fold in range(2):
        teacher = folds.path / "folds" / f"{fold}-0"
        found = _lines(folds.path / "folds" / f"pseudo-{fold}-0.jsonl")
        assert [row["id"] for row in found] == [f"ur{number}" for number in range(40)]  # copies are left out
        assert {(row["source"], row["weight"]) for row in found} == {("pseudo", 0.5)}
        said = lavra.classify(str(teacher), [row["text"] for row in found])
        assert [row["label_probs"] for row in found] == [one.probabilities for one in said]
        learned = RunFolder(folds.path / "folds" / f"{fold}-0-student").config
        assert f"pseudo-{fold}-0.jsonl" in learned
    told = folds.result["cross_validation"]["pseudo_labels"]
    assert (told["unlabelled"], told["copies"], told["weight"]) == (40, 2, 0.5)


def test_the_figures_with_and_without_stand_beside_each_other_and_the_better_is_delivered(folds: RunFolder) -> None:
    result = folds.result
    told = result["cross_validation"]["pseudo_labels"]
    other = "teacher" if told["kept"] else "student"
    assert told["kept"] == (told["difference"]["value"] >= 0)
    delivered = told["second"] if told["kept"] else told["first"]
    assert result["accuracy"]["value"] == delivered["value"]
    assert result["baseline_scores"][other]["accuracy"]["value"] == told["first" if told["kept"] else "second"]["value"]
    tables = [read_predictions(folds.path / f"out_of_fold{name}.parquet") for name in ("", f"_{other}")]
    assert sorted(tables[0].ids) == sorted(tables[1].ids) == sorted(f"r{number}" for number in range(80))
    final = [str(file) for file in folds.path.glob("folds/pseudo-teacher.jsonl")]
    assert bool(final) == told["kept"]
    assert other in lavra.evaluate(str(folds.path)).table


def test_a_teacher_that_saw_the_fold_is_refused(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def of_all(rows: Any, fold: int, run: Path) -> Teacher:
        return Teacher(run, Learner("a teacher of all folds", frozenset({0, 1})))

    monkeypatch.setattr(trials, "teacher_of", of_all)
    with pytest.raises(InputError, match=r"cannot be validated on fold 0: .* a teacher of all folds saw the labels"):
        _linear(data, tmp_path / "run", folds=2)


def test_rows_that_were_made_from_a_validated_row_teach_no_student_of_its_fold(tmp_path: Path) -> None:
    made = [{"id": f"m{number}", "text": f"{number} told anew", "parent": f"r{number}"} for number in range(6)]
    rows = [*reviews(30), *made]
    run = _linear(write_rows(tmp_path / "rows.jsonl", rows), tmp_path / "run", folds=2)
    found = written_rows(run.path)
    assert found is not None
    for fold in range(2):
        validated = set(found.ids(fold))
        parents = {row["parent"] for row in _lines(run.path / "folds" / f"pseudo-{fold}-0.jsonl")}
        assert parents == {f"r{number}" for number in range(6)} - validated


def test_without_folds_teacher_and_student_are_measured_on_rows_that_neither_saw(data: Path, tmp_path: Path) -> None:
    run = _linear(data, tmp_path / "run")
    told = run.result["pseudo_labels"]
    assert told["kept"] == (told["difference"]["value"] >= 0)
    kept = run.path / "folds" / ("0-0-student" if told["kept"] else "0-0")
    assert run.result["accuracy"] == RunFolder(kept).result["accuracy"]
    assert (run.path / "linear" / "task.json").read_bytes() == (kept / "linear" / "task.json").read_bytes()
    validated = {row["id"] for row in _lines(run.path / "folds" / "part-0.jsonl")}
    trained = {row["id"] for name in ("always", "pseudo-0-0") for row in _lines(run.path / "folds" / f"{name}.jsonl")}
    assert validated
    assert not validated & trained
    assert len(validated) + len(trained) == 120
    assert lavra.classify(str(run.path), ["a great and lovely film"])[0].label == "good"
    assert lavra.evaluate(str(run.path)).to_json()["accuracy"] == run.result["accuracy"]
    again = _linear(data, run.path, force=True)  # everything in the folder is known to be lavra's
    assert again.result["accuracy"] == run.result["accuracy"]


def test_given_validation_rows_are_those_that_both_are_measured_on(data: Path, tmp_path: Path) -> None:
    held_out = write_rows(tmp_path / "held-out.jsonl", reviews(24, seed=4))
    config = TrainConfig(data=(str(data),), out=str(tmp_path / "run"), labels=LabelsConfig(pseudo=1.0), check=False)
    run = train(replace(config, text=replace(config.text, validation=(str(held_out),))))
    assert len(read_predictions(run.path / "predictions.parquet")) == 24
    assert len(_lines(run.path / "folds" / "always.jsonl")) == 80


def test_several_seeds_without_folds_are_measured_on_the_same_rows_and_the_first_is_delivered(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", reviews(60))
    run = train(tiny_request(data, tmp_path / "run", steps=3, seeds=2))
    told = run.result["seeds"]
    found = [RunFolder(run.path / "folds" / f"0-{seed}") for seed in (0, 1)]
    assert told["mean"]["value"] == pytest.approx(np.mean(told["values"]))
    assert run.result["accuracy"] == found[0].result["accuracy"]
    assert sorted(read_predictions(found[0].path / "predictions.parquet").ids) == sorted(
        read_predictions(found[1].path / "predictions.parquet").ids
    )
    text = write_rows(tmp_path / "text.jsonl", [{"text": f"some text {number} of many"} for number in range(30)])
    with pytest.raises(InputError, match="--seeds is for rows with one label"):
        train(tiny_request(text, tmp_path / "other", steps=3, seeds=2))


@pytest.mark.parametrize("task", ["multi-label", "regression", "ordinal"])
def test_every_kind_of_label_can_be_a_pseudo_label(task: str, tmp_path: Path) -> None:
    number = {"bad": 1, "good": 5}
    as_label = {"multi-label": lambda name: [name], "regression": number.get, "ordinal": number.get}[task]
    rows = [{**row, "label": as_label(row["label"])} for row in reviews(60)]
    rows += [{"text": row["text"], "label": None} for row in reviews(20, seed=3)]
    named = TextConfig(label="label")
    run = _linear(write_rows(tmp_path / "rows.jsonl", rows), tmp_path / "run", folds=2, task=task, text=named)
    assert run.result["cross_validation"]["pseudo_labels"]["unlabelled"] == 20


@pytest.mark.parametrize(
    ("rows", "fields", "said"),
    [
        (reviews(30), {}, "no row lacks a label"),
        ([{"text": f"some text {number} of many"} for number in range(30)], {}, "--labels.pseudo is for rows with one"),
        (reviews(30), {"labels": LabelsConfig(pseudo=-1.0)}, "--labels.pseudo -1 is no value"),
    ],
)
def test_what_has_no_pseudo_labels_is_said_and_leaves_no_run(
    rows: list[dict[str, Any]], fields: dict[str, Any], said: str, tmp_path: Path
) -> None:
    asked: dict[str, Any] = {"labels": LabelsConfig(pseudo=1.0), "steps": 2, **fields}
    with pytest.raises(InputError) as caught:
        train(tiny_request(write_rows(tmp_path / "rows.jsonl", rows), tmp_path / "run", **asked))
    assert said in str(caught.value)
    assert not (tmp_path / "run").exists()


# A planted leak: the teacher is fitted outside the folds.


def _pipeline(texts: list[str], others: list[str], folds: Any, *, blind: bool) -> Any:
    """Return a pipeline of teachers and students, whose teachers are blind or see the labels of all folds."""

    def run(_rows: Any, targets: np.ndarray, _folds: Any) -> np.ndarray:
        found = np.empty_like(targets)
        for fold in range(folds.count):
            inside, outside = folds.validation(fold), folds.training(fold)
            seen = outside if blind else np.arange(len(texts))
            teacher = fit_linear([texts[row] for row in seen], targets[seen], ["bad", "good"], strength=30.0)
            learned = [*(texts[row] for row in outside), *others]
            labels = np.concatenate([targets[outside], teacher.predict_proba(others)])
            student = fit_linear(learned, labels, ["bad", "good"], strength=30.0)
            found[inside] = student.predict_proba([texts[row] for row in inside])
        return found

    return run


@pytest.mark.parametrize("blind", [True, False])
def test_shuffled_labels_unmask_a_teacher_that_saw_the_fold(blind: bool) -> None:
    chance = np.random.default_rng(0)
    words = [f"w{number}" for number in range(300)]
    texts = [" ".join(chance.choice(words, 12)) for _ in range(100)]
    others = [" ".join(chance.permutation(text.split())) for text in texts]  # the same words in another order
    targets = one_hot(np.arange(100) % 2, 2)
    folds = make_folds((np.arange(100) % 2).tolist(), 4)
    table = Predictions(range(100), targets, np.full((100, 2), 0.5), ["bad", "good"], folds=folds.fold)
    found = check_permuted_labels(texts, table, _pipeline(texts, others, folds, blind=blind))
    assert found.verdict == ("ok" if blind else "fail")


# Killed and resumed.

_NO_LINEAR = """
import lavra.workflows.train
import lavra.workflows.labels.baseline as baseline
baseline.is_available = lambda: False
"""
_WORDS = (
    "--steps 3 --no-check --vocabulary 300 --model.depth 1 --model.width 32 --model.heads 2 --quiet --labels.pseudo 1 "
    "--model.context 64 --device cpu --precision fp32 --checkpoint-every 1"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with ForkServer(tmp_path_factory.mktemp("forked"), TRAINING + _NO_LINEAR) as found:
        yield found


def _fingerprint(run: Path) -> dict[str, str]:
    paths = [*run.glob("model/*.safetensors"), *run.glob("folds/pseudo-*"), *run.glob("out_of_fold*")]
    return {str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(paths)}


@pytest.mark.parametrize(
    ("more", "moment"),
    [
        ("", "step.backward:5"),
        pytest.param("", "step.backward:2", marks=pytest.mark.heavy),
        pytest.param("--folds 2", "step.backward:11", marks=pytest.mark.heavy),
        pytest.param("--folds 2", "step.backward:17", marks=pytest.mark.heavy),
    ],
)
def test_killed_in_a_teacher_or_a_student_it_goes_on_to_the_same_bits(
    server: ForkServer, data: Path, tmp_path: Path, more: str, moment: str
) -> None:
    words = [*_WORDS.split(), *more.split()]
    ended = server.run(LAVRA, ["train", str(data), "--out", str(tmp_path / "whole"), *words], {"LAVRA_FAULT": ""})
    assert ended.returncode == 0, ended.communicate()[1].decode()
    run = tmp_path / "run"
    killed = server.run(LAVRA, ["train", str(data), "--out", str(run), *words], {"LAVRA_FAULT": f"{moment}:kill"})
    assert killed.returncode == -signal.SIGKILL
    ended = server.run(LAVRA, ["resume", str(run), "--quiet"], {"LAVRA_FAULT": ""})
    assert ended.returncode == 0, ended.communicate()[1].decode()
    found = _fingerprint(run)
    assert found == _fingerprint(tmp_path / "whole")
    assert any(name.startswith("model/") for name in found)


def test_a_finished_run_is_not_trained_again(data: Path, tmp_path: Path) -> None:
    run = _linear(data, tmp_path / "run")
    before = (run.path / "result.json").stat().st_mtime_ns
    assert resume(run.path).result["pseudo_labels"]["unlabelled"] == 40
    assert (run.path / "result.json").stat().st_mtime_ns == before

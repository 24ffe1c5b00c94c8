"""Token classification: trained, killed and resumed to the same bits, measured, used on plain lists of words."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import lavra
from finished_runs import weights
from labelled_rows import QUICK, encoder, tagged, write
from lavra.config.training import TextConfig, TrainConfig
from lavra.core.errors import InputError
from lavra.data.examples.tagged import TaggedColumns
from lavra.tasks.datasets import DataDescription
from lavra.tasks.table import choose_task
from lavra.tasks.tagging import BASELINE, MAJORITY, TaggedSentence, frequent_tags, measure_tags, tag
from lavra.training.batches import DistributedInfo
from lavra.workflows.classify import classify_file
from lavra.workflows.models.open import open_model
from lavra.workflows.training.autoconfig import Machine
from lavra.workflows.training.job import TrainingJob

ENTITIES: dict[str, Any] = {
    "classes": ["B-LOC", "B-PER", "I-PER", "O"],
    "frequencies": [2, 3, 1, 9],
    "entities": True,
}
PLAIN: dict[str, Any] = {"classes": ["DET", "NOUN", "VERB"], "frequencies": [3, 5, 2], "entities": False}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(encoder(tmp_path_factory.mktemp("base")))


def request(folder: Path, base: str, rows: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
    train, validation = write(folder / "rows.jsonl", rows[8:]), write(folder / "dev.jsonl", rows[:8])
    return {**QUICK, "data": (train,), "text": {"validation": (validation,)}, "base": base, "check": False, **fields}


def train(asked: dict[str, Any], out: Path) -> lavra.Run:
    return lavra.train(list(asked["data"]), out=str(out), **{k: v for k, v in asked.items() if k != "data"})


def test_it_is_trained_killed_and_resumed_to_the_same_bits_and_measured(base: str, tmp_path: Path):
    asked = request(tmp_path, base, tagged(40))
    whole = train(asked, tmp_path / "whole")
    assert whole.plan["task"] == "token-classification"
    facts = whole.plan["facts"]
    assert facts["classes"] == ["B-LOC", "B-PER", "I-LOC", "I-PER", "O"]
    assert facts["entities"]
    assert "accuracy" in whole.metrics[-1]
    assert {"f1", "macro_f1", "accuracy"} <= set(whole.result)
    assert set(whole.result["types"]) == {"LOC", "PER"}
    assert whole.result["baseline_scores"][BASELINE]["f1"]["value"] == 1.0  # the made-up rows repeat their words

    child = os.fork()
    if not child:
        from lavra.training.fault_injection import injected

        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
        with injected("step.apply:5:kill"):
            train(asked, tmp_path / "killed")
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL
    killed = lavra.resume(tmp_path / "killed")
    ours, theirs = weights(whole), weights(killed)
    assert {name for name in ours if name.startswith("task_head.")} == {
        "task_head.output.weight",
        "task_head.output.bias",
    }
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    found = lavra.evaluate(str(whole.path)).to_json()
    assert found["f1"] == whole.result["f1"]
    given = lavra.evaluate(str(whole.path), [asked["text"]["validation"][0]]).to_json()
    assert given["f1"] == whole.result["f1"]
    assert list(given["baseline_scores"]) == [MAJORITY]  # the words of the rows themselves would tell their tags


def test_a_head_of_tags_that_was_fitted_on_frozen_features_is_right_before_the_first_step(
    base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    still = {"steps": 1, "optimization": {"learning_rate": 1e-9}}  # so that what is measured is the head as it began
    asked = request(tmp_path, base, tagged(40), **still)
    fitted = train({**asked, "head": {"probe": True}}, tmp_path / "fitted")
    assert "the head begins fitted on the frozen features of" in capsys.readouterr().err
    assert fitted.result["accuracy"]["value"] > 0.9
    usual = train(asked, tmp_path / "usual")  # a length in steps is no sign of too little time
    assert "begins fitted" not in capsys.readouterr().err
    assert usual.result["accuracy"]["value"] < 0.9


def test_in_little_time_a_step_is_made_smaller_so_that_there_are_more_of_them(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked = request(tmp_path, base, tagged(200))
    config = TrainConfig(data=asked["data"], base=base, budget=60.0, text=TextConfig(**asked["text"]))
    rows = {}
    for flops in (2e7, 1e12):
        machine = Machine(torch.device("cpu"), "fp32", flops, 1)
        monkeypatch.setattr("lavra.workflows.training.job.measured_machine", lambda *_, machine=machine: machine)
        home = tmp_path / str(flops)
        home.mkdir()
        rows[flops] = TrainingJob.create(config, home, None, DistributedInfo()).plan.global_batch_size
    assert 2 <= rows[2e7] < rows[1e12]


def test_it_learns_what_windows_of_long_sentences_hold(base: str, tmp_path: Path):
    rows = tagged(48)
    for row in rows:
        row["tokens"], row["tags"] = row["tokens"] * 6, row["tags"] * 6  # longer than the 64 positions of the model
    run = train(request(tmp_path, base, rows, steps=60, optimization={"learning_rate": 3e-3}), tmp_path / "run")
    assert run.result["f1"]["value"] > 0.9
    assert run.result["words"] == sum(len(row["tokens"]) for row in rows[:8])
    opened = open_model(str(run.path), "cpu")
    assert opened.task is not None
    words = rows[0]["tokens"]
    given = tag(opened.model, opened.tokenizer, opened.task[1], [words, [], ["​"], words[:4]])
    assert [len(tags) for tags in given] == [len(words), 0, 1, 4]
    assert sum(a == b for a, b in zip(given[0], rows[0]["tags"], strict=True)) > 0.9 * len(words)
    assert given[2] == ["O"]  # nothing of it is read
    text, mapped = lavra.classify(str(run.path), [" ".join(words), {"tokens": words}])  # pyright: ignore[reportArgumentType]
    assert text.label == mapped.label == given[0]
    rows_given = classify_file(str(run.path), str(tmp_path / "dev.jsonl"))["rows"]
    assert [len(row["predicted"]) for row in rows_given] == [len(row["tokens"]) for row in rows[:8]]
    assert rows_given[0]["predicted"] == given[0]


@pytest.mark.parametrize("sides", [("decoder", "tags"), ("encoder", "upos"), ("encoder", "ner_tags")])
def test_lists_of_words_and_tags_are_recognised(sides: tuple[Any, str]):
    kind, name = sides
    row = {"tokens": ["a"], name: ["O"], "text": "a", "label": "x"}
    data = DataDescription(frozenset(row), first_row=row)
    task, _ = choose_task("auto", "auto", kind, data, "a model")
    assert task.name == "token-classification"
    assert task.reader(data) == TaggedColumns("tokens", name)


def test_other_rows_are_other_tasks():
    def chosen(named: str | None = None, **row: Any) -> str:
        data = DataDescription(frozenset(row), first_row=row, label_column=named)
        return choose_task("auto", "auto", "decoder", data, "a model")[0].name

    intents = {"text": "a b", "label": "x", "tokens": ["a", "b"], "tags": ["O", "O"]}
    assert chosen("label", **intents) == "classification"  # the label column that is named is no list
    assert chosen(text="a", labels="x", tokens=7) == "classification"
    assert chosen(text="a") == "language-modelling"


def test_columns_that_are_not_there_are_named():
    data = DataDescription(frozenset({"sentence", "labels"}))
    task, _ = choose_task("token-classification", "auto", "encoder", data, "a model")
    with pytest.raises(InputError, match="finds no lists of words and tags among labels, sentence"):
        task.reader(data)


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([{"tokens": ["a", f"b{n}"], "tags": ["O", "O"]} for n in range(20)], "the tags hold 'O' alone"),
        ([{"tokens": [f"b{n}"], "tags": [f"t{n}"]} for n in range(20)], "12 different tags on 12 words"),
        ([{"tokens": ["a"], "tags": ["O", "O"]} for _ in range(20)], "label that cannot be used"),
    ],
)
def test_tags_from_which_nothing_can_be_learned_are_refused(
    base: str, tmp_path: Path, rows: list[dict[str, Any]], told: str
):
    with pytest.raises(InputError, match=told):
        train(request(tmp_path, base, rows, task="token-classification"), tmp_path / "run")


def test_tags_of_the_validation_data_alone_are_said_and_count_as_errors(
    base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    rows = tagged(24)
    rows[0]["tags"][0] = "B-ORG"
    rows[9]["tokens"].append("")  # no tokenizer makes a token of it
    rows[9]["tags"].append("O")
    run = train(request(tmp_path, base, rows), tmp_path / "run")
    told = capsys.readouterr().err
    assert "tags of the validation data that are not in the training data count as errors: B-ORG (1)" in told
    assert "1 word without a token of this tokenizer" in told
    assert run.result["unknown_tags"] == {"B-ORG": 1}
    assert run.result["types"]["ORG"]["f1"]["value"] == 0.0
    report = json.loads((run.path / "data/report.json").read_text())
    assert report["columns_read"] == {"tokens": "tokens", "tags": "tags"}


def test_entities_are_measured_by_f1_beside_the_most_frequent_tag_of_each_word():
    words = ["Ana", "mora", "em", "Beja"]
    truth: list[str | None] = ["B-PER", "O", "O", "B-LOC"]
    sentences = [
        TaggedSentence(words, truth, ["B-PER", "O", "O", "O"]),
        TaggedSentence(words, ["B-PER", None, "O", "B-LOC"], ["B-PER", "B-PER", "O", "B-LOC"]),
        TaggedSentence(words, None, ["O"] * 4),
    ]
    measured = measure_tags(sentences, ENTITIES, {"Ana": "B-PER", "Beja": "B-PER"}, seed=0)
    figures = measured.figures
    assert figures["f1"]["value"] == pytest.approx(6 / 7)
    assert (figures["precision"]["value"], figures["recall"]["value"]) == (1.0, 0.75)
    assert figures["accuracy"]["value"] == pytest.approx(6 / 7)
    assert (figures["sentences"], figures["words"]) == (2, 7)  # what has no tag is not measured
    assert figures["baseline_scores"][BASELINE]["f1"]["value"] == 0.5
    assert "LOC" in measured.table
    assert "most frequent tag of each word" in measured.table
    assert "the model is worse than" not in measured.table
    better = measure_tags(sentences, ENTITIES, {"Ana": "B-PER", "Beja": "B-LOC"}, seed=0)
    assert "the model is worse than the most frequent tag of each word: train it longer" in better.table


def test_tags_that_mark_no_entities_are_measured_by_their_accuracy():
    sentences = [TaggedSentence(["o", "rio", "corre"], ["DET", "NOUN", "VERB"], ["DET", "NOUN", "NOUN"])]
    figures = measure_tags(sentences, PLAIN, None, seed=0).figures
    assert figures["accuracy"]["value"] == pytest.approx(2 / 3)
    assert figures["macro_f1"]["value"] == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert figures["types"]["DET"]["f1"]["value"] == 1.0
    assert "f1" not in figures
    assert figures["baseline_scores"][MAJORITY]["accuracy"]["value"] == pytest.approx(1 / 3)


def test_the_most_frequent_tag_breaks_ties_by_the_alphabet():
    rows = [{"tokens": ["a", "a", "b"], "tags": ["X", "A", None]}, {"tokens": ["c"], "tags": None}]
    assert frequent_tags(rows) == {"a": "A"}

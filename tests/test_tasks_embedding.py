"""The embedding task: from columns to vectors that are trained, killed, resumed, measured, and measured elsewhere."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import lavra
from finished_runs import weights
from lavra.core.errors import InputError
from lavra.tasks.datasets import DataDescription
from lavra.tasks.embedding import EmbeddingTask
from lavra.tasks.embedding_columns import columns_of, negatives_of
from lavra.tasks.table import choose_task
from lavra.workflows.models.open import open_model
from test_workflows_headless import body_of

TINY: dict[str, Any] = {
    "model": {"depth": 1, "width": 32, "heads": 2, "context": 64},
    "machine": {"device": "cpu", "threads": 1, "precision": "fp32", "compile": "no"},
    "text": {"vocabulary": 300},
    "embedding": {"batch": 16},
    "steps": 6,
    "checkpoint_every": 2,
}
THINGS = ("river", "stone", "house", "garden", "letter", "winter", "market", "bridge", "window", "island")
PLACES = ("north", "south", "village", "harbour", "valley", "castle", "forest", "school")


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf8")
    return path


def question(chance: random.Random, number: int) -> dict[str, Any]:
    thing, place = chance.choice(THINGS), chance.choice(PLACES)
    return {
        "query": f"where is the {thing} number {number} of the {place}?",
        "passage": f"People say that the {thing} number {number} lies in the {place}, beyond the hills.",
    }


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home, chance = tmp_path_factory.mktemp("rows"), random.Random(0)
    pairs = [question(chance, number) for number in range(90)]
    others = [pairs[(number + 7) % 90]["passage"] for number in range(90)]
    scored = [
        {"text1": row["query"], "text2": row["passage"] if number % 3 else other, "score": float(number % 3)}
        for number, (row, other) in enumerate(zip(pairs, others, strict=True))
    ]
    margins = [
        {"query": row["query"], "positive": row["passage"], "negative": other, "margin": 1.0 + number % 4}
        for number, (row, other) in enumerate(zip(pairs, others, strict=True))
    ]
    return {
        "pairs": write(home / "pairs.jsonl", [{"anchor": row["query"], "positive": row["passage"]} for row in pairs]),
        "queries": write(home / "queries.jsonl", pairs),
        "scored": write(home / "scored.jsonl", scored),
        "margins": write(home / "margins.jsonl", margins),
        "texts": write(home / "texts.jsonl", [{"text": row["passage"]} for row in pairs]),
    }


def train(data: Path, out: Path, **options: Any) -> lavra.Run:
    return lavra.train(data, out=str(out), **{**TINY, **options})


# Which columns are read.


def test_the_columns_say_what_is_learned():
    def chosen(*columns: str, asked: str = "auto", kind: Any = "encoder") -> tuple[str, str]:
        task, objective = choose_task(asked, "auto", kind, DataDescription(frozenset(columns)), "a model")
        return task.name, objective

    assert chosen("anchor", "positive") == ("embedding", "contrastive")
    assert chosen("anchor", "positive", "negative", kind="decoder") == ("embedding", "contrastive")
    assert chosen("query", "passage") == ("embedding", "contrastive")
    assert chosen("query", "passage", kind="decoder")[0] == "completion"  # which writes queries, as before
    assert chosen("query", "positive", "negative", "margin") == ("embedding", "margin-mse")
    assert chosen("text1", "text2", "score")[0] == "regression"
    assert chosen("text1", "text2", "score", asked="embedding") == ("embedding", "cosent")
    assert chosen("text", asked="embedding") == ("embedding", "simcse")
    assert chosen("text")[0] == "mlm"


def test_negatives_are_read_in_the_order_of_their_numbers():
    assert negatives_of({"negative_10", "negative_9", "negatives", "negatively"}) == (
        "negatives",
        "negative_9",
        "negative_10",
    )
    found = columns_of(DataDescription(frozenset({"query", "passage", "negative_2", "negative_1", "id"})))
    assert found is not None
    assert (found.first, found.second, found.negatives, found.score) == (
        "query",
        "passage",
        ("negative_1", "negative_2"),
        "",
    )


def test_rows_without_any_text_are_refused_with_what_would_do():
    with pytest.raises(InputError, match="finds no texts among the columns a, b"):
        EmbeddingTask().reader(DataDescription(frozenset({"a", "b"})))


# Training.


def test_pairs_are_trained_killed_resumed_and_measured(files: dict[str, Path], tmp_path: Path):
    whole = train(files["pairs"], tmp_path / "whole")
    assert (whole.plan["task"], whole.plan["objective"]) == ("embedding", "contrastive")
    assert whole.plan["global_batch_size"] == 16
    child = os.fork()
    if not child:
        os.environ["LAVRA_FAULTS"] = ""
        from lavra.training.fault_injection import injected

        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
        with injected("step.apply:5:kill"):
            train(files["pairs"], tmp_path / "killed")
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL
    killed = lavra.resume(tmp_path / "killed")
    ours, theirs = weights(whole), weights(killed)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)

    result = whole.result
    assert 0.0 <= result["accuracy"]["low"] <= result["accuracy"]["value"] <= result["accuracy"]["high"] <= 1.0
    assert result["MRR"]["value"] >= result["accuracy"]["value"]
    assert set(result["baseline_scores"]) == {"as it came", "tf-idf"}
    assert result["baseline_scores"]["tf-idf"]["accuracy"]["value"] > 0.9  # the letters tell these rows apart
    assert killed.result["accuracy"] == result["accuracy"]

    again = lavra.evaluate(str(whole.path)).to_json()
    assert again["task"] == "embedding"
    assert again["accuracy"]["value"] == result["accuracy"]["value"]
    elsewhere = lavra.evaluate(str(whole.path), [str(files["scored"])]).to_json()
    assert elsewhere["rows"] == 90
    assert -1.0 <= elsewhere["spearman"]["low"] <= elsewhere["spearman"]["high"] <= 1.0


@pytest.mark.parametrize(
    ("name", "options", "objective", "metric"),
    [
        ("scored", {"task": "embedding"}, "cosent", "spearman"),
        ("scored", {"objective": {"name": "cosine-regression"}}, "cosine-regression", "spearman"),
        ("margins", {}, "margin-mse", "accuracy"),
        ("texts", {"task": "embedding"}, "simcse", "MRR"),
        ("texts", {"objective": {"name": "tsdae"}}, "tsdae", "MRR"),
    ],
)
def test_every_objective_trains_from_its_columns(
    files: dict[str, Path], tmp_path: Path, name: str, options: dict[str, Any], objective: str, metric: str
):
    run = train(files[name], tmp_path / "run", **options)
    assert (run.plan["task"], run.plan["objective"]) == ("embedding", objective)
    assert metric in run.result
    assert json.loads((run.path / "checks.json").read_text())["verdict"] != "fail"
    assert open_model(str(run.path), "cpu").task[0] == "embedding"  # pyright: ignore[reportOptionalSubscript]


def test_sizes_of_a_matryoshka_are_learned_and_measured(files: dict[str, Path], tmp_path: Path):
    run = train(files["scored"], tmp_path / "run", task="embedding", embedding={"batch": 16, "matryoshka": (32, 8)})
    assert run.plan["facts"]["embedding"]["matryoshka"] == [32, 8]
    assert set(run.result["baseline_scores"]) == {"first 8", "as it came", "tf-idf"}


def test_an_encoder_keeps_its_prompts_pooling_and_longest_text(files: dict[str, Path], tmp_path: Path):
    base = body_of(tmp_path / "body")
    (base / "modules.json").write_text(
        json.dumps(
            [
                {"idx": n, "name": str(n), "path": p, "type": f"sentence_transformers.models.{t}"}
                for n, (p, t) in enumerate([("", "Transformer"), ("1_Pooling", "Pooling")])
            ]
        )
    )
    (base / "1_Pooling").mkdir()
    (base / "1_Pooling" / "config.json").write_text(
        json.dumps({"word_embedding_dimension": 32, "pooling_mode_cls_token": True})
    )
    (base / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 24}))
    about = {"prompts": {"query": "query: ", "document": "passage: "}, "similarity_fn_name": "cosine"}
    (base / "config_sentence_transformers.json").write_text(json.dumps(about))
    options = {name: value for name, value in TINY.items() if name not in ("model", "text")}
    run = lavra.train(
        files["queries"],
        base=str(base),
        out=str(tmp_path / "run"),
        embedding={"batch": 16, "passage_prompt": "p: "},
        **{k: v for k, v in options.items() if k != "embedding"},
    )
    facts = run.plan["facts"]
    assert facts["prompts"] == {"query": "query: ", "passage": "p: "}
    assert facts["columns"]["prompts"] == ["query: ", "p: "]
    assert (facts["columns"]["longest"], facts["head"]["context"]) == (24, 24)
    assert (facts["embedding"]["pooling"], facts["embedding"]["normalise"]) == ("first", True)
    again = lavra.train(files["queries"], base=str(run.path), out=str(tmp_path / "again"), **options)
    assert again.plan["facts"]["prompts"] == facts["prompts"]
    assert again.plan["facts"]["embedding"]["pooling"] == "first"


def test_a_plain_encoder_is_measured_on_scored_pairs(files: dict[str, Path], tmp_path: Path):
    found = lavra.evaluate(str(body_of(tmp_path / "body")), [str(files["scored"])])
    assert "spearman" in found.table
    assert "tf-idf" in found.table
    assert found.to_json()["rows"] == 90


# What cannot be used is said.


def test_rows_that_cannot_be_used_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    chance = random.Random(1)
    rows: list[dict[str, Any]] = []
    for number in range(60):
        row = question(chance, number)
        rows.append({"query": row["query"], "passage": row["passage"], "negatives": [row["passage"], "another text"]})
    rows += [
        {"query": " ", "passage": "x"},
        {"query": "alone"},
        {"query": 3, "passage": "x"},
        {"query": "x", "passage": "y", "negatives": [7]},
    ]
    run = train(write(tmp_path / "odd.jsonl", rows), tmp_path / "run", task="embedding", steps=1, check=False)
    report = json.loads((run.path / "data" / "report.json").read_text())
    assert report["bad_rows"]["empty document"]["count"] == 1
    assert report["bad_rows"]["missing column"]["count"] == 1
    assert report["bad_rows"]["not text"]["count"] == 2
    assert report["changed"]["negative that is one of the texts of its pair, left out"]["count"] == 60
    told = capsys.readouterr().err
    assert "left out 2 rows: not text" in told
    assert "60 negatives" not in told  # some are validation rows
    assert "negatives" in told


def test_an_objective_that_the_rows_cannot_teach_is_refused(files: dict[str, Path], tmp_path: Path):
    with pytest.raises(InputError, match="--objective cosent learns from two texts with a score"):
        train(files["pairs"], tmp_path / "run", objective={"name": "cosent"})
    with pytest.raises(InputError, match="no value that a run can have"):
        train(files["pairs"], tmp_path / "run", embedding={"temperature": 0.0})
    with pytest.raises(InputError, match="have no first 64"):
        train(files["pairs"], tmp_path / "other", embedding={"batch": 16, "matryoshka": (64,)}, check=False)

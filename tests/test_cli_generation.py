"""`lavra generate --in`, `score`, `classify` and `explain` from end to end, on a saved model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from byte_level import lively_decoder
from lavra.cli.main import main
from lavra.data.tokenizer import Tokenizer
from lavra.models.store import save_decoder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    from pydoc_data.topics import topics

    tokenizer = Tokenizer.train(list(topics.values())[:20], 600)
    folder = tmp_path_factory.mktemp("model")
    save_decoder(folder, lively_decoder(1, context=256, vocabulary=tokenizer.vocabulary_size).float())
    tokenizer.save(folder)
    return str(folder)


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(path: Path, *rows: Any) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def answer(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    capsys.readouterr()
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_generate_from_a_file_and_go_on_after_an_interruption(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = write(tmp_path / "prompts.jsonl", *({"prompt": text} for text in ("a longer prompt", "x", "", "x")))
    out = tmp_path / "texts.jsonl"
    words = ["generate", model, "--in", prompts, "--out", str(out), "--samples", "2", "--max-new-tokens", "8"]
    assert answer(capsys, *words) == {"out": str(out), "texts": 8, "made": 8}
    whole = out.read_bytes()
    rows = rows_of(out)
    assert [(row["row"], row["sample"]) for row in rows] == [(row, sample) for row in range(4) for sample in (0, 1)]
    assert rows[0]["prompt"] == "a longer prompt"
    assert [row["text"] for row in rows[2:4]] == [row["text"] for row in rows[6:8]]
    lines = whole.splitlines(keepends=True)
    out.write_bytes(lines[0] + lines[1] + lines[4] + lines[7][:20])
    assert answer(capsys, *words)["made"] == 6
    assert out.read_bytes() == whole
    assert answer(capsys, *words)["made"] == 0
    assert main([*words, "--seed", "1"]) == 2
    assert "another request" in capsys.readouterr().err
    assert answer(capsys, *words, "--seed", "1", "--force")["made"] == 8


def test_generate_with_every_strategy_and_constraint(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    base = ("generate", model, "--prompt", "It", "--max-new-tokens", "8")
    beams = answer(capsys, *base, "--beams", "3", "--samples", "3")["generations"]
    assert len(beams) == 3
    assert all(isinstance(one["score"], float) for one in beams)
    for more in (
        ("--beams", "4", "--beam-groups", "2"),
        ("--contrastive", "0.5", "--top-k", "4"),
        ("--precision", "bf16", "--greedy"),
        ("--words", "it"),
    ):
        assert len(answer(capsys, *base, *more)["generations"]) == 1
    chosen = answer(capsys, *base, "--choices", "yes", "no")["generations"][0]["text"]
    assert chosen in ("yes", "no")
    assert answer(capsys, *base, "--regex", "[0-9]{3}")["generations"][0]["text"].isdigit()
    assert main([*base, "--regex", "("]) == 2
    assert main([*base, "--beams", "2"]) == 0


def test_score(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = ("score", model, "--prompt", "It is", "--options", " so", " not so")
    (one,) = answer(capsys, *base)["prompts"]
    assert [each["option"] for each in one["options"]] == [" so", " not so"]
    assert sum(each["probability"] for each in one["options"]) == pytest.approx(1.0)
    requests = write(tmp_path / "requests.jsonl", {"prompt": "It is", "options": [" so", " not so"]})
    assert answer(capsys, "score", model, "--in", requests)["prompts"] == [one]
    for by in ("token", "byte", "pmi"):
        (other,) = answer(capsys, *base, "--by", by)["prompts"]
        assert other["options"][0]["log_probability"] == one["options"][0]["log_probability"]
        assert other["options"][0]["value"] != one["options"][0]["value"]
    assert main(list(base)) == 0
    assert "log-probability" in capsys.readouterr().out
    assert main(["score", model]) == 2
    bad = write(tmp_path / "bad.jsonl", {"prompt": "x"})
    assert main(["score", model, "--in", bad]) == 2
    assert "bad.jsonl:1 has no 'options'" in capsys.readouterr().err


def test_classify(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "classify", model, "--zero-shot", "--labels", "good", "bad", "--text", "a day", "b")
    assert {row["predicted"] for row in found["rows"]} <= {"good", "bad"}
    examples = write(
        tmp_path / "examples.jsonl",
        *({"text": f"day {number}", "label": "good" if number % 2 else "bad"} for number in range(6)),
    )
    texts = write(tmp_path / "texts.jsonl", {"text": "day 7", "label": "good"}, {"text": "day 8", "label": "bad"})
    out = tmp_path / "out.jsonl"
    for choice in ("random", "similar", "vote-k"):
        few = ("--few-shot", examples, "--shots", "2", "--choice", choice, "--templates", "classify-pt")
        found = answer(capsys, "classify", model, *few, "--in", texts, "--out", str(out))
        assert 0 <= found["accuracy"] <= 1
        assert rows_of(out) == found["rows"]
    assert main(["classify", model, "--few-shot", examples, "--labels", "good", "fair", "--text", "x"]) == 2
    assert "labels that are not among --labels: 'bad'" in capsys.readouterr().err
    for wrong in (["--text", "x"], ["--zero-shot", "--text", "x"], ["--zero-shot", "--labels", "a", "b"]):
        assert main(["classify", model, *wrong]) == 2


def test_explain(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "explain", model, "--prompt", "It", "--steps", "3", "--top-k", "5", "--top", "4")
    assert len(found["steps"]) <= 3
    assert len(found["steps"][0]["candidates"]) == 4
    assert main(["explain", model, "--prompt", "It", "--steps", "2"]) == 0
    assert "▶" in capsys.readouterr().out

"""`lavra generate --in`, `score`, `classify` and `explain` from end to end, on a saved model."""

from __future__ import annotations

import errno
import itertools
import json
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from byte_level import lively_decoder
from lavra.cli.main import main
from lavra.core.disk.json_lines import JsonLines, one_line
from lavra.core.errors import InputError
from lavra.data.tokenizers.tokenizer import Tokenizer
from lavra.evaluation import likelihood
from lavra.models.native.store import save_decoder
from lavra.workflows import evaluate
from lavra.workflows.generation.score import score
from recommended import recommended


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
    assert answer(capsys, *words) == {"out": str(out), "texts": 8, "made": 8, "unfinished": 0}
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


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "x", "options": " sim"}, """: "options" is ' sim'"""),
        ({"prompt": "x", "options": [" sim", 1]}, """: "options" is [' sim', 1]"""),
        ({"prompt": "x", "options": []}, """: "options" is []"""),
        ({"prompt": "x", "options": [" sim", ""]}, ': "options" is'),
        ({"prompt": "x", "options": None}, ': "options" is None'),
        ({"prompt": 7, "options": [" sim"]}, ': "prompt" is 7'),
        ({"prompt": None, "options": [" sim"]}, ': "prompt" is None'),
        ({"options": [" sim"]}, " has no 'prompt'"),
        ([" sim"], " is JSON, but no object"),
    ],
    ids=str,
)
def test_a_bad_row_to_score_is_named(
    row: Any, message: str, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    requests = write(tmp_path / "requests.jsonl", {"prompt": "It is", "options": [" so", " not so"]}, row)
    assert main(["score", model, "--in", requests]) == 2
    told = capsys.readouterr().err
    assert f"requests.jsonl:2{message}" in told
    assert "what to do" in told


def test_bad_rows_to_continue_and_to_label_are_named(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = write(tmp_path / "prompts.jsonl", {"prompt": "x"}, {"prompt": ["x"]})
    assert main(["generate", model, "--in", prompts, "--out", str(tmp_path / "out.jsonl")]) == 2
    assert """prompts.jsonl:2: "prompt" is ['x']""" in capsys.readouterr().err
    zero = ["classify", model, "--zero-shot", "--labels", "1", "true", "--in"]
    assert main([*zero, write(tmp_path / "texts.jsonl", {"text": "x"}, {"text": None})]) == 2
    assert 'texts.jsonl:2: "text" is None' in capsys.readouterr().err
    found = answer(
        capsys, *zero, write(tmp_path / "labels.jsonl", {"text": 7, "label": 1}, {"text": "x", "label": True})
    )
    right = [row["predicted"] == label for row, label in zip(found["rows"], ("1", "true"), strict=True)]
    assert found["accuracy"] == sum(right) / 2
    with pytest.raises(InputError, match="the options of a prompt are one string"):
        score(model, ["x"], ["abc"])


def test_a_full_disk_leaves_whole_lines_that_the_next_call_goes_on_from(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = write(tmp_path / "prompts.jsonl", *({"prompt": text} for text in ("a longer prompt", "x", "yes", "no")))
    out = tmp_path / "texts.jsonl"
    words = ["generate", model, "--in", prompts, "--out", str(out), "--samples", "2", "--max-new-tokens", "8"]
    room = 5

    def full(lines: JsonLines, record: Any) -> None:
        line = one_line(record) + "\n"
        written = len(out.read_bytes().splitlines()) if out.exists() else 0
        with out.open("a") as handle:
            handle.write(line if written < room else line[:20])
        if written >= room:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(JsonLines, "append", full)
        assert main(words) == 1
    told = capsys.readouterr().err
    assert "DISK FULL" in told
    assert "It has 5 whole lines" in told
    assert "all texts of 2 of 4 prompts" in told
    assert len(rows_of(out)) == 5
    assert answer(capsys, *words)["made"] == 4
    assert [(row["row"], row["sample"]) for row in rows_of(out)] == [
        (row, sample) for row in range(4) for sample in (0, 1)
    ]


def test_a_disk_that_is_full_at_the_end_says_that_all_lines_are_there(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = write(tmp_path / "prompts.jsonl", {"prompt": "a longer prompt"}, {"prompt": "x"})
    words = ["generate", model, "--in", prompts, "--out", str(tmp_path / "texts.jsonl"), "--max-new-tokens", "8"]

    def full(path: Path, content: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("lavra.workflows.generation.generate.write_atomically", full)
        assert main(words) == 1
    assert "It has 2 whole lines" in capsys.readouterr().err
    assert answer(capsys, *words)["made"] == 0


def test_long_texts_are_cut_and_said_and_short_ones_get_their_labels_all_the_same(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = write(tmp_path / "texts.jsonl", {"text": "a day"}, {"text": "many words " * 300}, {"text": "x"})
    (tmp_path / "one.toml").write_text('[[template]]\nname = "one"\ntext = "{{ text }} is"\n')
    one = ["--templates", str(tmp_path / "one.toml")]
    words = ["classify", model, "--zero-shot", *one, "--labels", "good", "bad", "--in", texts]
    capsys.readouterr()
    assert main([*words, "--json"]) == 0
    told = capsys.readouterr()
    rows = json.loads(told.out)["rows"]
    assert [row["left_out"] > 0 for row in rows] == [False, True, False]
    assert "1 of 3 texts did not fit the model's context of 256 tokens; their ends were left out" in told.err
    kept = write(tmp_path / "kept.jsonl", {"text": ("many words " * 300)[: -rows[1]["left_out"]]})
    (cut,) = answer(capsys, *words[:-1], kept)["rows"]
    assert cut["left_out"] == 0
    assert cut["probabilities"] == pytest.approx(rows[1]["probabilities"], rel=1e-3)
    assert main([*words, "--long-text", "refuse"]) == 2
    told = capsys.readouterr().err
    assert "tokens too long for the model's context" in told
    assert "--long-text cut" in told
    examples = write(tmp_path / "examples.jsonl", *({"text": "word " * 90, "label": str(n % 2)} for n in range(8)))
    assert main(["classify", model, "--few-shot", examples, "--text", "x"]) == 2
    told = capsys.readouterr().err
    assert "without any text" in told
    assert "--shots" in told


def test_explain_reads_the_end_of_a_long_prompt_when_asked(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["explain", model, "--prompt", "many words " * 200, "--steps", "2"]
    assert main(words) == 2
    assert "--long-prompt window" in capsys.readouterr().err
    assert len(answer(capsys, *words, "--long-prompt", "window")["steps"]) == 2


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
        found = answer(capsys, "classify", model, *few, "--in", texts, "--out", str(out), "--force")
        assert 0 <= found["accuracy"] <= 1
        assert rows_of(out) == found["rows"]
    assert main(["classify", model, "--few-shot", examples, "--labels", "good", "fair", "--text", "x"]) == 2
    assert "labels that are not among --labels: 'bad'" in capsys.readouterr().err
    for wrong in (["--text", "x"], ["--zero-shot", "--text", "x"], ["--zero-shot", "--labels", "a", "b"]):
        assert main(["classify", model, *wrong]) == 2


def test_export_reads_its_text_as_every_command_does(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = write(tmp_path / "text.jsonl", {"body": "many words"}, {"text": "no body"})
    words = ["export", model, "--out", str(tmp_path / "out"), "--data", text, "--text-column", "body"]
    assert main([*words, "--on-bad-row", "error"]) == 2
    assert "text.jsonl:2" in capsys.readouterr().err
    assert main([*words, "--text-column", "absent"]) == 2
    assert "absent" in capsys.readouterr().err


@pytest.mark.parametrize("how", ["budget", "ctrl-c"])
def test_evaluate_can_be_bounded_and_gives_what_it_measured(
    how: str, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write(tmp_path / "text.jsonl", *({"text": f"number {number}, many words and a day"} for number in range(40)))
    words = ["evaluate", model, "--data", data, "--json"]
    monkeypatch.setattr(likelihood, "CPU_BATCH_TOKENS", 16)
    if how == "budget":
        monkeypatch.setattr(evaluate, "time", SimpleNamespace(monotonic=itertools.count().__next__))
        words += ["--budget", "3s"]
    else:
        score_batch, batches = likelihood._try, itertools.count()

        def interrupted(*arguments: Any) -> Any:
            if next(batches) == 1:
                signal.raise_signal(signal.SIGINT)
            return score_batch(*arguments)

        monkeypatch.setattr(likelihood, "_try", interrupted)
    code = main(words)
    told = capsys.readouterr()
    assert code == (0 if how == "budget" else 130)
    assert ("Ctrl-C: ending with the documents" in told.err) is (how == "ctrl-c")
    found = json.loads(told.out)
    assert 0 < found["documents"] < found["drawn_from_documents"] == 40
    assert all(one["bits_per_byte"] > 0 for one in found["baselines"])


def test_explain(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "explain", model, "--prompt", "It", "--steps", "3", "--top-k", "5", "--top", "4")
    assert len(found["steps"]) <= 3
    assert len(found["steps"][0]["candidates"]) == 4
    assert main(["explain", model, "--prompt", "It", "--steps", "2"]) == 0
    assert "▶" in capsys.readouterr().out


def test_the_commands_that_are_recommended_work(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shown: list[list[str]] = []
    prompts = write(tmp_path / "prompts.jsonl", {"prompt": "It"}, {"prompt": "a day"})
    text = write(tmp_path / "text.jsonl", *({"text": "many words and a day"} for _ in range(3)))
    labels = ["--zero-shot", "--labels", "good", "bad"]
    for words, commands in (
        (["evaluate", model, "--data", text, "--quiet"], []),
        (["evaluate", model, "--data", text], ["evaluate", "generate"]),
        (["score", model, "--prompt", "It is", "--options", " so", " not so"], ["score", "explain"]),
        (["classify", model, *labels, "--text", "a day"], ["classify"]),
        (["classify", model, *labels, "--in", text, "--out", "out.jsonl"], ["evaluate"]),
        (["generate", model, "--in", prompts, "--out", "made.jsonl", "--max-new-tokens", "8"], ["evaluate", "train"]),
    ):
        capsys.readouterr()
        assert main(words) == 0
        shown = recommended(capsys.readouterr().err)
        assert [one[0] for one in shown] == commands
        for one in shown:
            if one[0] != "train":
                assert main([*one, *(["--max-new-tokens", "4"] if one[0] == "generate" else [])]) == 0
    assert (tmp_path / "labelled.jsonl").exists()
    assert shown[-1][1] == "made.jsonl"

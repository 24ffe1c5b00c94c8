"""The main job from end to end, on the topics of Python's own documentation."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.simulated_time import SimulatedClock

import lavra
from lavra.config.training import TrainConfig
from lavra.core.configuration import from_table
from lavra.core.disk.run_folder import _MARK, RunFolder, _seal
from lavra.core.errors import InputError
from lavra.data.examples.prepare import PreparedExamples, open_prepared_examples
from lavra.training.fault_injection import injected
from lavra.workflows.training.train import train

SMALL: dict[str, Any] = {
    "model": {"depth": 2, "width": 32, "heads": 2, "context": 64},
    "optimization": {"batch_tokens": 512},
    "machine": {"micro_batch_size": 4, "threads": 1, "precision": "fp32"},
    "samples": 1,
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from pydoc_data.topics import topics

    folder = tmp_path_factory.mktemp("text")
    (folder / "topics").mkdir()
    for name in sorted(topics)[:24]:
        (folder / "topics" / f"{name.replace('/', '_')}.txt").write_text(topics[name], encoding="utf8")
    lavra.prepare(folder / "topics", folder / "prepared", vocabulary=400)
    return folder / "prepared"


@pytest.fixture(scope="module")
def run(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> lavra.Run:
    return lavra.train(prepared, steps=20, out=str(tmp_path_factory.mktemp("runs") / "first"), **SMALL)


def test_a_run_learns_and_records_what_it_did(run: lavra.Run) -> None:
    losses = [line["loss"] for line in run.metrics if line["split"] == "train"]
    assert len(losses) == 20
    assert losses[0] < 0.8 * math.log(400)  # it begins with what pairs of tokens tell
    result = run.result
    assert result["bits_per_byte"]["value"] < run.plan["start_bits_per_byte"] - 0.05
    assert run.status == "finished"
    assert result["step"] == 20
    assert result["tokens"] == sum(line["total"] for line in result["data_usage"])
    assert (
        result["bits_per_byte"]["value"]
        < next(s for s in result["baselines"] if s["name"] == "uniform")["bits_per_byte"]
    )
    assert {"loss", "tokens", "perplexity", "bits_per_byte", "gradient_norm", "learning_rate"} <= set(run.metrics[0])
    assert (run.path / "config.toml").exists()
    assert (run.path / "model" / "model.safetensors").exists()


def test_without_pairs_of_tokens_a_run_begins_at_the_loss_of_the_uniform_distribution(
    prepared: Path, tmp_path: Path
) -> None:
    fields = {**SMALL, "optimization": {**SMALL.get("optimization", {}), "bigram_init": False}}
    run = lavra.train(prepared, steps=2, out=str(tmp_path / "run"), **fields)
    assert run.metrics[0]["loss"] == pytest.approx(math.log(400), rel=0.01)


def test_pairs_of_tokens_are_refused_where_they_mean_nothing(prepared: Path, tmp_path: Path) -> None:
    fields = {**SMALL, "optimization": {**SMALL.get("optimization", {}), "bigram_init": True}}
    fields["model"] = {**SMALL["model"], "tied": True}
    with pytest.raises(InputError, match="cannot have a warm start"):
        lavra.train(prepared, steps=2, out=str(tmp_path / "run"), **fields)


def test_a_table_of_pairs_begins_with_what_follows_two_tokens(prepared: Path, tmp_path: Path) -> None:
    fields = {"optimization": {**SMALL["optimization"], "bigram_init": True}, "machine": SMALL["machine"], "samples": 0}
    runs = [
        lavra.train(
            prepared,
            steps=12,
            out=str(tmp_path / f"{rows}"),
            **fields,
            model={**SMALL["model"], "bigram_embedding": rows},
        )
        for rows in (0, 256)
    ]
    assert [run.plan["trigram_contexts"] > 0 for run in runs] == [False, True]
    first = [run.metrics[0]["loss"] for run in runs]
    assert first[1] < first[0]
    expected = [run.plan["forecast"]["bits_per_byte"] for run in runs]
    assert expected[1] == pytest.approx(0.97 * expected[0], rel=0.005)
    assert runs[1].result["bits_per_byte"]["value"] < runs[0].result["bits_per_byte"]["value"]
    assert runs[1].generate("The", max_new_tokens=3)


def test_a_run_by_time_keeps_its_first_steps_and_is_the_run_of_as_many_steps(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is not given is chosen by the length that a run is likely to have, which is a matter of speed.
    rates = {"learning_rate": 3e-3, "embedding_lr": 0.05, "muon_lr": 0.01, "warmup_steps": 1}
    fields = {**SMALL, "optimization": {**SMALL["optimization"], **rates, "bigram_init": True}, "samples": 0}
    with monkeypatch.context() as patch:
        SimulatedClock(step_seconds=0.25).install(patch)
        timed = lavra.train(
            prepared, budget=12.0, out=str(tmp_path / "timed"), keep_checkpoints=50, checkpoint_every=4, **fields
        )
    steps = timed.result["step"]
    counted = lavra.train(prepared, steps=steps, out=str(tmp_path / "counted"), **fields)

    def learned(run: lavra.Run) -> list[tuple[int, int, float]]:
        return [(line["step"], line["tokens"], line["loss"]) for line in run.metrics if line["split"] == "train"]

    probed = int(timed.plan["probe"]["steps"]) + 1
    assert probed > 3
    assert [step for step, *_ in learned(timed)] == list(range(1, steps + 1))
    assert learned(timed) == learned(counted)
    weights = (counted.path / "model/model.safetensors").read_bytes()
    assert (timed.path / "model/model.safetensors").read_bytes() == weights
    # Going on from before the moment at which its length was fixed for good, it becomes the same.
    first, *later = sorted((timed.path / "checkpoints").glob("step-*"))
    for folder in later:
        shutil.rmtree(folder)
    (timed.path / "result.json").unlink()
    (timed.path / "model/model.safetensors").unlink()
    resumed = lavra.resume(timed.path)
    assert first.exists()
    assert resumed.result["step"] == steps
    assert (timed.path / "model/model.safetensors").read_bytes() == weights


@pytest.mark.parametrize(("spent", "budget", "said"), [(3.0, 12.0, False), (20.0, 26.0, True)])
def test_the_preparation_is_part_of_a_time_budget_and_training_gets_half_of_it_at_least(
    spent: float,
    budget: float,
    said: bool,
    prepared: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    request = {**SMALL, "data": (str(prepared),), "budget": 12.0, "out": str(tmp_path / "run"), "samples": 0}
    clock = SimulatedClock(step_seconds=0.25)
    clock.install(monkeypatch)
    run = train(from_table(TrainConfig, request, "request"), clock.now - spent)
    assert run.result is not None
    assert run.plan["budget_seconds"] == pytest.approx(
        budget, abs=3.0 if said else 0.0
    )  # the clock runs while it works
    assert spent <= run.result["preparation_seconds"] <= spent + 3.0
    assert 0.8 * budget <= run.result["seconds"] <= 1.15 * budget + 2.0
    assert ("training gets half of the budget all the same" in capsys.readouterr().err) == said


def test_a_length_in_steps_says_beforehand_how_long_it_takes(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lavra.workflows.training.forecast.FAR", 0.5)
    run = lavra.train(prepared, steps=2, out=str(tmp_path / "run"), check=False, **SMALL)
    told = capsys.readouterr().err
    assert re.search(r"2 steps · .* epochs\) · roughly .* s, by what this machine usually reaches", told)
    assert "EXTRAPOLATED to 1 times the compute of the largest of them" in told
    assert run.plan["forecast"]["times_the_largest_run"] == 1.0
    assert run.plan["forecast"]["seconds"] > 0
    assert "seconds" in run.result["predicted"]


def test_a_preset_of_a_real_model_keeps_its_vocabulary_or_says_that_it_is_another_model(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = {"preset": "gpt2-124m", "depth": 1, "width": 32, "heads": 2, "context": 64}
    fields = {**SMALL, "model": tiny, "check": False, "samples": 0}
    run = lavra.train(prepared.parent / "topics", steps=1, out=str(tmp_path / "new"), **fields)
    told = capsys.readouterr().err
    assert "training a tokenizer of 50257 tokens" in told
    assert "is little for a vocabulary of 50257 tokens" in told
    given = run.plan["model"]["vocabulary"]
    assert given < 50257  # the text is too short for so many tokens
    assert (
        f"gpt2-124m has a vocabulary of 50,257 tokens, and this model one of {given:,} (the text gives no more)" in told
    )
    for text, reason in (({"vocabulary": 300}, "as asked"), ({"tokenizer": str(prepared)}, "that of the tokenizer")):
        lavra.train(prepared.parent / "topics", steps=1, out=str(tmp_path / reason), text=text, **fields)
        assert f"({reason})" in capsys.readouterr().err


def test_two_epochs_take_every_token_exactly_twice(prepared: Path, tmp_path: Path) -> None:
    texts = [{"text": path.read_text()} for path in sorted((prepared.parent / "topics").iterdir())[:3]]
    lavra.prepare(texts, tmp_path / "prepared", tokenizer=str(prepared))
    tokens = json.loads((tmp_path / "prepared" / "train" / "manifest.json").read_text())["tokens"]
    windows = -(-tokens // 64)
    divisor = next(rows for rows in range(40, 1, -1) if (2 * windows) % rows == 0)
    fields = SMALL | {"optimization": {"batch_tokens": divisor * 64}, "machine": {"threads": 1, "precision": "fp32"}}
    run = lavra.train(tmp_path / "prepared", steps=2 * windows // divisor, out=str(tmp_path / "run"), **fields)
    assert run.result["tokens"] == 2 * tokens
    for line in run.result["data_usage"]:
        assert line["total"] == 2 * line["tokens"]
        assert (line["epochs"], line["seen"]) == (2, 0)


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(
    run: lavra.Run, prepared: Path, tmp_path: Path
) -> None:
    def weights(path: Path) -> bytes:
        return (path / "model" / "model.safetensors").read_bytes()

    again = lavra.train(prepared, steps=20, out=str(tmp_path / "again"), **SMALL)
    other = lavra.train(prepared, steps=20, out=str(tmp_path / "other"), seed=1, **SMALL)
    assert weights(again.path) == weights(run.path)
    assert weights(other.path) != weights(run.path)


def test_a_checkpoint_evaluates_like_the_finished_model(run: lavra.Run) -> None:
    last = max((run.path / "checkpoints").iterdir())
    here = run.evaluate().result.total.bits_per_byte.value
    assert lavra.evaluate(str(last)).result.total.bits_per_byte.value == pytest.approx(here, rel=1e-6)
    assert here == pytest.approx(run.result["bits_per_byte"]["value"], rel=1e-4)


def test_generation_is_a_function_of_the_seed(run: lavra.Run) -> None:
    first = run.generate("The ", max_new_tokens=12, seed=3)[0].text
    assert run.generate("The ", max_new_tokens=12, seed=3)[0].text == first
    assert "".join(lavra.generate(str(run.path), ["The "])[0].prompt) == "The "


def test_a_resumed_run_may_use_another_micro_batch(prepared: Path, tmp_path: Path, run: lavra.Run) -> None:
    out = str(tmp_path / "run")
    with injected("step.apply:15:raise"), pytest.raises(RuntimeError, match="injected"):
        lavra.train(prepared, steps=20, out=out, checkpoint_every=5, **SMALL)
    resumed = lavra.resume(out, micro_batch_size=2)
    for mine, whole in zip(_train_lines(resumed), _train_lines(run), strict=True):
        assert mine["tokens"] == whole["tokens"]
        assert mine["loss"] == pytest.approx(whole["loss"], rel=2e-5)


def test_a_full_disk_costs_a_checkpoint_but_not_the_run(prepared: Path, tmp_path: Path) -> None:
    with injected("checkpoint.half_file:2:enospc"):
        run = lavra.train(prepared, steps=8, out=str(tmp_path / "run"), checkpoint_every=2, **SMALL)
    assert run.status == "finished"
    assert any("DISK FULL" in line for line in RunFolder.open(run.path).events)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": 5, "epochs": 1.0}, "--epochs and --steps"),
        ({"budget": "0s"}, "--budget"),
        ({"steps": 5, "model": {"preset": "gpt3"}}, "no model preset"),
        ({"steps": 5, "model": {"width": 33, "heads": 2}}, "not divisible"),
        ({"steps": 5, "optimization": {"batch_tokens": 100}}, "no multiple of the context"),
        ({"steps": 5, "machine": {"device": "cuda"}}, "no CUDA device"),
        ({"steps": 5, "model": {"dept": 2}}, "dept"),
    ],
)
def test_a_wrong_request_is_explained(prepared: Path, tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    if "cuda" in str(fields):
        import torch

        if torch.cuda.is_available():
            pytest.skip("this machine has a CUDA device")
    with pytest.raises(InputError, match=message):
        lavra.train(prepared, out=str(tmp_path / "run"), **fields)
    assert not list(tmp_path.iterdir())  # a slip leaves no run


def test_an_existing_run_is_not_overwritten_and_resume_is_offered(run: lavra.Run, prepared: Path) -> None:
    with pytest.raises(InputError, match=r"exists already[\s\S]*lavra resume"):
        lavra.train(prepared, steps=5, out=str(run.path))


def test_the_command_prints_one_json_object(prepared: Path, tmp_path: Path) -> None:
    words = ["--steps", "3", "--model.depth", "1", "--model.width", "32", "--model.heads", "1", "--model.context", "64"]
    done = subprocess.run(
        [sys.executable, "-m", "lavra", "train", str(prepared), "--out", str(tmp_path / "run"), *words, "--json"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    result = json.loads(done.stdout)
    assert result["step"] == 3
    assert "3 steps · " in done.stderr
    assert " epochs)" in done.stderr
    assert "\x1b" not in done.stdout + done.stderr


def _train_lines(run: lavra.Run) -> list[dict[str, Any]]:
    return [line for line in run.metrics if line["split"] == "train"]


def test_the_tokenizer_of_a_run_a_checkpoint_or_prepared_text_can_be_taken(
    run: lavra.Run, prepared: Path, tmp_path: Path
) -> None:
    wanted = run.plan["model"]["vocabulary"]
    checkpoint = next((run.path / "checkpoints").iterdir())
    for number, place in enumerate((run.path, checkpoint, prepared, prepared / "tokenizer")):
        report = lavra.prepare(prepared.parent / "topics", tmp_path / str(number), tokenizer=str(place))
        assert report["tokenizer"]["vocabulary_size"] == wanted == 400
    (tmp_path / "bare").mkdir()
    kept = (run.path / "config.toml").read_text().removeprefix(_MARK).rpartition("# whole")[0]
    request = kept.replace(str(prepared), str(tmp_path / "nowhere"))
    (tmp_path / "bare" / "config.toml").write_text(f"{_MARK}{request}{_seal(request)}\n")
    with pytest.raises(InputError, match="there is no tokenizer at"):
        lavra.prepare(prepared.parent / "topics", tmp_path / "out", tokenizer=str(tmp_path / "bare"))


def test_prepare_says_how_much_it_took_and_train_which_columns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.csv").write_text(
        "id;text\n" + "".join(f"{number};palavra {number} e mais, bem mais\n" for number in range(80))
    )
    report = lavra.prepare(tmp_path / "a.csv", tmp_path / "out", vocabulary=300)
    told = capsys.readouterr().err
    train, validation = report["split"]["train"], report["split"]["validation"]
    assert f"{train['documents']} documents" in told
    assert f"{train['tokens']:,} tokens for training" in told
    assert f"{validation['documents']} documents" in told
    assert f"columns used from {tmp_path / 'a.csv'}: text; ignored: id" in told


def test_strict_validation_and_encoding_are_flags_of_train_and_prepare(tmp_path: Path) -> None:
    from lavra.cli.prepare import main

    (tmp_path / "a.txt").write_bytes("A ação é dos corações. ".encode("latin-1") * 200)
    (tmp_path / "dev.txt").write_text("Outra coisa ainda.", encoding="utf8")
    words = [str(tmp_path / "a.txt"), "--validation", str(tmp_path / "dev.txt"), "--strict", "--quiet"]
    with pytest.raises(InputError, match="read as Windows-1252"):
        main([*words, "--out", str(tmp_path / "out")])
    assert main([*words, "--encoding", "latin-1", "--out", str(tmp_path / "out"), "--text.vocabulary", "300"]) == 0


def test_rows_of_prompts_and_answers_are_learned_whole_and_are_no_documents(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"instruction": f"Diga o número {number}.", "input": f"n = {number}" * (number % 2), "output": f"É {number}."}
        for number in range(240)
    ]
    (tmp_path / "alpaca.json").write_text(json.dumps(rows), encoding="utf8")
    with pytest.raises(InputError, match="holds prompts with their answers") as caught:
        lavra.prepare(tmp_path / "alpaca.json", tmp_path / "out")
    assert "lavra train" in caught.value.remedy
    run = lavra.train(tmp_path / "alpaca.json", steps=2, out=str(tmp_path / "run"), check=False, **SMALL)
    assert "columns used from" in (told := capsys.readouterr().err)
    assert "instruction, input, output" in told
    report = json.loads((run.path / "data" / "report.json").read_text())
    assert report["columns"][0]["taken"] == ["instruction", "input", "output"]
    data = prepared_examples(run)
    texts = [data.tokenizer.decode(data.train[number].tokens) for number in range(len(data.train))]
    assert all("Diga o número" in text for text in texts)
    assert any("n = " in text for text in texts)
    evaluated = tmp_path / "dev.txt"
    evaluated.write_text("É um número. " * 50, encoding="utf8")
    reading = run.evaluate([str(evaluated)]).reading
    assert reading is not None
    assert reading["rows"] == 1


def prepared_examples(run: lavra.Run) -> PreparedExamples:
    return open_prepared_examples(run.path / "data")


def test_texts_with_labels_are_no_documents_unless_that_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"text": f"palavra {number} e mais", "label": "ab"[number % 2]} for number in range(240)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match="holds texts with their labels, not documents") as caught:
        lavra.prepare(tmp_path / "rows.jsonl", tmp_path / "out")
    assert "--task language-modelling" in caught.value.remedy
    fields = {**SMALL, "check": False, "samples": 0}
    run = lavra.train(tmp_path / "rows.jsonl", steps=1, out=str(tmp_path / "run"), task="language-modelling", **fields)
    assert run.plan["objective"] == "causal"
    assert "text; ignored: label" in capsys.readouterr().err

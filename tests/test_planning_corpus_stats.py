"""How much text there is, from a sample and exactly; what past runs taught."""

from __future__ import annotations

import json
from pathlib import Path
from pydoc_data.topics import topics

import pytest

from lavra.core.disk.files import write_json
from lavra.core.disk.run_folder import RunFolder
from lavra.core.errors import InputError
from lavra.data.token_store.prepare import prepare
from lavra.data.tokenizers.tokenizer import Tokenizer
from lavra.planning import corpus_stats as surveying
from lavra.planning.corpus_stats import compressed_bits_per_byte, corpus_stats, corpus_stats_of_prepared
from lavra.planning.scaling_law.past_runs import (
    Calibration,
    calibrate,
    calibration_file,
    load_calibration,
    observations_of,
    save_calibration,
)

_TEXTS = sorted(topics.values(), key=len)[:60]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "topics.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in _TEXTS), encoding="utf8")
    return path


def test_a_sample_holds_the_truth_in_its_interval(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = Tokenizer.train(_TEXTS, 600)
    truth = sum(len(tokenizer.encode(text)) + 1 for text in _TEXTS)
    whole = corpus_stats([str(text)], tokenizer)
    assert whole.tokens.value == pytest.approx(truth, rel=1e-6)
    assert whole.text_bytes == sum(len(text.encode()) for text in _TEXTS)
    assert whole.documents == len(_TEXTS)
    monkeypatch.setattr(surveying, "_SAMPLE_BYTES", 20_000)
    sampled = corpus_stats([str(text)], tokenizer, seed=1)
    assert sampled.tokens.low < truth < sampled.tokens.high
    assert sampled.tokens.low < sampled.tokens.value < sampled.tokens.high
    assert not sampled.exact


def test_text_beyond_the_limit_is_reckoned_from_the_files(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = sum(len(text.encode()) for text in _TEXTS)
    many = text.parent / "many"
    many.mkdir()
    for number in range(8):
        (many / f"{number}.jsonl").write_text(text.read_text(encoding="utf8"), encoding="utf8")
    monkeypatch.setattr(surveying, "_READ_LIMIT", 3 * whole)
    found = corpus_stats([str(many)], Tokenizer.train(_TEXTS, 600))
    assert found.text_bytes == pytest.approx(8 * whole, rel=0.35)  # read ahead by the buffers of small files


def test_a_prepared_folder_is_counted_exactly(text: Path, tmp_path: Path) -> None:
    prepared = prepare([str(text)], tmp_path / "prepared", vocabulary_size=500)
    found = corpus_stats_of_prepared(prepared)
    assert found.exact
    assert found.tokens.low == found.tokens.value == found.tokens.high == prepared.train.manifest.tokens
    assert found.compressed is not None
    near = corpus_stats([str(text)], lambda size: 500)
    assert near.vocabulary == 500
    assert near.bytes_per_token == pytest.approx(found.bytes_per_token, rel=0.15)


def test_repetitive_text_compresses_better_and_little_text_says_nothing() -> None:
    often, once = compressed_bits_per_byte(["the same again. "] * 4000), compressed_bits_per_byte(_TEXTS)
    assert often is not None
    assert once is not None
    assert often < once < 4
    assert compressed_bits_per_byte(["short"]) is None


def _past(folder: Path, name: str, speed: float, bits: float) -> RunFolder:
    run = RunFolder.create(folder / name, "")
    run.write_plan(
        {
            "device": "cpu",
            "flops_per_token": 100.0,
            "probe": {"peak_flops": 1e6},
            "forecast": {"law_bits_per_byte": 2.0},
            "model": None,
        }
    )
    run.write_result({"tokens": 10**6, "tokens_per_second": speed, "seconds": 1.1e6 / speed, "bits_per_byte": bits})
    return run


def test_constants_are_refitted_from_past_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    assert load_calibration() == Calibration()
    runs = [_past(tmp_path, f"run-{n}", speed, 2.2) for n, speed in enumerate((2000, 3000, 9000))]
    found = calibrate(runs, "runs")
    assert found.efficiency == {"cpu": pytest.approx(0.3)}
    assert found.overhead == pytest.approx(1.1)
    assert found.law_factor == pytest.approx(1.1)
    assert found.runs == 3
    assert save_calibration(found) == calibration_file() == tmp_path / "config" / "lavra" / "planning.json"
    assert load_calibration() == found
    assert load_calibration().efficiency_on("cpu", 1e12, 2) == (found.efficiency["cpu"], "reached by past runs in runs")
    assert "assumed" in load_calibration().efficiency_on("cuda", 1e14, 2)[1]


def test_a_run_that_is_no_training_from_nothing_says_nothing_to_the_law(tmp_path: Path) -> None:
    assert observations_of(_past(tmp_path, "adapted", 100.0, 2.0)) == []


def test_points_along_a_run_are_taken_from_its_constant_stretch(tmp_path: Path) -> None:
    run = _past(tmp_path, "trained", 100.0, 2.0)
    model = {"vocabulary": 512, "context": 64, "depth": 2, "width": 64, "heads": 1}
    schedule = {"shape": "wsd", "decay_fraction": 0.5}
    write_json(
        run.path / "plan.json",
        {**run.plan, "model": model, "schedule": schedule, "steps": 10, "tokens": 1000, "epochs": 0.5},
    )
    for step, bits in ((1, 3.0), (4, 2.6), (5, 2.5), (8, 2.2), (10, 2.1)):
        run.metrics.append(
            {
                "step": step,
                "split": "validation",
                "tokens": 100 * step,
                "loss": bits * 3 * 0.6931,
                "bits_per_byte": bits,
            }
        )
    end, *along = observations_of(run)
    assert (end.bits_per_byte, end.cooled) == (2.0, True)
    assert end.text_bytes == pytest.approx(3000, rel=0.01)
    assert [point.cooled for point in along] == [False, False]
    assert along[0].bits_per_byte == pytest.approx(2.6 * 2.0 / 2.1)


def test_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(InputError):
        corpus_stats([str(tmp_path / "empty.txt")], lambda size: 500)

"""What a training records for its page and for comparisons, and that the page never costs a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import lavra
from lavra.core.disk.run_folder import RunFolder
from lavra.core.errors import LavraError
from lavra.evaluation.document_losses import DOCUMENT_LOSSES, DocumentLosses
from lavra.reports import run_page
from lavra.reports.run_page import page_at_the_end
from lavra.training.fault_injection import injected

SMALL: dict[str, Any] = {
    "model": {"depth": 1, "width": 16, "heads": 1, "context": 32},
    "optimization": {"batch_tokens": 128},
    "machine": {"micro_batch_size": 4, "threads": 1, "precision": "fp32"},
    "samples": 0,
    "check": False,
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    texts = [f"Linha {number} fala de {number * 7 % 11} rios e de {number % 5} montes. " * 3 for number in range(120)]
    (folder / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    lavra.prepare(folder / "text.jsonl", folder / "prepared", vocabulary=300, validation_share=0.1)
    return folder / "prepared"


@pytest.fixture(scope="module")
def run(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> lavra.Run:
    return lavra.train(prepared, steps=4, out=str(tmp_path_factory.mktemp("runs") / "first"), **SMALL)


def test_a_finished_run_has_its_page(run: lavra.Run) -> None:
    page = (run.path / "report.html").read_text(encoding="utf8")
    assert "finished; " in page
    assert "missing: " not in page
    assert ">Loss<" in page
    assert run.report(run.path.parent / "again.html").read_text(encoding="utf8").partition("<footer>")[0] in page


def test_the_losses_of_the_documents_add_up_to_the_result(run: lavra.Run, prepared: Path) -> None:
    found, measured = DocumentLosses.load(run.path / DOCUMENT_LOSSES), run.result["evaluation"]
    assert len(found) == measured["documents"] >= 5
    assert found.nll.sum() == pytest.approx(measured["nll"])
    assert found.bytes.sum() == measured["bytes"]
    validation_set = json.loads((prepared / "validation" / "manifest.json").read_text())
    assert found.tokenizer == validation_set["tokenizer_fingerprint"]
    assert 0 <= found.numbers.min() <= found.numbers.max() < validation_set["documents"]


def test_the_machine_and_the_memory_are_recorded(run: lavra.Run) -> None:
    (line,) = [json.loads(line) for line in (run.path / "machines.jsonl").read_text().splitlines()]
    assert line["step"] == 0
    assert line["processor"]
    assert line["versions"]["torch"]
    assert run.result["peak_bytes"] > 1e6


def test_two_runs_of_another_seed_are_compared_over_documents(run: lavra.Run, prepared: Path, tmp_path: Path) -> None:
    other = lavra.train(prepared, steps=4, seed=1, out=str(tmp_path / "other"), **SMALL)
    comparison = lavra.compare(run, other.path)
    assert {one.name for one in comparison.asked} == {"seed"}
    found = comparison.verdicts[0].comparison
    assert found is not None
    assert found.documents == run.result["evaluation"]["documents"]
    bits = [each.result["bits_per_byte"]["value"] for each in (run, other)]
    assert found.difference.value == pytest.approx(bits[1] - bits[0])


def test_an_interrupted_run_has_its_page_and_a_resumed_one_both_machines(prepared: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with injected("step.apply:3:raise"), pytest.raises(RuntimeError, match="injected"):
        lavra.train(prepared, steps=4, out=str(out), checkpoint_every=1, **SMALL)
    page = (out / "report.html").read_text(encoding="utf8")
    assert "interrupted; at step 2 of 4" in page
    assert "stopped: InjectedError" in page
    assert lavra.resume(out).status == "finished"
    page = (out / "report.html").read_text(encoding="utf8")
    assert "finished; " in page
    assert "resumed at step" in page
    assert len((out / "machines.jsonl").read_text().splitlines()) == 2


def test_a_page_that_fails_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_: RunFolder) -> None:
        raise ValueError("no ink")

    monkeypatch.setattr(run_page, "write_page", broken)
    run = RunFolder.create(tmp_path / "run", "")
    with page_at_the_end(run):
        pass
    assert "warning: the report could not be written: ValueError: no ink" in capsys.readouterr().err
    assert "no ink" in run.events[-1]
    with pytest.raises(LavraError, match="its own error"), page_at_the_end(run):
        raise LavraError("its own error", "")

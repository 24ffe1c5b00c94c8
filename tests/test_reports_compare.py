"""Runs side by side: what differs, what came of it, and the paired test over documents."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from tests.run_folders import PLAN, losses, make_run
from tests.test_reports_page import parsed

from lavra.cli.main import main
from lavra.core.disk.run_folder import RunFolder
from lavra.core.errors import CorruptFile, InputError
from lavra.evaluation.document_losses import (
    DOCUMENT_LOSSES,
    DocumentLosses,
    compare_losses,
    text_fingerprint,
    why_not_comparable,
)
from lavra.reports.comparison import comparison_page, show_comparison
from lavra.reports.run_comparison import compare_runs

NATS = [150.0, 160.0, 155.0, 149.0, 162.0, 158.0, 171.0, 140.0, 133.0, 166.0]


def shifted(by: float, **others: str) -> DocumentLosses:
    return losses([nats + by + 0.1 * (number % 3) for number, nats in enumerate(NATS)], **others)


def test_the_difference_is_that_of_the_bits_per_byte() -> None:
    one, other = losses(NATS), shifted(-10.0)
    found = compare_losses(one, other)
    bits = [each.nll.sum() / math.log(2) / each.bytes.sum() for each in (one, other)]
    assert found.difference.value == pytest.approx(bits[1] - bits[0])
    assert found.difference.low is not None
    assert found.difference.high is not None
    assert found.difference.low <= found.difference.value <= found.difference.high < 0
    assert (found.documents, found.bytes, found.better, found.worse) == (10, 1000, 10, 0)
    assert found.p_randomisation < 0.01
    back = compare_losses(other, one)
    assert back.difference.value == pytest.approx(-found.difference.value)
    assert back.p_randomisation == pytest.approx(found.p_randomisation, abs=0.005)


def test_the_same_model_differs_by_nothing() -> None:
    found = compare_losses(losses(NATS), losses(NATS))
    assert (found.difference.value, found.better, found.worse, found.p_randomisation) == (0.0, 0, 0, 1.0)


def test_chance_is_called_chance() -> None:
    noise = np.random.default_rng(0).normal(0, 5, 200)
    found = compare_losses(losses([150.0] * 200), losses((150.0 + noise - noise.mean()).tolist()))
    assert found.p_randomisation > 0.9


def test_only_documents_in_common_count() -> None:
    found = compare_losses(losses(NATS), losses([100.0] * 8, first=4))
    assert found.documents == 6
    assert found.difference.value == pytest.approx(sum(100.0 - nats for nats in NATS[4:]) / math.log(2) / 600)


def test_what_cannot_be_compared_says_why() -> None:
    assert why_not_comparable(losses(NATS), shifted(1.0, tokenizer="two")) is None
    assert "different validation texts" in (why_not_comparable(losses(NATS), shifted(1.0, text="other")) or "")
    assert "different documents" in (why_not_comparable(losses(NATS), losses(NATS, first=50)) or "")
    assert "not a number" in (why_not_comparable(losses(NATS), losses([math.nan] * 10)) or "")


def test_losses_are_read_as_they_were_written(tmp_path: Path) -> None:
    path, one = tmp_path / DOCUMENT_LOSSES, losses(NATS)
    one.save(path)
    again = DocumentLosses.load(path)
    assert (again.text, again.tokenizer, again.nll.tolist(), again.bytes.tolist()) == ("text", "one", NATS, [100] * 10)
    for values in ("[]", "{}", '{"format_version": 9}', path.read_text().replace("150.0, ", "", 1)):
        path.write_text(values)
        with pytest.raises(CorruptFile, match=r"document_losses\.json"):
            DocumentLosses.load(path)
    assert text_fingerprint(["a", "b"]) != text_fingerprint(["b", "a"])


@pytest.fixture
def three(tmp_path: Path) -> list[RunFolder]:
    """A baseline, a run that is clearly better, and one that differs by chance."""
    chance = losses([nats + (1.0 if number % 2 else -1.0) for number, nats in enumerate(NATS)])
    config = 'data = ["corpus"]\nseed = {}\nout = "{}"\n\n[optimization]\nlearning_rate = {}\n'
    runs = [
        make_run(tmp_path / "base", config=config.format(7, "base", 0.003), found=losses(NATS)),
        make_run(tmp_path / "better", config=config.format(7, "better", 0.01), found=shifted(-10.0)),
        make_run(tmp_path / "chance", config=config.format(8, "chance", 0.003), found=chance),
    ]
    runs[2].write_plan(PLAN | {"seed": 8, "probe": {"step_seconds": 2.0}})
    return runs


def test_only_what_differs_is_shown(three: list[RunFolder]) -> None:
    comparison = compare_runs(three)
    assert {one.name: one.values for one in comparison.asked} == {
        "seed": (7, 7, 8),
        "optimization.learning_rate": (0.003, 0.01, 0.003),
    }
    assert {one.name: one.values for one in comparison.decided} == {"seed": (7, 7, 8)}
    assert comparison.surroundings == ()
    assert comparison.notes == ()


def test_the_verdicts_are_corrected_for_the_runs_compared(three: list[RunFolder]) -> None:
    better, chance = compare_runs(three).verdicts
    alone = compare_runs(three[:2]).verdicts[0]
    assert better.more_than_chance is True
    assert chance.more_than_chance is False
    assert better.p_holm is not None
    assert alone.p_holm is not None
    assert better.p_holm == pytest.approx(2 * alone.p_holm)


def test_the_comparison_as_text(three: list[RunFolder]) -> None:
    words = " ".join(show_comparison(compare_runs(three)).split())
    for part in (
        "requests that differ (–: the default) base better chance",
        "optimization.learning_rate 0.003 0.01 0.003",
        "tokens per second 1.0k 1.0k 1.0k",
        "better on 10 and worse on 0 of them; better, more than chance (p = ",
        "no more than chance would bring (p = ",
        "paired randomisation test over documents",
    ):
        assert part in words, part


def test_the_comparison_as_a_page_lays_the_curves_over_each_other(three: list[RunFolder]) -> None:
    page = comparison_page(compare_runs(three))
    outline, text = parsed(page)
    assert outline.tags.count("svg") == 5
    assert "Validation by tokens" in text
    assert "better, more than chance" in text
    assert "script" not in outline.tags
    plot = page[page.index('aria-label="Validation by tokens"') :].partition("</svg>")[0]
    assert plot.count("<polyline") == 3


def test_different_texts_tokenizers_and_parts_are_told(tmp_path: Path) -> None:
    base = make_run(tmp_path / "a", found=losses(NATS))
    text = make_run(tmp_path / "b", found=shifted(0.0, text="other"))
    tokenizer = make_run(tmp_path / "c", found=shifted(-9.0, tokenizer="two"))
    part = make_run(tmp_path / "d", found=losses(NATS[3:], first=3))
    few = make_run(tmp_path / "e", found=losses(NATS[:4]))
    verdict = compare_runs([base, text]).verdicts[0]
    assert (verdict.comparison, verdict.more_than_chance) == (None, None)
    assert "different validation text" in verdict.reason
    assert "not comparable: they were measured on different validation text" in show_comparison(
        compare_runs([base, text])
    )
    other = compare_runs([base, tokenizer])
    assert other.verdicts[0].more_than_chance is True
    assert "loss and perplexity are per token" in other.notes[0]
    assert "different parts" in compare_runs([base, part]).notes[0]
    scarce = compare_runs([base, few]).verdicts[0]
    assert scarce.more_than_chance is None
    assert scarce.comparison is not None
    assert "too few documents in common to tell from chance: 4, 5 at least" in show_comparison(
        compare_runs([base, few])
    )


def test_a_run_that_is_not_finished_is_shown_as_far_as_it_came(tmp_path: Path) -> None:
    base, crashed = make_run(tmp_path / "a"), make_run(tmp_path / "b")
    for name in ("result.json", "plan.json", DOCUMENT_LOSSES):
        (crashed.path / name).unlink()
    comparison = compare_runs([base, crashed])
    assert comparison.figures["tokens"] == (9_728, 10_240)
    assert comparison.figures["bits_per_byte"][1] is None
    assert comparison.verdicts[0].reason == "b: it is interrupted, not finished"
    assert comparison.notes == ("not finished, so without final figures: b",)
    parsed(comparison_page(comparison))


def test_fewer_than_two_runs_or_one_twice_is_refused(three: list[RunFolder]) -> None:
    with pytest.raises(InputError, match="two runs or more"):
        compare_runs(three[:1])
    with pytest.raises(InputError, match="given twice"):
        compare_runs([three[0], RunFolder(three[0].path / ".." / "base")])


def test_runs_of_one_name_are_told_apart_by_their_paths(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / folder / "run") for folder in ("a", "b")]
    assert compare_runs(runs).names == tuple(str(run.path) for run in runs)


def test_the_command(three: list[RunFolder], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [str(run.path) for run in three]
    page = tmp_path / "comparison.html"
    assert main(["compare", *paths, "--json", "--html", str(page)]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["baseline"] == "base"
    assert answer["differs"]["asked"]["seed"] == {"base": 7, "better": 7, "chance": 8}
    assert [one["more_than_chance"] for one in answer["bits_per_byte_against_the_baseline"]] == [True, False]
    assert set(answer["runs"][0]["bits_per_byte"]) == {"value", "low", "high"}
    parsed(page.read_text(encoding="utf8"))
    assert main(["compare", *paths, "--html", str(page)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["compare", *paths]) == 0
    assert "more than chance" in capsys.readouterr().out
    assert main(["compare", paths[0]]) == 2
    assert "two runs or more" in capsys.readouterr().err

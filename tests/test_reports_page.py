"""The page of a run: whole, self-contained, escaped, and made of whatever the folder holds."""

from __future__ import annotations

import itertools
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tests.run_folders import HOSTILE, PLAN, make_run

from lavra.cli.main import main
from lavra.core.disk.run_folder import RunFolder
from lavra.reports.run_files import read_run
from lavra.reports.run_page import PAGE, run_page, write_page

_EMPTY = {"meta", "rect", "path", "circle", "polyline", "br"}


class _Outline(HTMLParser):
    """Collects tags and text, and insists that what is opened is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            assert name not in ("src", "href", "onload", "onclick"), (name, value)
        if tag not in _EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def parsed(page: str) -> tuple[_Outline, str]:
    outline = _Outline()
    outline.feed(page)
    outline.close()
    assert outline.open == []
    return outline, " ".join(" ".join(outline.text).split())


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return make_run(tmp_path / "first")


def test_the_page_tells_the_whole_run(run: RunFolder) -> None:
    outline, text = parsed(run_page(read_run(run)))
    for part in (
        "finished; 2.2",
        "bits per byte on 6 of 9 validation documents",
        "40 documents, 20,480 tokens, 58.6 KiB (60,000 bytes), 9,000 words",
        "decoder of 2 blocks, width 32, 2 heads, context 64, vocabulary 400",
        "50,000",
        "20 steps of 512 tokens = 10,240 tokens = 0.5 epochs",
        "seed 7",
        "a processor, 2 cores, 8.0 GiB of memory",
        "python 3.11, torch 2.13",
        "loss (nats per token) 4.1000 [4.0000, 4.2000]",
        "peak memory 512.0 MiB",
        "training time 1 min 06 s",
        "xz -9",
        "2.4000 [2.2000, 2.6000]",
        "first_loss ok 5.99 ln V",
        "delivered 10,240 tokens, and the trainer counted 9,728: the other 512 belong to 1 skipped step.",
        "1 step skipped, with no update applied: 7",
        "out of memory at step 9",
        "resumed at step 10",
        "step 20, sample 1",
        "Red ticks: skipped steps",
    ):
        assert part in text, part
    assert outline.tags.count("svg") == 5
    assert "forecast: 2.4" in text  # folded, in the log
    assert text.count("forecast: 2.4") == 1  # and not among what is worth a look
    assert "missing" not in text


def test_one_is_singular_and_an_encoder_is_no_decoder(run: RunFolder) -> None:
    plan = run.plan
    run.write_plan({**plan, "steps": 1, "model": {**plan["model"], "depth": 1, "heads": 1, "architecture": "encoder"}})
    _, text = parsed(run_page(read_run(run)))
    assert "encoder of 1 block, width 32, 1 head, context" in text
    assert "1 step of 512 tokens" in text


def test_the_page_is_self_contained_and_escapes_what_others_wrote(run: RunFolder) -> None:
    page = run_page(read_run(run))
    outline, text = parsed(page)
    assert not {"script", "link", "img", "iframe", "object"} & set(outline.tags)
    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", page)
    assert "@import" not in page
    assert "url(" not in page
    assert text.count(HOSTILE) >= 3  # in a check, the ledger and a sample, as text
    assert "\x1b" not in page


def test_the_curves_show_the_numbers_of_the_metrics(run: RunFolder) -> None:
    page = run_page(read_run(run))
    loss = next(svg for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL) if ">Loss<" in svg)
    lines = re.findall(r'<polyline points="([^"]*)"', loss)
    assert [len(line.split()) for line in lines] == [6, 13, 4]  # training, in two for the skipped step; validation
    heights = [float(pair.split(",")[1]) for pair in lines[1].split()]
    steps = [low - high for high, low in itertools.pairwise(heights)]
    assert steps == pytest.approx([steps[0]] * 12, abs=0.21)  # the loss falls evenly
    assert loss.count("#cc0000") == 1
    assert "forecast" not in loss
    run.write_plan(PLAN | {"forecast": PLAN["forecast"] | {"loss": 4.0}})
    loss = next(svg for svg in re.findall(r"<svg.*?</svg>", run_page(read_run(run)), re.DOTALL) if ">Loss<" in svg)
    assert "forecast for the end" in loss


def test_the_page_begins_with_what_came_of_the_run_and_ends_with_its_settings(run: RunFolder) -> None:
    run.log("by the speed so far, the run has 38 steps, not 44")
    page = run_page(read_run(run))
    titles = re.findall(r"<h2>(.*?)</h2>", page)
    assert titles[:3] == ["Results", "Samples", "Curves"]
    assert titles[-2:] == ["Data, model and machine", "Record"]
    assert "38 steps" not in page[: page.index("<h2>")]  # a run by time corrects its steps; nothing is wrong
    assert "1 step skipped" in page[: page.index("<h2>")]
    assert "prefers-color-scheme: dark" in page


@pytest.mark.parametrize(
    "name",
    ["plan.json", "result.json", "metrics.jsonl", "checks.json", "data/report.json", "machines.jsonl", "samples.jsonl"],
)
def test_a_file_that_is_missing_or_damaged_is_named_and_the_rest_shown(run: RunFolder, name: str) -> None:
    (run.path / name).write_text('{"a": [\n{]\n')
    _, text = parsed(run_page(read_run(run)))
    assert f"{Path(name).name}" in text
    assert "is damaged" in text
    (run.path / name).unlink()
    _, text = parsed(run_page(read_run(run)))
    assert f"missing: {name}: " in text
    assert "Record" in text


def test_values_of_the_wrong_kind_do_not_stop_the_page(run: RunFolder) -> None:
    for name in ("result.json", "plan.json", "checks.json"):
        (run.path / name).write_text("[1]")
    (run.path / "events.log").write_bytes(b"\xff\xfe")
    (run.path / "document_losses.json").write_text('{"format_version": 1}')
    _, text = parsed(run_page(read_run(run)))
    assert "result.json: " in text
    assert "document_losses.json is damaged" in text


def test_a_damaged_line_of_the_metrics_costs_that_line_alone(run: RunFolder) -> None:
    lines = (run.path / "metrics.jsonl").read_text().splitlines()
    lines[3] = "{"
    (run.path / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 21, "loss"']))
    record = read_run(run)
    assert len(record.training) + len(record.validation) == 23
    assert "metrics.jsonl:4 is damaged" in " ".join(record.missing)


def test_a_run_that_goes_on_and_one_that_never_began(tmp_path: Path) -> None:
    run = make_run(tmp_path / "going")
    (run.path / "result.json").unlink()
    lock = run.path / ".lock"
    with run.training():
        lock.write_text(json.dumps({"pid": 1, "host": json.loads(lock.read_text())["host"]}))
        assert read_run(run).status == "running"
        _, text = parsed(run_page(read_run(run)))
    assert "running; at step 20 of 20; 2.0500 bits per byte on a sample of the validation text at step 20" in text
    assert "The last validation, at step 20" in text
    with run.training():  # the process that trains asks itself at its end
        assert read_run(run).status == "interrupted"
    empty = RunFolder.create(tmp_path / "empty", "")
    _, text = parsed(run_page(read_run(empty)))
    assert "interrupted" in text
    assert "There is no validation yet." in text


def test_no_number_is_shown_without_what_it_was_measured_on(run: RunFolder) -> None:
    result = run.result
    result["evaluation"] = {"objective": "mlm", "rows": 8, "validation_rows": 8, "targets": 90, "loss": {"value": 4.1}}
    run.write_plan(PLAN | {"objective": "mlm"})
    run.write_result(result)
    _, text = parsed(run_page(read_run(run)))
    assert "bits per byte on 8 validation sequences (too few for an interval)" in text
    assert "the trainer counted" not in text  # a masked objective learns fewer targets than it takes tokens
    run.write_result({name: value for name, value in result.items() if name != "evaluation"})
    _, text = parsed(run_page(read_run(run)))
    assert "the validation data was not recorded" in text


@pytest.mark.parametrize(("tokens", "told"), [(10_240, "10,240: they agree."), (9_000, "9,000: they do NOT agree")])
def test_the_receipt_is_held_against_the_count_of_the_trainer(run: RunFolder, tokens: int, told: str) -> None:
    run.write_result(run.result | {"tokens": tokens})
    _, text = parsed(run_page(read_run(run)))
    assert f"the trainer counted {told}" in text


def test_thousands_of_steps_make_a_page_of_moderate_size(run: RunFolder) -> None:
    with (run.path / "metrics.jsonl").open("a") as handle:
        for step in range(21, 5021):
            line = {"step": step, "split": "train", "tokens": 512 * step, "loss": 4.0 + step % 7, "gradient_norm": 0.5}
            handle.write(json.dumps(line | {"tokens_per_second": 1000.0, "learning_rate": 1e-3}) + "\n")
    write_page(run)
    assert (run.path / PAGE).stat().st_size < 200_000


def test_the_command_writes_into_the_run_or_where_it_is_told(
    run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(run.path)]) == 0
    assert capsys.readouterr().out.strip() == str(run.path / "report.html")
    assert main(["report", str(run.path)]) == 0  # its own page is made anew
    capsys.readouterr()
    out = run.path.parent / "page.html"
    assert main(["report", str(run.path), "--out", str(out), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer == {"run": str(run.path), "report": str(out), "status": "finished", "missing": []}
    parsed(out.read_text(encoding="utf8"))
    assert main(["report", str(run.path), "--out", str(out)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["report", str(run.path), "--out", str(out), "--force"]) == 0
    assert main(["report", str(run.path), "--out", str(run.path.parent)]) == 2
    assert "is a folder" in capsys.readouterr().err
    assert main(["report", str(run.path), "--out", str(out / "below.html")]) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert main(["report", str(run.path.parent / "nowhere")]) == 2
    assert "does not exist" in capsys.readouterr().err

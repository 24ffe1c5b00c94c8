"""The pure pieces of the time-to-quality benchmark: its curve, its scoring, its schedule, going on where it stopped."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from bench import quality
from bench.peers import running
from bench.peers.jobs import Command, Failed, Job, Shape, Timeline, Variant, Watched
from bench.peers.ours import Lavra, measure_of
from bench.peers.running import Bench, Entry
from bench.peers.runs import time_to
from bench.peers.scoring import bits_per_byte, of_logits, total_nats, windows
from bench.peers.tables import curve_of, rows_of, table
from bench.peers.text import Text, prepared_text

from lavra.core.disk.json_lines import JsonLines
from lavra.data.token_store.prepare import open_prepared
from lavra.evaluation.documents import documents_of_store
from lavra.evaluation.likelihood import likelihood
from lavra.models.native.building import build_decoder
from lavra.models.spec import DecoderSpec

CURVE = [(10.0, 3.0), (40.0, 2.0), (160.0, 1.5)]


def test_a_time_between_two_points_is_straight_in_its_logarithm():
    assert time_to(CURVE, 2.5) == pytest.approx((20.0, ""))  # half-way between 10 and 40 is 20
    assert time_to(CURVE[::-1], 1.75) == pytest.approx((80.0, ""))
    assert time_to(CURVE, 2.0) == pytest.approx((40.0, ""))


def test_a_value_beyond_the_ladder_gives_a_bound():
    assert time_to(CURVE, 3.5) == (10.0, "<")
    assert time_to(CURVE, 1.4) == (160.0, ">")
    assert time_to([(10.0, 3.0), (20.0, 3.1), (40.0, 2.0)], 2.9)[0] > 20.0  # a worse rung is passed over


def test_windows_predict_every_token_once_from_the_one_before():
    tokens = np.arange(1, 24, dtype=np.uint16)
    seen = [(inputs, targets) for inputs, targets in windows(tokens, before=0, context=5, rows=3)]
    assert np.concatenate([targets.ravel() for _, targets in seen]).tolist() == tokens.tolist()
    for inputs, targets in seen:
        assert (inputs + 1 == targets).all()
        assert inputs.shape[1] <= 5
        assert inputs.shape[0] <= 3


def test_an_indifferent_model_costs_the_logarithm_of_the_vocabulary(tmp_path: Path):
    np.arange(100, dtype=np.uint16).tofile(tmp_path / "val.bin")
    (tmp_path / "text.json").write_text('{"end_of_document": 0}')
    nats = total_nats(of_logits(lambda inputs: torch.zeros(*inputs.shape, 256)), tmp_path, 16)
    assert nats == pytest.approx(100 * math.log(256))
    assert bits_per_byte(nats, 400) == pytest.approx(2.0)  # 8 bits a token, 4 bytes a token


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> tuple[Text, Path]:
    home = tmp_path_factory.mktemp("text")
    for name, first in (("train", 0), ("held", 300)):
        lines = [json.dumps({"text": f"the number {n} and its square {n * n} é"}) for n in range(first, first + 60)]
        (home / f"{name}.jsonl").write_text("\n".join(lines))
    return prepared_text([str(home / "train.jsonl")], [str(home / "held.jsonl")], home / "made", 300, 0.05)


def test_every_side_reads_the_same_tokens(text: tuple[Text, Path]):
    about, folder = text
    stores = open_prepared(folder / "stores")
    for side, store in (("train", stores.train), ("val", stores.validation)):
        assert np.fromfile(folder / f"{side}.bin", np.uint16).tolist() == store.tokens.tolist()
    assert (about.documents, about.train_tokens) == (60, stores.train.manifest.tokens)
    assert about.bytes == sum(len(f"the number {n} and its square {n * n} é".encode()) for n in range(300, 360))


def test_text_is_prepared_once(text: tuple[Text, Path]):
    about, folder = text
    home = folder.parent.parent
    made = (folder / "text.json").stat().st_mtime_ns
    again = prepared_text([str(home / "train.jsonl")], [str(home / "held.jsonl")], home / "made", 300, 0.05)
    assert again == (about, folder)
    assert (folder / "text.json").stat().st_mtime_ns == made


def test_lavra_is_scored_by_the_likelihood_of_its_own_evaluation(text: tuple[Text, Path]):
    about, folder = text
    spec = DecoderSpec(
        vocabulary=about.vocabulary, context=about.tokens, depth=1, width=16, heads=1, initialization="gpt2"
    )
    model = build_decoder(spec).eval()
    store = open_prepared(folder / "stores").validation
    whole = likelihood(model, documents_of_store(store, store.tokenizer))
    nats = total_nats(measure_of(model, about.end_of_document, isolate=True), folder, about.tokens)
    assert bits_per_byte(nats, about.bytes) == pytest.approx(whole.to_json()["bits_per_byte"]["value"], rel=1e-5)


def test_a_timeline_plans_a_run_that_ends_with_its_budget():
    seen = Timeline.of(Watched([30.0, 32.0, 34.0, 36.0], 37.0, 38.0))
    assert (seen.first, seen.step, seen.after) == (30.0, 2.0, 1.0)
    steps = seen.steps_within(120.0)
    assert seen.first + (steps - 1) * seen.step + seen.after <= 120.0 < seen.first + steps * seen.step + seen.after
    assert seen.steps_within(20.0) == 0


def test_lavra_is_given_the_time_that_its_start_and_its_evaluation_take():
    seen = Timeline(5.0, 0.1, 0.0, 60.0, 65.0, 500)
    assert Lavra.budget_for(60.0, given=58.0, seen=seen) == pytest.approx(58.0)
    assert Lavra.budget_for(60.0, given=1000.0, seen=seen) <= 1.1 * 55.0


def test_variants_read_as_they_are_written():
    for variant in (Variant("fp32", False), Variant("bf16", True)):
        assert Variant.parse(str(variant)) == variant
    with pytest.raises(ValueError, match="no variant"):
        Variant.parse("fp8+compile")


class Peer:
    """A side whose compiled variant starts later and is faster."""

    name = "peer"
    variants = (Variant("fp32", False), Variant("fp32", True))

    def versions(self) -> dict[str, str | None]:
        return {"peer": "1"}

    def train(self, job: Job) -> Command:
        return Command([], job.out / "model", None)

    def score(self, job: Job) -> list[str]:
        return []


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Replace processes by arithmetic; the list holds the steps of every training, 0 for lavra's."""
    done: list[int] = []

    def run(command: Command, steps: int, limit: float) -> Watched:
        done.append(steps)
        job = Job.read(command.model.parent / "job.json")
        first, step = (60.0, 0.5) if job.variant.compiled else (10.0, 1.0)
        times = [first + number * step for number in range(steps)]
        return Watched(times, times[-1] + 1.0 if times else job.seconds, 0.0)

    def timeline(self: Lavra, job: Job, watched: Watched) -> tuple[Timeline, int]:
        return Timeline(4.0, 0.1, 0.0, 4.0 + job.seconds, 5.0 + job.seconds, 10), 1000

    monkeypatch.setattr(running, "run", run)
    monkeypatch.setattr(
        running, "score", lambda words: {"nats": 1000.0 / len(done), "block_parameters": 12 * 6 * 256**2}
    )
    monkeypatch.setattr(Lavra, "timeline", timeline)
    monkeypatch.setattr(Lavra, "train", lambda self, job: Command([], job.write().parent / "model", None))
    monkeypatch.setattr(Peer, "train", lambda self, job: Command([], job.write().parent / "model", None))
    monkeypatch.setattr(Lavra, "versions", lambda self: {"revision": "abc"})
    return done


LAVRA = Entry(Lavra(), Lavra().variants)
PEER = Entry(Peer(), Peer.variants)


def benchmark(text: tuple[Text, Path], out: Path, *words: str) -> tuple[Bench, list[tuple[Entry, float, int]]]:
    options = quality.options_of(["--budgets", "30s,120s", "--ladder", "15s", "--out", str(out), *words])
    bench = Bench(options, text[0], text[1], JsonLines(out / "quality.jsonl"))
    return bench, quality.order([PEER], LAVRA, options.budgets, options.ladder, [1])


def test_sides_take_turns_and_every_run_is_there_once(text: tuple[Text, Path], tmp_path: Path):
    _, runs = benchmark(text, tmp_path)
    assert [(entry.name, budget) for entry, budget, _ in runs] == [
        ("lavra", 30.0),
        ("peer", 30.0),
        ("lavra", 15.0),
        ("peer", 120.0),
        ("lavra", 120.0),
    ]


def test_the_variant_with_most_steps_is_taken(text: tuple[Text, Path], tmp_path: Path, trained: list[int]):
    bench, runs = benchmark(text, tmp_path)
    quality.go(bench, runs)
    rows = {(row["side"], row["budget"]): row for row in rows_of(bench, [LAVRA, PEER], LAVRA, [15.0])}
    assert rows["peer", 30.0]["variant"] == "fp32"  # compiling would take 60 s
    assert rows["peer", 120.0]["variant"] == "fp32+compile"
    for (_, budget), row in rows.items():
        assert 0.9 * budget < row["seconds"] <= 1.03 * budget
    shown = table(list(rows.values()), curve_of(bench, LAVRA, [15.0]))
    assert "lavra's ladder: 15 s" in shown
    assert "!" not in shown


def test_what_is_recorded_is_not_run_again(text: tuple[Text, Path], tmp_path: Path, trained: list[int]):
    bench, runs = benchmark(text, tmp_path)
    assert bench.expected_seconds(runs) > 30 + 30 + 15 + 120 + 120
    quality.go(bench, runs)
    assert len(trained) == 5 + 3  # runs, and a probe of each variant
    bench, runs = benchmark(text, tmp_path)
    assert bench.expected_seconds(runs) == 0
    quality.go(bench, runs)
    assert len(trained) == 8
    bench, runs = benchmark(text, tmp_path, "--again")
    quality.go(bench, runs)
    assert len(trained) == 8 + 5  # the probes are known
    bench, runs = benchmark(text, tmp_path, "--learning-rate", "2e-3")
    quality.go(bench, runs)
    assert len(trained) == 13 + 2 + 2  # the peer's runs and probes; lavra has its own learning rate


def test_a_run_off_its_budget_is_marked_and_repeated(
    text: tuple[Text, Path], tmp_path: Path, trained: list[int], monkeypatch: pytest.MonkeyPatch
):
    bench, runs = benchmark(text, tmp_path)
    with monkeypatch.context() as busy:
        busy.setattr(Lavra, "budget_for", staticmethod(lambda seconds, given, seen: seconds / 2))
        quality.go(bench, runs)
    assert "!" in table(rows_of(bench, [LAVRA, PEER], LAVRA, [15.0]), curve_of(bench, LAVRA, [15.0]))
    bench, runs = benchmark(text, tmp_path)
    quality.go(bench, runs)
    assert trained[8:] == [0, 0]  # the two budgets; the rung of the ladder stays
    assert "!" not in table(rows_of(bench, [LAVRA, PEER], LAVRA, [15.0]), curve_of(bench, LAVRA, [15.0]))


def test_another_revision_of_lavra_repeats_lavra_only(
    text: tuple[Text, Path], tmp_path: Path, trained: list[int], monkeypatch: pytest.MonkeyPatch
):
    quality.go(*benchmark(text, tmp_path))
    monkeypatch.setattr(Lavra, "versions", lambda self: {"revision": "def"})
    quality.go(*benchmark(text, tmp_path))
    assert trained[8:] == [0, 0, 0]


def test_a_side_of_another_size_is_refused_and_the_others_go_on(
    text: tuple[Text, Path], tmp_path: Path, trained: list[int], monkeypatch: pytest.MonkeyPatch, capsys
):
    monkeypatch.setattr(running, "score", lambda words: {"nats": 1.0, "block_parameters": 12 * 7 * 256**2})
    bench, runs = benchmark(text, tmp_path)
    quality.go(bench, runs)
    assert capsys.readouterr().err.count("FAILED") == 5
    with pytest.raises(Failed, match=f"not {Shape().block_parameters:,}"):
        bench.measure(PEER, 30.0, 1)

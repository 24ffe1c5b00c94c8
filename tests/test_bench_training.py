"""The pure parts of the benchmarks of training, and one comparison of workers that compute nothing."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

BENCH = Path(__file__).resolve().parent.parent / "bench"
sys.path.insert(0, str(BENCH))  # the scripts import what lies beside them

import _compare  # noqa: E402
import _packing_sides  # noqa: E402
import _results  # noqa: E402
import _shapes  # noqa: E402
import _training_sides  # noqa: E402
import _turns  # noqa: E402
import packing  # noqa: E402
import run_times  # noqa: E402
import scaling  # noqa: E402
import training  # noqa: E402

IDLE_WORKER = f"""
import sys, time
sys.path.insert(0, {str(BENCH)!r})
from _turns import memory, serve

def run(settings, turns):
    if settings["side"] == "broken":
        raise SystemExit("no such library")
    print("noise of a library")
    memory.begin()
    while turns.step_done(settings["tokens"][settings["side"]]):
        time.sleep(0.001)

serve(run)
"""


def test_a_spread_is_the_median_and_the_range() -> None:
    spread = _results.Spread.of([3.0, 1.0, 2.0])
    assert (spread.median, spread.low, spread.high, spread.runs) == (2.0, 1.0, 3.0, 3)
    assert spread.share == 1.0
    with pytest.raises(ValueError, match="at least one"):
        _results.Spread.of([])


def test_ratios_are_taken_round_by_round() -> None:
    spread = _results.ratios([2.0, 8.0, 3.0], [1.0, 4.0, 1.0])
    assert (spread.median, spread.low, spread.high) == (2.0, 2.0, 3.0)


def test_results_are_appended_with_their_circumstances(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUT", str(tmp_path / "results"))
    _results.record("speed", {"value": 1})
    lines = _results.record("speed", {"value": 2}).read_text().splitlines()
    assert [json.loads(line)["value"] for line in lines] == [1, 2]
    assert {"date", "machine", "versions", "revision"} <= json.loads(lines[0]).keys()


def test_workers_take_turns_and_a_broken_one_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "worker.py"
    script.write_text(IDLE_WORKER)
    rounds: list[int] = []
    ours, peer = _compare.compare(
        script,
        {"tokens": {"ours": 10.0, "peer": 5.0}},
        "ours",
        ["broken", "peer"],
        rounds=2,
        seconds=0.01,
        between=lambda: rounds.append(1),
    )
    assert (ours.side, peer.side, len(peer.speeds), len(peer.beside), len(rounds)) == ("ours", "peer", 2, 2, 2)
    assert ours.speeds == peer.beside
    assert "no such library" in capsys.readouterr().err
    figures = peer.to_json()
    assert figures["ours_is_faster_by"]["runs"] == 2
    assert ours.to_json()["ours_is_faster_by"] is None
    assert f"{figures['ours_is_faster_by']['median']:.2f}x" in _compare.row(figures)
    if Path("/proc/self/status").exists():
        assert peer.memory["peak_bytes"] is not None


def test_a_turn_counts_its_own_steps_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    monkeypatch.setattr(sys, "stdin", io.StringIO("2\n"))
    channel = io.StringIO()
    turns = _turns.Turns(channel, warm_up=1)
    answers = [turns.step_done(tokens) for tokens in (100.0, 3.0, 4.0)]
    ready, turn = (json.loads(line) for line in channel.getvalue().splitlines())
    assert answers == [True, True, False]
    assert ready["first_step_seconds"] == ready["step_seconds"]
    assert (turn["steps"], turn["tokens"]) == (2, 7.0)


def test_every_shape_is_the_same_in_transformers() -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from lavra.models.native.building import count_parameters
    from lavra.models.native.decoder import Decoder

    for name in ("tiny", "7M", "opt-125m"):
        spec = _shapes.shape_of(name, 128)
        with torch.device("meta"):
            ours = count_parameters(Decoder(spec))
            theirs = AutoModelForCausalLM.from_config(_training_sides.hub_config(spec)).num_parameters()
        padding = (spec.padded_vocabulary - spec.vocabulary) * spec.width
        assert abs(ours - padding - theirs) <= 2 * spec.width, name  # OPT has two positions that are never used


def test_the_random_store_is_whole_and_always_the_same(tmp_path: Path) -> None:
    from lavra.data.token_store.store import TokenStore

    stores = [
        TokenStore.open(_shapes.write_random_store(tmp_path / name, 512, tokens=20_000)) for name in ("one", "two")
    ]
    assert np.array_equal(stores[0].tokens, stores[1].tokens)
    ends = np.flatnonzero(np.asarray(stores[0].tokens) == 0) + 1
    assert np.array_equal(stores[0].offsets[1:], ends)
    assert len(stores[0]) > 50


def test_peers_are_those_that_can_train_the_shape() -> None:
    assert "nanoGPT compiled" in training.peers_of("7M", training.PEERS, "folder")
    assert "nanoGPT compiled" not in training.peers_of("7M", training.PEERS, None)
    assert "nanoGPT compiled" not in training.peers_of("opt-125m", training.PEERS, "folder")
    assert set(training.PEERS) | {training.OURS} == set(_training_sides.SIDES)


@pytest.mark.parametrize(
    ("words", "said"), [(["--peers", "llm.c"], "no such peers: llm.c"), (["--nanogpt", "/nowhere"], "no model.py")]
)
def test_a_wrong_request_says_what_is_wrong(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        training.request(words)
    assert said in capsys.readouterr().err


def test_the_table_of_training_shows_the_share_of_the_ceiling() -> None:
    side = _compare.Measured("lavra", [100.0, 120.0], memory={"peak_bytes": 2 * 10**9, "steady_bytes": 10**9})
    figures = training.with_share({**side.to_json(), "device_bytes": None}, 0.005)
    assert figures["share_of_ceiling"] == pytest.approx(0.55)
    result = {
        "shape": "7M",
        "context": 256,
        "batch_tokens": 4096,
        "flops_per_token": 1e6,
        "ceiling_flops": {"median": 2e8},
        "sides": [figures],
    }
    assert "55.0%" in training.table(result)
    assert "2.00 GB" in training.table(result)


def test_padding_asks_for_every_token_of_a_document_once() -> None:
    rows = [np.array([0, 5, 6, 0]), np.array([0, 7, 0])]
    longest = _packing_sides.Padded(8, whole=False).encode(rows, None, 0.0)
    assert longest.inputs.tolist() == [[0, 5, 6], [0, 7, 0]]
    assert longest.targets.tolist() == [[5, 6, 0], [7, 0, -100]]
    assert longest.weight == 5.0
    whole = _packing_sides.Padded(8, whole=True).encode(rows, None, 0.0)
    assert whole.inputs.shape == (2, 8)
    assert whole.weight == 5.0
    assert _packing_sides.Padded(2, whole=True).encode(rows, None, 0.0).targets.tolist() == [[5, 6], [7, 0]]
    assert set(packing.PEERS) | {packing.OURS} == set(_packing_sides.SIDES)


def test_the_useful_share_of_padding() -> None:
    same = np.full(100, 16)
    assert packing.useful_share(same, 4, 64, whole=True) == 0.25
    assert packing.useful_share(same, 4, 64, whole=False) == 1.0
    mixed = np.array([4, 28])
    assert packing.useful_share(mixed, 1, 64, whole=False) == 1.0
    assert 0.5 < packing.useful_share(mixed, 2, 64, whole=False) < 1.0


def test_only_short_documents_are_packed() -> None:
    documents = [np.zeros(length, dtype=np.int64) for length in (3, 31, 32, 100)]
    assert [len(ids) for ids in packing.short(documents, 64)] == [3, 31]
    with pytest.raises(SystemExit, match="larger --context"):
        packing.short(documents, 8)


def test_one_measure_changes_at_a_time() -> None:
    base = scaling.BASE
    for axis, value, point in scaling.points(base, scaling.AXES):
        changed = {
            name for name, own in point.spec.to_dict().items() if own != base.spec.to_dict()[name] and name != "heads"
        }
        assert changed <= {axis}
        assert (point == base) == (value == (base.rows if axis == "rows" else getattr(base.spec, axis)))
        if axis == "context":
            assert point.tokens == base.tokens


def test_scaling_compares_with_the_flops_of_the_base(tmp_path: Path) -> None:
    axes = {"depth": (1, 2), "rows": (1, 2)}
    result = scaling.measure(scaling.TINY, axes, rounds=1, steps=1)
    base = [line for line in result["lines"] if line["value"] == 2]
    assert all(line["predicted_seconds"] == line["seconds"]["median"] for line in base)
    one = next(line for line in result["lines"] if line["axis"] == "rows" and line["value"] == 1)
    assert one["flops"] == base[1]["flops"] / 2
    assert "depth" in scaling.table(result)
    scaling.draw(result, tmp_path / "plot.html")
    assert (tmp_path / "plot.html").read_text(encoding="utf-8").count("<svg") == len(axes)


def test_the_figures_of_runs_leave_out_the_first_step() -> None:
    moments = {"first_step_began": 4.0, "first_step_done": 6.0}
    warm = moments | {
        "loop_seconds": 20.0,
        "steps": 11,
        "checkpoint_wait_seconds": 0.2,
        "checkpoints": 4,
        "data_wait_seconds": 0.1,
        "evaluation_tokens_per_second": 900.0,
    }
    found = run_times.figures([moments], [warm], [moments], 100)
    assert found["checkpoint_stall_share"]["median"] == pytest.approx(0.01)
    assert found["data_wait_share"]["median"] == pytest.approx(0.005)
    assert found["training_tokens_per_second"]["median"] == pytest.approx(50.0)
    text = run_times.table({"model": "lavra-9m", "steps": 11, "figures": found})
    assert "wanted: under 10" in text
    assert all(label in text for label in run_times.LABELS.values())

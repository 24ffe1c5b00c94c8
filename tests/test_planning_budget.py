"""From a budget to a shape and a length, the plan on disk, and the probe that leaves no trace."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lavra.core.errors import InputError
from lavra.planning.budget import (
    ADAPTING_STEPS,
    MIN_STEPS,
    MOST_EPOCHS,
    PARAMETERS_PER_BYTE,
    assumed_efficiency,
    batch_tokens_for,
    busy_tokens,
    draft_shape,
    tokens_that_fit,
    vocabulary_for,
)
from lavra.planning.machine import hardware
from lavra.planning.machine.flops import matrix_parameters, training_flops_per_token
from lavra.planning.machine.timed_steps import probe_steps, time_steps
from lavra.training.devices import choose_device, describe, synchronize, use_threads
from lavra.training.plan import Plan
from lavra.training.updates import AnomalyGuard, ExponentialAverage, Monitor, SnapshotAverage
from lavra.training.updates.anomalies import SpikeDetector
from plans import a_plan
from tiny_training import CONTEXT, all_tensors, assert_same_bits, run, tiny_trainer

CORPORA = (1e3, 1e5, 1e7, 1e9, 1e12)
COMPUTE = [10.0**power for power in range(8, 23)]


def test_fast_matrix_units_are_not_expected_to_make_the_rest_faster() -> None:
    assert assumed_efficiency("cpu", 1e10, 1) == assumed_efficiency("cpu", 2e11, 1)
    assert assumed_efficiency("cpu", 1e12, 1) * 1e12 == pytest.approx(assumed_efficiency("cpu", 2e12, 1) * 2e12)
    assert assumed_efficiency("cpu", 1e12, 2) == pytest.approx(2 * assumed_efficiency("cpu", 1e12, 1))
    assert assumed_efficiency("cuda", 1e14, 2) == assumed_efficiency("cuda", 1e15, 2)


@pytest.mark.parametrize("corpus", CORPORA)
def test_more_compute_never_gives_a_smaller_model_nor_fewer_tokens_of_it(corpus: float):
    drafts = [draft_shape(flops, corpus) for flops in COMPUTE]
    for less, more in pairwise(drafts):
        assert matrix_parameters(more.spec) >= matrix_parameters(less.spec)
        if more.spec == less.spec:
            assert more.tokens > less.tokens


@given(flops=st.floats(1e6, 1e24), corpus=st.floats(0, 1e13))
def test_a_draft_spends_the_compute_on_a_possible_model(flops: float, corpus: float):
    draft = draft_shape(flops, corpus)
    assert draft.tokens * training_flops_per_token(draft.spec) == pytest.approx(flops)
    assert draft.spec.vocabulary == vocabulary_for(draft.spec.vocabulary, corpus)


def test_a_small_corpus_is_not_repeated_where_a_larger_model_could_be_trained():
    small, large = draft_shape(3e13, 1e6), draft_shape(3e13, 1e12)
    assert matrix_parameters(small.spec) > matrix_parameters(large.spec)
    assert large.tokens < MOST_EPOCHS * 1e12


@given(flops=st.floats(1e6, 1e24), corpus=st.floats(0, 1e13), memory=st.floats(0, 1e12))
def test_the_smaller_text_or_memory_the_smaller_the_model(flops: float, corpus: float, memory: float):
    least = matrix_parameters(draft_shape(1e6, 0).spec)
    found = matrix_parameters(draft_shape(flops, corpus, memory).spec)
    vocabularies = 4 * 32768 * 64  # the smallest shape may have a large vocabulary where the text is large
    assert found <= max(least + vocabularies, min(PARAMETERS_PER_BYTE * corpus, memory / 24))


@pytest.mark.parametrize("flops", [1e15, 1e18, 1e21])
def test_a_tiny_text_gets_the_smallest_model_however_long_the_budget(flops: float):
    sizes = [matrix_parameters(draft_shape(flops, corpus).spec) for corpus in (3e3, 1e4, 3e4, 1e5, 3e5)]
    assert sizes == sorted(sizes)
    assert sizes[0] < 200_000


@given(wanted=st.integers(512, 65536), corpus=st.floats(0, 1e12))
def test_a_vocabulary_is_no_larger_than_wanted_and_grows_with_the_text(wanted: int, corpus: float):
    vocabulary = vocabulary_for(wanted, corpus)
    assert 512 <= vocabulary <= wanted
    assert vocabulary <= vocabulary_for(wanted, 2 * corpus)


@given(tokens=st.floats(0, 1e14), context=st.sampled_from([128, 256, 1024, 4096]))
def test_a_step_is_a_power_of_two_that_holds_a_window(tokens: float, context: int):
    step = batch_tokens_for(tokens, context)
    assert step & (step - 1) == 0
    assert 2048 <= step <= 2**19
    assert step % context == 0
    assert step <= batch_tokens_for(4 * tokens, context)


@given(tokens=st.floats(1e5, 1e12), busy=st.floats(0, 1e6), adapting=st.booleans())
def test_a_fast_device_gets_larger_steps_and_the_run_keeps_enough_of_them(tokens: float, busy: float, adapting: bool):
    usual, step = batch_tokens_for(tokens, 256), batch_tokens_for(tokens, 256, busy, adapting=adapting)
    assert step >= usual
    assert step == usual or step <= 1.5 * busy
    assert step == usual or tokens / step >= (ADAPTING_STEPS if adapting else MIN_STEPS) / 1.5


def test_steps_are_chosen_by_the_device():
    flops = 8.1e8  # of a token of a model of 135M parameters
    assert busy_tokens("cpu", 1e11, flops) == 0
    an_h100, a_t4 = busy_tokens("cuda", 0.35 * 660e12, flops), busy_tokens("cuda", 0.35 * 40e12, flops)
    assert batch_tokens_for(6e6, 1024, an_h100, adapting=True) >= 16384
    assert batch_tokens_for(4e5, 1024, a_t4, adapting=True) == 2048


def test_a_micro_batch_fits_the_memory_of_a_gpu():
    shape = {"parameters": 135e6, "depth": 30, "width": 576}
    assert tokens_that_fit(80e9, **shape) >= 32768
    assert 4096 <= tokens_that_fit(15.8e9, **shape) <= 8192
    assert tokens_that_fit(2e9, **shape) == 1


@pytest.mark.parametrize(
    "plan", [a_plan(), replace(a_plan(), budget_seconds=None, max_grad_norm=float("inf"), probe={})]
)
def test_a_plan_comes_back_from_its_file(plan: Plan):
    assert Plan.from_json(json.loads(json.dumps(plan.to_json())), "plan.json") == plan


def test_a_wrong_plan_is_named():
    values = a_plan().to_json()
    for change, message in (
        ({"steps": "many"}, r"plan\.json.*steps"),
        ({"model": {"width": "wide"}}, r"plan\.json.*model\.width"),
        ({"surprise": 1}, "surprise"),
    ):
        with pytest.raises(InputError, match=message):
            Plan.from_json(values | change, "plan.json")
    del values["seed"]
    with pytest.raises(InputError, match="seed"):
        Plan.from_json(values, "plan.json")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("average", ["ema", "swa", None])
def test_a_probe_leaves_no_trace(precision, average: str | None):
    def trainer():
        def chain(trainer):
            kept = {
                "ema": [ExponentialAverage(trainer.master_weights, 0.9)],
                "swa": [SnapshotAverage(trainer.master_weights, 1, 1)],
                None: [],
            }[average]
            return [
                Monitor(2),
                AnomalyGuard("skip", lambda step, reason: None, spikes=SpikeDetector(4, 50.0, 2)),
                *kept,
            ]

        return tiny_trainer(precision=precision, updates=chain)

    probed, straight = trainer(), trainer()
    probe = probe_steps(probed, seconds=0.0, least=4)
    assert probe.steps == 4
    assert probe.step_seconds > 0.0
    assert probe.first_step_seconds > 0.0
    assert probe.tokens_per_second * probe.step_seconds == pytest.approx(4 * CONTEXT, rel=0.2)  # one window is short
    assert probed.state() == straight.state()
    probed.set_length(9)
    straight.set_length(9)
    assert run(probed) == run(straight)
    assert_same_bits(all_tensors(probed), all_tensors(straight))


def test_steps_that_stay_taken_are_the_first_ones_of_the_run():
    tried, straight = tiny_trainer(), tiny_trainer()
    timed = time_steps(tried, seconds=0.0, least=2)
    assert [report.step for report in timed.reports] == [1, 2, 3]
    assert tried.step == 3
    assert [*timed.reports, *run(tried)] == run(straight)
    assert_same_bits(all_tensors(tried), all_tensors(straight))


def test_a_first_step_that_fails_leaves_no_trace(monkeypatch: pytest.MonkeyPatch):
    trainer = tiny_trainer()

    class Failing:
        def __getattr__(self, _: str) -> object:
            raise RuntimeError("the compiler")

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "objective", Failing())
        with pytest.raises(RuntimeError, match="the compiler"):
            time_steps(trainer, seconds=0.0)
    assert trainer.step == 0
    assert run(trainer) == run(tiny_trainer())


def test_the_peak_of_matrix_products_is_positive(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(hardware._SIDES, "cpu", 256)
    assert 0.0 < hardware.measure_matrix_peak(torch.device("cpu"), "fp32", seconds=0.0) < math.inf


def test_devices_are_found_or_named():
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device().type in ("cpu", "cuda", "mps")
    with pytest.raises(InputError, match="'gpu' is not a device"):
        choose_device("gpu")
    for name in ("cuda", "mps"):
        backend = torch.cuda if name == "cuda" else torch.backends.mps
        if not backend.is_available():
            with pytest.raises(InputError, match=f"no {name.upper()} device"):
                choose_device(name)
    before = torch.get_num_threads()
    try:
        assert use_threads(1) == torch.get_num_threads() == 1
        assert describe(torch.device("cpu")) == "cpu (1 threads)"
        synchronize(torch.device("cpu"))
    finally:
        torch.set_num_threads(before)

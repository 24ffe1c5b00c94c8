"""Accumulation: one batch of N is N micro-batches of one, ragged masks included, and two processes are one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lavra.core.errors import InputError
from lavra.objectives.causal import Causal
from lavra.training.batches import DistributedInfo
from lavra.training.fault_injection import injected
from lavra.training.precision import Precision
from lavra.training.trainer import Trainer
from tiny_training import CONTEXT, SPEC, Capture, all_tensors, assert_same_bits, distance, lively, run, tiny_trainer
from two_processes import in_two_processes

ROWS = 8
STEPS = 6


def captured(**options: Any) -> tuple[Trainer, Capture]:
    capture = Capture()
    trainer = tiny_trainer(
        model=lively(SPEC), steps=STEPS, global_batch_size=ROWS, updates=lambda _: [capture], **options
    )
    run(trainer)
    return trainer, capture


def assert_ragged(capture: Capture) -> None:
    """The steps must include one with the short last window of an epoch."""
    assert any(weight < ROWS * CONTEXT for weight in capture.weights)


@pytest.mark.parametrize(("precision", "of_losses", "of_gradients"), [("fp32", 1e-5, 1e-5), ("bf16", 1e-3, 1e-2)])
@pytest.mark.parametrize("micro_batch_size", [1, 2, 4])
def test_micro_batches_add_up_to_the_batch(
    micro_batch_size: int, precision: Precision, of_losses: float, of_gradients: float
):
    """The first step is compared: later ones start from weights that rounding has moved apart."""
    options: dict[str, Any] = {"precision": precision, "objective": Causal(CONTEXT, label_smoothing=0.1)}
    _, whole = captured(micro_batch_size=ROWS, **options)
    _, parts = captured(micro_batch_size=micro_batch_size, **options)
    assert_ragged(whole)
    assert whole.weights == parts.weights
    assert parts.losses[0] == pytest.approx(whole.losses[0], rel=of_losses)
    assert distance(parts.gradients[0], whole.gradients[0]) < of_gradients


@pytest.mark.parametrize("number", range(STEPS))
def test_the_ragged_step_adds_up_too(number: int):
    found = []
    for micro_batch_size in (1, ROWS):
        capture = Capture()
        trainer = tiny_trainer(
            model=lively(SPEC),
            steps=STEPS,
            global_batch_size=ROWS,
            micro_batch_size=micro_batch_size,
            updates=lambda _, capture=capture: [capture],
        )
        trainer.step = number
        run(trainer, 1)
        found.append(capture)
    assert found[0].losses[0] == pytest.approx(found[1].losses[0], rel=1e-5)
    assert distance(found[0].gradients[0], found[1].gradients[0]) < 1e-5


def test_gradients_of_bf16_are_summed_in_fp32():
    trainer, capture = captured(micro_batch_size=1, precision="bf16")
    assert all(gradient.dtype == torch.float32 for gradient in capture.gradients[0].values())
    assert all(weight.dtype == torch.float32 for weight in trainer.master_weights.weights.values())
    assert all(weight.dtype == torch.bfloat16 for weight in trainer.master_weights.working.values())
    for name, weight in trainer.master_weights.weights.items():
        assert torch.equal(weight.bfloat16(), trainer.master_weights.working[name])
    _, exact = captured(micro_batch_size=1, precision="fp32")
    assert distance(capture.gradients[0], exact.gradients[0]) < 0.05


def test_dropout_is_the_same_whenever_a_step_is_done_again():
    """The gradient of a step is a function of the seed and its number, not of what ran before."""

    class Twice(Capture):
        def around(self, step: Any, inner: Any) -> Any:
            super().around(step, lambda: None)  # pyright: ignore[reportArgumentType]
            torch.rand(7)  # somebody else uses the global generator
            step.backward()
            return super().around(step, inner)

    twice, once = Twice(), Capture()
    for capture in (twice, once):
        spec = replace(SPEC, dropout=0.2)
        run(tiny_trainer(model=lively(spec), micro_batch_size=2, updates=lambda _, capture=capture: [capture]), 1)
    for gradients in twice.gradients:
        assert_same_bits(gradients, once.gradients[0])
    assert twice.losses[0] == twice.losses[1] == once.losses[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"global_batch_size": 4, "micro_batch_size": 3}, "3 sequences do not divide the 4 sequences"),
        (
            {"global_batch_size": 5, "micro_batch_size": 1, "distributed": DistributedInfo(0, 2)},
            "divided evenly among 2 processes",
        ),
    ],
)
def test_steps_that_cannot_be_shared_are_refused(options: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        tiny_trainer(**options)


CASES = ("sound", "the second runs out of memory")


def as_rank(folder: Path) -> None:
    """What each of the processes below does: train, then again with the second out of memory in its second step."""
    from lavra.training.distributed import join_ranks, max_over_ranks, sums_over_ranks, wait_for_ranks

    distributed = join_ranks(torch.device("cpu"))
    assert (
        sums_over_ranks((distributed.rank + 1.0, 5.0), distributed),
        max_over_ranks(float(distributed.rank), distributed),
    ) == ([3.0, 10.0], 1.0)
    for case in CASES:
        with injected("step.backward:4:oom" if case != "sound" and distributed.rank == 1 else ""):
            trainer, capture = captured(micro_batch_size=2, distributed=distributed)
        tensors = {"loss": torch.tensor(capture.losses, dtype=torch.float64), "weight": torch.tensor(capture.weights)}
        tensors |= {f"gradient/{name}": value for name, value in capture.gradients[0].items()}
        wait_for_ranks(distributed)
        save_file(tensors | all_tensors(trainer), folder / f"{case}-{distributed.rank}.safetensors")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with what two processes found that trained together."""
    folder = tmp_path_factory.mktemp("ranks")
    in_two_processes(f"from test_training_accumulation import as_rank; as_rank(Path({str(folder)!r}))")
    return folder


@pytest.mark.parametrize("case", CASES)
def test_two_processes_learn_what_one_learns(two_ranks: Path, case: str):
    together, other = (load_file(two_ranks / f"{case}-{rank}.safetensors") for rank in range(2))
    assert_same_bits(together, other)
    trainer, alone = captured(micro_batch_size=2)
    assert_ragged(alone)
    assert together["weight"].tolist() == alone.weights
    gradients = {name.removeprefix("gradient/"): value for name, value in together.items() if "gradient/" in name}
    assert distance(gradients, alone.gradients[0]) < 1e-5
    torch.testing.assert_close(together["loss"][:2], torch.tensor(alone.losses[:2]).double(), rtol=1e-5, atol=0)
    torch.testing.assert_close(together["loss"], torch.tensor(alone.losses).double(), rtol=1e-3, atol=0)
    weights = {f"master_weights/{name}": weight.detach() for name, weight in trainer.master_weights.weights.items()}
    assert distance({name: together[name] for name in weights}, weights) < 1e-2

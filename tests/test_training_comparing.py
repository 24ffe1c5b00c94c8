"""A loss that compares the examples of a step: micro-batches are one big batch, two processes are one, and so on."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from lavra.core.errors import InputError
from lavra.core.seeds import derive_seed
from lavra.models.heads import EmbeddingHead, attach_head, width_of
from lavra.models.native.decoder import Decoder
from lavra.objectives.base import ComparingObjective, Loss, in_float32
from lavra.objectives.causal import Causal
from lavra.objectives.contrastive import Contrastive, PairRow
from lavra.training.acceleration.compiling import compile_step
from lavra.training.acceleration.proof import _reference
from lavra.training.batches import BatchSource, DistributedInfo
from lavra.training.fault_injection import injected
from lavra.training.optimizers.optimizers import OptimizerOptions
from lavra.training.optimizers.schedules import Schedule
from lavra.training.precision import Precision
from lavra.training.trainer import Trainer
from lavra.training.updates import Outcome, Update
from lavra.training.validation import Validation
from tiny_training import CONTEXT, SPEC, Capture, all_tensors, assert_same_bits, distance, lively, run
from two_processes import in_two_processes

ROWS = 8
STEPS = 3


class Pairs:
    """Endless random pairs, some of which have hard negatives, and some a text that occurs elsewhere in the step."""

    def __init__(self, weight: Callable[[int], float] = lambda number: 1.0) -> None:
        self.weight = weight

    def rows(self, start: int, count: int) -> list[PairRow]:
        return [self.row(number) for number in range(start, start + count)]

    def row(self, number: int) -> PairRow:
        text = functools.partial(self.text, number)
        negatives = tuple(text(2 + one) for one in range(number % 3))
        anchor = self.text(number - number % 4, 0) if number % 4 == 1 else text(0)
        return PairRow(number, anchor, text(1), negatives, self.weight(number))

    def text(self, number: int, part: int) -> np.ndarray:
        random = np.random.default_rng((number, part))
        return random.integers(0, SPEC.vocabulary, random.integers(3, 20))


def embedder(dropout: float = 0.0) -> Decoder:
    model = lively(replace(SPEC, dropout=dropout))
    head = EmbeddingHead(width_of(model), dimensions=12)
    head.initialize(torch.Generator().manual_seed(3))
    attach_head(model, head)
    return model


def pair_trainer(
    *,
    micro_batch_size: int = ROWS,
    dropout: float = 0.0,
    objective: Any = None,
    precision: Precision = "fp32",
    updates: Callable[[Trainer], list[Update]] = lambda trainer: [],
    source: Any = None,
    distributed: DistributedInfo = DistributedInfo(),  # noqa: B008 - frozen
) -> Trainer:
    objective = objective or Contrastive(CONTEXT, temperature=0.3)
    batches = BatchSource(
        source or Pairs(),
        objective,
        global_batch_size=ROWS,
        micro_batch_size=micro_batch_size,
        steps=STEPS,
        seed=0,
        distributed=distributed,
    )
    trainer = Trainer(
        embedder(dropout),
        objective,
        batches,
        optimizer=OptimizerOptions(),
        schedule=Schedule(warmup_steps=2),
        precision=precision,
        device=torch.device("cpu"),
        steps=STEPS,
    )
    trainer.updates = updates(trainer)
    return trainer


def captured(steps: int | None = 1, **options: Any) -> tuple[Trainer, Capture]:
    capture = Capture()
    trainer = pair_trainer(updates=lambda _: [capture], **options)
    run(trainer, steps)
    return trainer, capture


def plain_gradients(trainer: Trainer) -> tuple[float, dict[str, torch.Tensor]]:
    """Return what autograd gives for the first step when all micro-batches are in one graph, with the same dropout."""
    batches, objective = trainer.batches.micro_batches(0), trainer.objective
    assert isinstance(objective, ComparingObjective)
    embeddings = []
    for index, batch in enumerate(batches):
        torch.manual_seed(derive_seed(0, "dropout", 0, 0, index))
        embeddings.append(in_float32(objective.embed(trainer.model, batch)))
    infos = [objective.info(batch) for batch in batches]
    info = {name: torch.cat([one[name] for one in infos]) for name in infos[0]}
    loss = objective.compare(torch.cat(embeddings), info)
    (loss.sum / loss.weight).backward()
    gradients = {name: p.grad.clone() for name, p in trainer.master_weights.weights.items() if p.grad is not None}
    return float(loss.sum.detach()) / loss.weight, gradients


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("precision", "of_gradients"), [("fp32", 1e-5), ("bf16", 3e-2)])
@pytest.mark.parametrize("micro_batch_size", [1, 2, 4])
def test_micro_batches_are_one_big_batch(
    micro_batch_size: int, precision: Precision, of_gradients: float, weighted: bool
):
    source = Pairs((lambda number: 0.5 * (number % 3)) if weighted else (lambda number: 1.0))
    _, whole = captured(precision=precision, source=source)
    _, parts = captured(precision=precision, source=source, micro_batch_size=micro_batch_size)
    assert whole.weights == parts.weights
    assert parts.losses == pytest.approx(whole.losses, rel=of_gradients)
    assert distance(parts.gradients[0], whole.gradients[0]) < of_gradients
    assert whole.gradients[0]["task_head.output.weight"].any()


@pytest.mark.parametrize("micro_batch_size", [1, 2, ROWS])
def test_with_dropout_it_is_what_autograd_gives_for_the_same_masks(micro_batch_size: int):
    _, found = captured(dropout=0.2, micro_batch_size=micro_batch_size)
    loss, gradients = plain_gradients(pair_trainer(dropout=0.2, micro_batch_size=micro_batch_size))
    assert found.losses == [pytest.approx(loss, rel=1e-5)]
    assert distance(found.gradients[0], gradients) < 1e-5
    assert found.losses[0] != captured()[1].losses[0]


@pytest.mark.parametrize("place", ["step.embed:3", "step.backward:2"])
def test_out_of_memory_halves_the_micro_batch_and_the_step_is_the_same(place: str):
    with injected(f"{place}:oom"):
        trainer, found = captured(steps=None, micro_batch_size=2)
    assert trainer.batches.micro_batch_size == 1
    _, whole = captured(steps=None)
    assert found.losses[0] == pytest.approx(whole.losses[0], rel=1e-5)
    assert distance(found.gradients[0], whole.gradients[0]) < 1e-5
    assert found.weights == whole.weights


def test_one_batch_that_does_not_fit_becomes_several():
    with injected("step.backward:1:oom"):
        trainer, found = captured()
    assert trainer.batches.micro_batch_size == ROWS // 2
    assert distance(found.gradients[0], captured()[1].gradients[0]) < 1e-5


def test_a_gradient_can_be_computed_again():
    class Again(Capture):
        def around(self, step: Any, inner: Any) -> Outcome:
            super().around(step, Outcome)
            norm, loss = step.gradient_norm(), step.loss
            with torch.no_grad():
                for weight in step.master_weights.weights.values():
                    weight.mul_(self.factor)
            step.backward(record=False)
            assert (step.gradient_norm(), step.loss) == (norm, loss)
            return super().around(step, Outcome)

    for factor in (1.0, 1.5):
        capture = Again()
        capture.factor = factor  # pyright: ignore[reportAttributeAccessIssue]
        run(pair_trainer(updates=lambda _, capture=capture: [capture], dropout=0.2, micro_batch_size=2), 1)
        first, second = capture.gradients
        if factor == 1.0:
            assert_same_bits(first, second)
        else:
            assert distance(first, second) > 1e-3


def test_a_compiled_step_is_proved_on_the_whole_batch():
    """Parts of a batch, in which others' losses are computed to save memory, would compare less."""
    trainer = pair_trainer()
    trainer.model.eval()
    compilation = compile_step(trainer)
    (batch,) = trainer.batches.micro_batches(0)
    reference = _reference(trainer, compilation, batch)
    compilation.undo()
    assert reference is not None
    assert float(reference.exact["the loss"]) == pytest.approx(captured()[1].losses[0], rel=1e-5)


def test_a_resumed_run_is_the_run():
    options: dict[str, Any] = {"dropout": 0.2, "micro_batch_size": 2}
    whole, first, second = (pair_trainer(**options) for _ in range(3))
    run(whole)
    run(first, 1)
    second.restore(first.tensors().__getitem__, first.state())
    run(second)
    assert_same_bits(all_tensors(second), all_tensors(whole))


def test_what_compares_is_told_by_what_it_has():
    assert isinstance(Contrastive(8), ComparingObjective)
    assert not isinstance(Causal(8), ComparingObjective)


def test_a_weight_that_is_not_that_of_the_batches_is_refused():
    class Wrong(Contrastive):
        def compare(self, embeddings: Any, info: Any, *, learning: bool = True) -> Loss:
            return Loss(embeddings.sum(), 3.0)

    with pytest.raises(ValueError, match=r"weight 3\.0 was made of batches of weight 16"):
        run(pair_trainer(objective=Wrong(CONTEXT), micro_batch_size=2), 1)


def as_rank(folder: Path) -> None:
    """What each of two processes does: train, and train again with the second out of memory at two places."""
    from lavra.training.distributed import join_ranks, wait_for_ranks

    distributed = join_ranks(torch.device("cpu"))
    for case, fault in CASES.items():
        with injected(fault if distributed.rank == 1 else ""):
            trainer, capture = captured(steps=None, micro_batch_size=2, distributed=distributed)
        tensors = {"loss": torch.tensor(capture.losses, dtype=torch.float64), "weight": torch.tensor(capture.weights)}
        tensors |= {f"gradient/{name}": value for name, value in capture.gradients[0].items()}
        wait_for_ranks(distributed)
        save_file(tensors | all_tensors(trainer), folder / f"{case}-{distributed.rank}.safetensors")
    torch.distributed.destroy_process_group()


CASES = {"sound": "", "embedding": "step.embed:2:oom", "back": "step.backward:3:oom"}


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    in_two_processes(f"from test_training_comparing import as_rank; as_rank(Path({str(folder)!r}))")
    return folder


@pytest.mark.parametrize("case", CASES)
def test_two_processes_learn_what_one_learns(two_ranks: Path, case: str):
    together, other = (load_file(two_ranks / f"{case}-{rank}.safetensors") for rank in range(2))
    assert_same_bits(together, other)
    _, alone = captured(steps=None)
    assert together["weight"].tolist() == alone.weights
    gradients = {name.removeprefix("gradient/"): value for name, value in together.items() if "gradient/" in name}
    assert distance(gradients, alone.gradients[0]) < 1e-5
    torch.testing.assert_close(together["loss"][:1], torch.tensor(alone.losses[:1]).double(), rtol=1e-5, atol=0)


def test_validation_compares_all_rows_whatever_the_micro_batch():
    model, objective = embedder().eval(), Contrastive(CONTEXT)
    validation = Validation(Pairs(), 8, lambda loss, parts: {})
    found = [validation.measure(model, objective, size, torch.device("cpu")) for size in (1, 3, 8)]
    for other in found[1:]:
        assert other == pytest.approx(found[0], rel=1e-5)
    assert found[0]["loss"] > 0.01
    assert 0 < found[0]["accuracy"] <= 1


# The loss itself.


def compared(rows: list[PairRow], embeddings: torch.Tensor, **options: Any) -> Loss:
    objective = Contrastive(CONTEXT, temperature=0.5, **options)
    batch = objective.encode(rows, None, 0.0)  # pyright: ignore[reportArgumentType]
    loss = objective.compare(embeddings, objective.info(batch))
    assert loss.weight == pytest.approx(batch.weight)
    return loss


def vectors(count: int) -> torch.Tensor:
    return F.normalize(torch.randn(count, 6, generator=torch.Generator().manual_seed(1)), dim=-1)


def words(*ids: int) -> np.ndarray:
    return np.array(ids)


def test_it_is_the_cross_entropy_of_the_partner_in_both_directions():
    rows = [PairRow(0, words(1), words(2), (words(3),)), PairRow(1, words(4), words(5)), PairRow(2, words(6), words(7))]
    given = vectors(7)
    a, p, n = given[[0, 3, 5]], given[[1, 4, 6]], given[[2]]
    forward = F.cross_entropy(a @ torch.cat([p, n]).t() / 0.5, torch.arange(3), reduction="sum")
    backward = F.cross_entropy(p @ a.t() / 0.5, torch.arange(3), reduction="sum")
    loss = compared(rows, given)
    assert float(loss.sum) == pytest.approx(float(forward + backward), rel=1e-5)
    assert loss.weight == 6.0
    one_way = compared(rows, given, symmetric=False)
    assert (float(one_way.sum), one_way.weight) == (pytest.approx(float(forward), rel=1e-5), 3.0)


@pytest.mark.parametrize(
    "copied",
    [
        PairRow(2, words(1), words(9)),  # another answer to the first question
        PairRow(2, words(8), words(2)),  # the first answer, to another question
        PairRow(2, words(1), words(2)),  # the same pair again
    ],
    ids=["anchor", "positive", "pair"],
)
def test_a_copy_is_not_held_against_its_own(copied: PairRow):
    rows, given = [PairRow(0, words(1), words(2)), PairRow(1, words(3), words(4)), copied], vectors(6)
    a, p = given[::2], given[1::2]
    allowed = ~torch.tensor([[False, False, True], [False, False, False], [True, False, False]])
    expected = sum(
        F.cross_entropy((one @ other.t() / 0.5).masked_fill(~allowed, -torch.inf), torch.arange(3), reduction="sum")
        for one, other in ((a, p), (p, a))
    )
    assert float(compared(rows, given).sum) == pytest.approx(float(expected), rel=1e-5)


def test_weights_of_rows_are_honoured_and_a_row_of_weight_zero_is_still_a_negative():
    rows = [PairRow(number, words(2 * number), words(2 * number + 1)) for number in range(3)]
    weighted = [replace(row, weight=weight) for row, weight in zip(rows, (2.0, 0.0, 1.0), strict=True)]
    given = vectors(6).requires_grad_()
    loss = compared(weighted, given)
    single = [compared([replace(row, weight=float(n == m)) for n, row in enumerate(rows)], given) for m in range(3)]
    assert loss.weight == 6.0
    expected = (2 * single[0].sum + single[2].sum).item()
    assert loss.sum.item() == pytest.approx(expected, rel=1e-5)
    assert torch.autograd.grad(loss.sum, given)[0][3].any()


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(InputError, match="not above 0"):
        Contrastive(8, temperature=0.0)
    with pytest.raises(InputError, match="row 5 has a text without tokens"):
        Contrastive(8).encode([PairRow(5, words(1), words())], None, 0.0)  # pyright: ignore[reportArgumentType]


def test_it_learns():
    trainer = pair_trainer(micro_batch_size=2)
    trainer.set_length(12)
    reports = run(trainer)
    assert np.mean([report.loss for report in reports[-3:]]) < reports[0].loss

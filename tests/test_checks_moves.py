"""A step changes every weight that is to learn, and no other: what is planted is named, and nothing else is."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch

import check_contexts
from check_contexts import decoder_check_context, shrunk, stand_in_check_context
from lavra.checks.base import CheckContext, CheckResult
from lavra.checks.moves import check_moves
from lavra.checks.suite import QUICK, run_checks
from lavra.config.choices import OptimizerName
from lavra.data.token_store.prepare import Prepared
from lavra.training.optimizers.optimizers import OptimizerOptions, Optimizers
from lavra.training.updates import Update
from tiny_training import all_tensors, assert_same_bits


@pytest.fixture(scope="module")
def tales(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return check_contexts.corpus("tales", tmp_path_factory.mktemp("tales"))


def result_of(check_context: CheckContext) -> CheckResult:
    (result,) = run_checks(check_context, [(check_moves, 0.0)]).results
    assert result.name == "moves"
    return result


def with_optimizer(check_context: CheckContext, **options: Any) -> CheckContext:
    trainer = check_context.trainer
    trainer.optimizers = Optimizers(trainer.master_weights.weights, OptimizerOptions(**options))
    return check_context


@pytest.mark.parametrize("name", get_args(OptimizerName))
@pytest.mark.parametrize("style", ["gpt2-124m", "lavra-9m"])
def test_nothing_is_found_where_nothing_is_wrong_and_nothing_stays_changed(
    style: str, name: OptimizerName, tales: Prepared
) -> None:
    if name == "adamw-8bit":
        pytest.importorskip("bitsandbytes")
    check_context = with_optimizer(decoder_check_context(shrunk(style), tales), name=name, weight_decay=0.1)
    trainer = check_context.trainer
    before, state = all_tensors(trainer), trainer.state()
    result = result_of(check_context)
    assert result.verdict == "ok", result.measured
    assert result.measured.startswith(f"{len(trainer.master_weights.weights)} trainable tensors changed")
    assert_same_bits(all_tensors(trainer), before)
    assert trainer.state() == state
    decays = {group["weight_decay"] for one in trainer.optimizers.optimizers for group in one.param_groups}
    assert decays - {0.0}


def test_a_weight_that_the_optimiser_does_not_hold_is_named(tales: Prepared) -> None:
    check_context = decoder_check_context(shrunk("tinyllama-1.1b"), tales)
    head = check_context.trainer.master_weights.weights["output.weight"]
    for optimizer in check_context.trainer.optimizers.optimizers:
        for group in optimizer.param_groups:
            group["params"] = [weight for weight in group["params"] if weight is not head]
    result = result_of(check_context)
    assert result.verdict == "fail"
    assert "1 trainable tensors did not change in 8 steps: output.weight" in result.measured
    assert "optimizer" in result.remedy


def test_a_branch_that_is_detached_is_named_although_its_weights_decay(
    tales: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_context = with_optimizer(decoder_check_context(shrunk("gpt2-124m"), tales), name="adamw", weight_decay=0.1)
    module: Any = check_context.module
    mlp = module.blocks[1].mlp
    forward = mlp.forward
    monkeypatch.setattr(mlp, "forward", lambda x: forward(x).detach())
    result = result_of(check_context)
    assert result.verdict == "fail"
    # The norm before the branch feeds nothing else.
    dead = [name for name, _ in check_context.module.named_parameters() if "blocks.1.mlp" in name]
    assert f"{len(dead)} trainable tensors did not change" in result.measured
    assert all(name in result.measured for name in dead[:4])


class Leaking(Update):
    """An update that writes into a weight that is frozen."""

    name = "leaking"

    def __init__(self, weight: torch.nn.Parameter) -> None:
        self.weight = weight

    def around(self, step: Any, inner: Any) -> Any:
        with torch.no_grad():
            self.weight.mul_(1.001)
        return inner()


def test_frozen_weights_stay_and_one_that_does_not_is_named(tales: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(spec: Any, seed: int) -> Any:
        from lavra.models.native.building import build_decoder

        model = build_decoder(spec, seed)
        model.blocks[0].requires_grad_(False)
        return model

    monkeypatch.setattr("lavra.workflows.models.saved_base.build_decoder", build)
    check_context = decoder_check_context(shrunk("gpt2-124m"), tales)
    frozen = [name for name, one in check_context.model.named_parameters() if not one.requires_grad]
    result = result_of(check_context)
    assert result.verdict == "ok"
    assert f"none of {len(frozen)} frozen ones" in result.measured
    module: Any = check_context.module
    weight = module.blocks[0].mlp.up.weight
    check_context.trainer.updates = [*check_context.trainer.updates, Leaking(weight)]
    result = result_of(check_context)
    assert result.verdict == "fail"
    assert "1 frozen tensors changed: blocks.0.mlp.up.weight" in result.measured


@pytest.mark.parametrize("kind", ["encoder", "encoder-decoder"])
def test_other_models_pass(kind: str) -> None:
    if kind == "encoder":
        check_context = stand_in_check_context(check_contexts.Encoder(), check_contexts.MaskedLM(), causal=False)
    else:
        check_context = stand_in_check_context(check_contexts.EncoderDecoder(), check_contexts.Copy(), causal=True)
    assert result_of(check_context).verdict == "ok"


def test_large_matrices_are_updated_in_turn(tales: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lavra.checks.sandbox._PARAMETERS_AT_ONCE", 12_000)
    result = result_of(decoder_check_context(shrunk("lavra-9m"), tales))
    assert result.verdict == "ok", result.measured


def test_it_is_part_of_what_runs_before_a_training() -> None:
    assert check_moves in {check for check, _ in QUICK}

"""A planted wrong kernel, compiled or of the library, is found by the check that is for it, and only then."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from check_contexts import corpus, decoder_check_context, shrunk
from lavra.checks.base import CheckContext
from lavra.checks.kernels import check_compiled, check_kernels
from lavra.data.token_store.prepare import Prepared
from lavra.models.native import attention
from lavra.training.acceleration import compiling
from lavra.training.optimizers import adamw


@pytest.fixture(autouse=True)
def trusting() -> Iterator[None]:
    before = attention._distrusted
    attention._distrusted = frozenset()
    yield
    attention._distrusted = before


@pytest.fixture(scope="module")
def tales(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return corpus("tales", tmp_path_factory.mktemp("tales"))


@pytest.fixture
def check_context(tales: Prepared) -> CheckContext:
    return decoder_check_context(shrunk("lavra-9m"), tales)


def test_right_kernels(check_context: CheckContext):
    (result,) = check_kernels(check_context)
    assert result.verdict == "ok"
    assert result.measured == "attention 'causal', attention 'masked', AdamW"


@pytest.mark.parametrize("way", ["causal", "masked"])
def test_a_wrong_kernel_of_attention(way: str, check_context: CheckContext, monkeypatch: pytest.MonkeyPatch):
    kernel = attention.WAYS[way]
    monkeypatch.setitem(attention.WAYS, way, lambda *given: kernel(*given) * 1.1)
    (result,) = check_kernels(check_context)
    assert result.verdict == "warn"
    assert f"attention '{way}'" in result.measured
    assert "plain" in result.remedy


def test_a_kernel_that_was_given_up(check_context: CheckContext):
    attention.distrust("masked")
    (result,) = check_kernels(check_context)
    assert "attention 'masked' was disabled before" in result.measured


def test_a_wrong_fused_optimizer(check_context: CheckContext, monkeypatch: pytest.MonkeyPatch):
    fused = adamw.fused_update

    def wrong(weights: Any, gradients: Any, states: Any, group: Any) -> None:
        fused(weights, [gradient * 0.9 for gradient in gradients], states, group)

    monkeypatch.setattr(adamw, "fused_update", wrong)
    (result,) = check_kernels(check_context)
    assert result.verdict == "warn"
    assert "AdamW" in result.measured


def planted(fault: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Any], Callable[[], None]]:
    """Return what stands in for compiling: the blocks as they are, and a fault while they count as compiled."""

    def compile_blocks(model: Any) -> Callable[[], None]:
        for block in model.blocks:

            def call(*given: Any, block: Any = block) -> torch.Tensor:
                eager = torch._dynamo.eval_frame._stance.stance == "force_eager"
                return block.forward(*given) if eager else fault(block.forward(*given))

            block._compiled_call_impl = call

        def undo() -> None:
            for block in model.blocks:
                block._compiled_call_impl = None

        return undo

    return compile_blocks


@pytest.mark.parametrize("wrong", [False, True])
def test_a_wrong_compiled_block(wrong: bool, check_context: CheckContext, monkeypatch: pytest.MonkeyPatch):
    fault = (lambda x: torch.cat((x[..., :2] + 0.5, x[..., 2:]), -1)) if wrong else (lambda x: x)
    monkeypatch.setattr(compiling, "compile_blocks", planted(fault))
    monkeypatch.setattr(compiling, "Causal", type(None))
    monkeypatch.setattr(compiling, "add_compiler_flags", lambda flags: None)
    monkeypatch.setattr("lavra.checks.kernels.can_compile", lambda device: True)
    before = {name: weight.clone() for name, weight in check_context.trainer.master_weights.weights.items()}
    objective = check_context.trainer.objective
    (result,) = check_compiled(check_context)
    assert result.verdict == ("warn" if wrong else "ok")
    assert ("the plain step goes on" in result.measured) == wrong
    assert check_context.trainer.compilation is None
    assert check_context.trainer.objective is objective
    assert all(
        torch.equal(before[name], weight) for name, weight in check_context.trainer.master_weights.weights.items()
    )


def test_without_a_compiler_nothing_is_compiled(check_context: CheckContext, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("lavra.checks.kernels.can_compile", lambda device: False)
    (result,) = check_compiled(check_context)
    assert result.verdict == "ok"
    assert "no compiler" in result.measured

"""Checks of kernels: compiled and fused implementations compute what the plain implementation computes."""

from __future__ import annotations

import torch
from torch import nn

from lavra.checks.base import CheckContext, CheckResult
from lavra.checks.sandbox import restored, train_on
from lavra.models.native.attention import Way, distrusted_ways, takes_documents, wrong_way
from lavra.models.native.attention_masks import attention_mask
from lavra.models.native.decoder import Decoder
from lavra.training.acceleration.compiling import EAGER, can_compile, compile_step
from lavra.training.acceleration.proof import in_words, name_of, take_first_right_way
from lavra.training.optimizers.adamw import AdamW, wrong_update

_FAR = "an error against fp32 at most twice that of the plain implementation"


def check_kernels(check_context: CheckContext) -> list[CheckResult]:
    """Compare the kernels of attention (forward and backward) and of the optimiser with plain implementations.

    Args:
        check_context: Training set-up to check.

    Returns:
        One result; `warn` if a kernel is wrong on this machine, since the plain implementation replaces it.
    """
    found = _attention(check_context) | _optimizer(check_context)
    faults = [f"{name}: {wrong}" for name, wrong in found.items() if wrong]
    given_up = {f"attention '{way}'" for way in distrusted_ways()} - {name for name, wrong in found.items() if wrong}
    faults += [f"{name} was disabled before" for name in sorted(given_up)]
    measured = "; ".join(faults) or (", ".join(found) or "no kernel that lavra chooses is used")
    remedy = (
        "the plain implementation is used instead, which is slower: another version of torch or of the driver may help"
    )
    return [CheckResult("kernels", "warn" if faults else "ok", measured, _FAR, remedy if faults else "")]


def _attention(check_context: CheckContext) -> dict[str, str | None]:
    """Return what is wrong with each attention kernel (None for nothing), on random heads."""
    model, batch = check_context.model, check_context.encoded
    if not isinstance(model, Decoder):
        return {}
    spec, dtype = model.spec, model.embedding.weight.dtype
    rows, length = batch.inputs.shape
    generator = torch.Generator("cpu").manual_seed(0)

    def drawn(heads: int) -> torch.Tensor:
        shape = rows, heads, length, spec.size_of_head
        return torch.randn(shape, generator=generator, device="cpu").to(batch.inputs.device, dtype)

    queries, keys, values = drawn(spec.heads), drawn(spec.key_value_heads), drawn(spec.key_value_heads)
    document_ids = batch.document_ids
    masks: dict[Way, torch.Tensor | None] = {"causal" if spec.causal else "whole": None}
    if document_ids is not None:
        masks["masked"] = document_ids
        if takes_documents(batch.inputs.device, dtype, spec.size_of_head):
            masks["documents"] = document_ids
    return {
        f"attention '{way}'": wrong_way(
            way,
            queries,
            keys,
            values,
            attention_mask(given, length, None, batch.bounds if way == "documents" else None, causal=spec.causal),
        )
        for way, given in masks.items()
    }


def _optimizer(check_context: CheckContext) -> dict[str, str | None]:
    """Return what is wrong with the fused AdamW update (None for nothing), on random gradients of one weight."""
    generator = torch.Generator("cpu").manual_seed(1)
    for optimizer in check_context.trainer.optimizers.optimizers:
        if not isinstance(optimizer, AdamW):
            continue
        group = next(group for group in optimizer.param_groups if group["params"])
        weights = [weight.detach().clone() for weight in group["params"][:1]]
        for weight in weights:
            drawn = torch.randn(weight.shape, generator=generator, device="cpu")
            weight.grad = drawn.to(weight.device, weight.dtype)
        states = [
            {"step": torch.ones((), device=weight.device), "exp_avg": weight * 0, "exp_avg_sq": weight * 0}
            for weight in weights
        ]
        return {"AdamW": wrong_update(weights, states, group)}
    return {}


def check_compiled(check_context: CheckContext) -> list[CheckResult]:
    """Compile a training step, and compare its loss and gradients with those of the plain step.

    Args:
        check_context: Training set-up to check.

    Returns:
        One result; `warn` if the compiled step is wrong, since training then uses another one.
    """
    trainer, name = check_context.trainer, "compiled"
    blocks = getattr(check_context.model, "blocks", None)
    if not isinstance(blocks, nn.ModuleList) or not len(blocks):
        return [CheckResult(name, "ok", "no part of this model is compiled", _FAR)]
    if not can_compile(trainer.device):
        return [CheckResult(name, "ok", "there is no compiler on this machine, so nothing is compiled", _FAR)]
    if trainer.compilation is not None and trainer.compilation.flags != EAGER:
        trainer.compilation.undo()
    with restored(trainer):
        train_on(trainer, check_context.objective, [[check_context.encoded]])
        compilation = compile_step(trainer)
        try:
            faults = take_first_right_way(trainer, check_context.encoded).faults
            way = compilation.flags
        finally:
            compilation.undo()
            trainer.compilation = None
    if not faults:
        return [CheckResult(name, "ok", "loss and gradients agree with those of the plain step", _FAR)]
    told = "; ".join(f"{name_of(wrong)}, {fault.told}" for wrong, fault in faults.items())
    remedy = "training detects this by itself and stays correct; another version of the C++ compiler may be faster"
    return [CheckResult(name, "warn", f"{told}; {in_words(way)}", _FAR, remedy)]

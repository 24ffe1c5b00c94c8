"""What becomes of a model layer by layer: norms of weights, gradients, updates and activations, from time to time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from lavra.core.machine import is_out_of_memory, release_memory
from lavra.models.hf.attention import watching_wrapped_scores
from lavra.models.native.attention import watching_scores
from lavra.models.parameter_names import block_of
from lavra.models.protocols import Batch, eval_mode
from lavra.training.acceleration.compiling import CompilableLearner
from lavra.training.step import Step
from lavra.training.updates.base import Inner, Outcome, Update

MOST_TOKENS = 1024
"""Tokens on which activations are measured: a small part of a step. Of a longer sequence the beginning is read."""

HISTOGRAM = (-30, 10)
"""Exponents of 2 of the lowest and the highest bin of a histogram of sizes; the outer bins hold all beyond them."""


class Stability(Update):
    """Update that measures every tensor and every block in some steps, and leaves the step as it is, to the bit.

    A record holds for each tensor of the master weights `weight`, the root mean square of its elements, `gradient`, the
    L2 norm of its gradient before any update has changed it, and `update`, the norm of its change divided by its own.
    For each block it holds `activation`, the root mean square of its output, `activation_max`, the largest of these
    numbers, and `attention_logit`, the largest score before the softmax, where the attention can be watched. These are
    measured after the step without dropout, on some sequences of its first micro-batch.

    Args:
        trainer: Trainer whose model is measured.
        every: Steps between two records; 0 for none.
        record: Function that takes a record: `step`, `applied`, `tensors`, `layers` and perhaps `histograms`.
        histograms: Whether a record holds histograms of the sizes, too: counts of elements by power of two.
        report: Function that takes a line about what could not be measured.
    """

    name = "stability"
    observes = True

    def __init__(
        self,
        trainer: CompilableLearner,
        every: int,
        record: Callable[[dict[str, Any]], None],
        *,
        histograms: bool = False,
        report: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.trainer, self.every, self.record, self.histograms, self.report = trainer, every, record, histograms, report
        self._unmeasured: str | None = None

    def around(self, step: Step, inner: Inner) -> Outcome:
        """Perform the step, measure before and after it if a record is due, and return the outcome."""
        # Not in the first step, in which most of what starts at zero does not move yet.
        if not self.every or (self.every > 1 and step.number % self.every != 1):
            return inner()
        weights = step.master_weights.weights
        names = list(weights)
        before = [weight.detach().clone() for weight in weights.values()]
        gradients = {name: weight.grad for name, weight in weights.items() if weight.grad is not None}
        norms = dict(zip(gradients, _norms(list(gradients.values())), strict=True))
        histograms = {f"gradient {name}": _histogram(one) for name, one in gradients.items()} if self.histograms else {}
        outcome = inner()
        with torch.no_grad():
            sizes = _norms(before)
            moved = _norms(torch._foreach_sub(list(weights.values()), before))
        tensors = {
            name: {
                "weight": size / math.sqrt(weights[name].numel()),
                "gradient": norms.get(name, 0.0),
                "update": change / size if size else 0.0,
            }
            for name, size, change in zip(names, sizes, moved, strict=True)
        }
        if self.histograms:
            histograms |= {f"weight {name}": _histogram(one) for name, one in zip(names, before, strict=True)}
        del before
        layers, of_activations = self._layers(step)
        found: dict[str, Any] = {"step": step.number + 1, "applied": outcome.applied, "tensors": _rounded(tensors)}
        found["layers"] = _rounded(layers)
        if self.histograms:
            found["histograms"] = histograms | of_activations
        self.record(found)
        return outcome

    def _layers(self, step: Step) -> tuple[dict[str, dict[str, float]], dict[str, list[int]]]:
        """Return what is measured of each block, and the histograms of the outputs of the blocks."""
        if self._unmeasured is not None:
            return {}, {}
        batch = step.micro_batches[0]
        rows = max(1, min(batch.inputs.shape[0], MOST_TOKENS // batch.inputs.shape[1]))
        try:
            return self._measure(_beginning(batch.take(slice(0, rows))).to(step.device))
        except Exception as error:  # a report never ends a run
            if isinstance(error, RuntimeError | MemoryError) and is_out_of_memory(error):
                release_memory(error)
            self._unmeasured = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
            self.report(f"stability: the activations of this model are not measured ({self._unmeasured})")
            return {}, {}

    def _measure(self, batch: Batch) -> tuple[dict[str, dict[str, float]], dict[str, list[int]]]:
        model: Any = self.trainer.model
        compilation, watch = self.trainer.compilation, _Watch(blocks_of(model))
        with ExitStack() as stack:
            stack.enter_context(nullcontext() if compilation is None else compilation.eagerly())
            stack.enter_context(eval_mode(model))
            stack.enter_context(torch.no_grad())
            stack.enter_context(watch)
            stack.enter_context(watching_scores(watch.see))
            stack.enter_context(watching_wrapped_scores(watch.see))
            model.features(batch)
        layers: dict[str, dict[str, float]] = {}
        for name, output in watch.outputs.items():
            wide = output.float()
            layers[name] = {"activation": float(wide.square().mean().sqrt()), "activation_max": float(wide.abs().max())}
            if name in watch.scores:
                layers[name]["attention_logit"] = watch.scores[name]
        outputs = watch.outputs.items() if self.histograms else ()
        return layers, {f"activation {name}": _histogram(output) for name, output in outputs}


def _beginning(batch: Batch) -> Batch:
    """Return the first `MOST_TOKENS` positions of a batch, since the scores of attention are held at once."""
    if batch.inputs.shape[1] <= MOST_TOKENS and all(part.shape[-1] <= MOST_TOKENS for part in _texts(batch)):
        return batch
    here = slice(0, MOST_TOKENS)
    return replace(
        batch,
        inputs=batch.inputs[:, here],
        targets=batch.targets[:, here],
        document_ids=None if batch.document_ids is None else batch.document_ids[:, here],
        positions=None if batch.positions is None else batch.positions[:, here],
        weights=None if batch.weights is None else batch.weights[:, here],
        model_inputs={name: one[:, here] if one.dim() == 2 else one for name, one in batch.model_inputs.items()},
    )


def _texts(batch: Batch) -> list[torch.Tensor]:
    return [part for part in batch.model_inputs.values() if part.dim() == 2]


class _Watch:
    """Context manager that keeps the output of each block and the largest score of its attentions.

    Args:
        blocks: Blocks of the model by name.

    Attributes:
        outputs: Output of each block by its name.
        scores: Largest score of each block's attentions by its name.
    """

    def __init__(self, blocks: dict[str, nn.Module]) -> None:
        self.blocks, self.outputs, self.scores = blocks, dict[str, torch.Tensor](), dict[str, float]()
        self._within: str | None = None
        self._handles: list[Any] = []

    def __enter__(self) -> None:
        for name, block in self.blocks.items():
            self._handles.append(block.register_forward_pre_hook(partial(self._enter, name)))
            self._handles.append(block.register_forward_hook(partial(self._leave, name)))

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def see(self, score: torch.Tensor) -> None:
        """Take the largest score of an attention, which belongs to the block that is being computed."""
        if self._within is not None:
            self.scores[self._within] = max(float(score), self.scores.get(self._within, -math.inf))

    def _enter(self, name: str, _module: nn.Module, _given: Any) -> None:
        self._within = name

    def _leave(self, name: str, _module: nn.Module, _given: Any, output: Any) -> None:
        self.outputs[name], self._within = (output[0] if isinstance(output, tuple) else output).detach(), None


def blocks_of(model: nn.Module) -> dict[str, nn.Module]:
    """Return the blocks of a model by name, in the order of the model.

    Args:
        model: Our decoder or a wrapped model.
    """
    places = filter(None, (block_of(name) for name, _ in model.named_parameters()))
    return {name: model.get_submodule(name) for name in dict.fromkeys(f"{stack}.{number}" for stack, number in places)}


def _norms(tensors: Sequence[torch.Tensor]) -> list[float]:
    """Return the L2 norm of each tensor, with one transfer from the device for all of them."""
    return torch.stack(torch._foreach_norm(list(tensors))).tolist() if tensors else []


def _histogram(tensor: torch.Tensor) -> list[int]:
    """Return how many elements have a size of 2 to the power of each exponent in `HISTOGRAM`; zeros are in the lowest
    bin."""
    low, high = HISTOGRAM
    exponents = tensor.detach().float().abs().log2().floor().nan_to_num(high, high, low).clamp_(low, high)
    return torch.bincount((exponents.flatten() - low).long(), minlength=high - low + 1).tolist()


def _rounded(values: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Return the numbers with five digits, which is all that a report shows."""
    return {name: {key: float(f"{one:.5g}") for key, one in part.items()} for name, part in values.items()}

"""Floating-point operations of a training step: from a decoder's specification, or counted operation by operation."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from lavra.models.contract import Batch
from lavra.models.native.decoder import count_parameters
from lavra.models.spec import GATED, DecoderSpec
from lavra.planning.machine.dry_run import bare_model, fake_tensors
from lavra.planning.machine.memory import LiveMemory


def matrix_parameters(spec: DecoderSpec) -> int:
    """Return the parameters that take part in matrix products: the blocks' matrices, the head, and what leads to it."""
    head, kv = spec.size_of_head, spec.key_value_heads
    attention = spec.width * head * (spec.heads + 2 * kv) + spec.heads * head * spec.width
    mlp = spec.width * spec.hidden_width * (3 if spec.activation in GATED else 2)
    embedding = spec.size_of_embedding
    projections = 2 * spec.width * embedding if embedding != spec.width else 0
    return spec.depth * (attention + mlp) + projections + embedding * spec.padded_vocabulary


def training_flops_per_token(spec: DecoderSpec, length: int | None = None) -> float:
    """Return FLOPs per token of a forward and backward pass: 6 per matrix parameter, and attention's products.

    Attention counts all length x length scores, as PaLM's appendix B does (arXiv 2204.02311), although a causal kernel
    may skip half of them.

    Args:
        spec: the decoder.
        length: of the window; the specification's context by default.
    """
    length = spec.context if length is None else length
    attention = 12.0 * spec.depth * spec.heads * spec.size_of_head * length
    return 6.0 * matrix_parameters(spec) + attention


@dataclass(frozen=True)
class FlopCount:
    """FLOPs per token of a forward and a backward pass.

    Attributes:
        parameters: of the model, shared ones counted once.
        exact: FLOPs per token, counted; attention's scores in full.
        context: tokens of the window that was counted.
    """

    parameters: int
    exact: float
    context: int

    @property
    def rule(self) -> float:
        """6·N (Kaplan et al. 2020, arXiv 2001.08361), N in three digits: a rule for the back of an envelope."""
        return 6.0 * float(f"{self.parameters:.3g}")

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self) | {"rule": self.rule}


def count_flops(model: DecoderSpec | Path, context: int) -> FlopCount:
    """Count a training step of one window.

    Args:
        model: the shape of our decoder, or a Hugging Face folder with a `config.json`.
        context: tokens of the window.

    Raises:
        InputError: if the folder holds no configuration of a language model.
    """
    from torch.utils.flop_counter import FlopCounterMode

    from lavra.objectives.causal import Causal

    with ExitStack() as stack:
        if isinstance(model, DecoderSpec):
            stack.enter_context(torch.device("meta"))
        else:  # models of transformers ask tensors for numbers, which meta tensors refuse
            stack.enter_context(fake_tensors())
            stack.enter_context(LiveMemory(fake=True))
        network: Any = bare_model(model, "eager")
        tokens = torch.zeros(1, context, dtype=torch.int64)
        batch = Batch(tokens, tokens, weight=float(context))
        with FlopCounterMode(display=False) as counter:
            Causal(context, isolate=False).loss(network, batch).sum.backward()
    return FlopCount(count_parameters(network), counter.get_total_flops() / context, context)

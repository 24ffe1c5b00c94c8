"""FLOPs of a training step counted operation by operation, on the meta device, where nothing is computed."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from lavra.models.batch import Batch
from lavra.models.decoder import count_parameters
from lavra.models.spec import DecoderSpec
from lavra.planning.live_memory import LiveMemory
from lavra.planning.rehearsal import bare_model, fake_tensors


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

"""The proof that a model with the head of a task and an exported Hugging Face folder are the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lavra.models.certificate import TOLERANCE, Proof, reference_outputs
from lavra.models.heads import head_of
from lavra.models.native.decoder import Decoder
from lavra.models.protocols import IGNORED, Batch, device_of, eval_mode

if TYPE_CHECKING:
    from lavra.models.hf.model import HFModel


@dataclass(frozen=True)
class HeadCertificate(Proof):
    """The result of comparing a model with a head and a Hugging Face folder.

    Attributes:
        architecture: Name of the class that `transformers` opened.
        tokens: Number of tokens that were read.
        largest_difference: Largest absolute difference between two outputs of the head.
        largest_output: Largest absolute value of an output.
        same_prediction: Share of the predictions (a class, or the ends of a span) whose highest output is the same one.
        missing: Names of tensors that `transformers` expected and the folder lacks.
        unexpected: Names of tensors of the folder that `transformers` did not use.
        transformers: Version of `transformers`.
        torch: Version of torch.
        lost: Settings beside the weights that the folder states differently from the source of the model.
        allowed: Largest difference that is allowed, relative to the largest output where that is above 1.
    """

    architecture: str
    tokens: int
    largest_difference: float
    largest_output: float
    same_prediction: float
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    transformers: str
    torch: str
    lost: tuple[str, ...] = ()
    allowed: float = TOLERANCE

    @property
    def tolerance(self) -> float:
        """Largest difference between two outputs that is allowed."""
        return self.allowed * max(1.0, self.largest_output)

    @property
    def holds(self) -> bool:
        """Whether both are the same model: outputs within the tolerance, nothing missing or lost."""
        return self.complete and self.largest_difference <= self.tolerance

    def __str__(self) -> str:
        return (
            f"certificate: {self.verdict} in transformers {self.transformers} ({self.architecture})\n"
            f"  the outputs of its head for {self.tokens} tokens differ by at most {self.largest_difference:.2e} "
            f"(allowed {self.tolerance:.2e}); same prediction in {self.same_prediction:.2%}{self.lacks}"
        )


def certify_head(
    model: Decoder | HFModel, folder: Path, windows: Sequence[Sequence[int]], kind: str
) -> HeadCertificate:
    """Compare a model and its head with a Hugging Face folder that `transformers` opens in a fresh process.

    Args:
        model: The model with its head. It computes in its own precision.
        folder: Hugging Face folder. Its model computes in float32.
        windows: Token ids of each window, at most as many as the context of the model.
        kind: Kind of the head, see `lavra.models.reference.AUTOMATIC`.

    Raises:
        LavraError: If the other process fails; the message has the last line of its output.
    """
    theirs, found = reference_outputs(folder, kind, windows)
    ours = _outputs(model, windows)
    # A span is chosen among the tokens of a window, and a class among the outputs of a token.
    sizes = [len(window) for window in windows]
    pairs = zip(ours.split(sizes), theirs.split(sizes), strict=True) if kind == "span" else [(ours.T, theirs.T)]
    same = torch.cat([one.argmax(0) == other.argmax(0) for one, other in pairs])
    return HeadCertificate(
        architecture=found["architecture"],
        tokens=sum(sizes),
        largest_difference=float((ours - theirs).abs().max()),
        largest_output=float(theirs.abs().max()),
        same_prediction=float(same.float().mean()),
        missing=tuple(found["missing"]),
        unexpected=tuple(found["unexpected"]),
        transformers=found["transformers"],
        torch=found["torch"],
    )


OF_TEXTS = 1e-4
"""Largest difference allowed between two outputs for a text: what passes through a tanh on the way loses some digits,
see `lavra.workflows.export.sequence_forms`."""


def certify_texts(ours: torch.Tensor, folder: Path, texts: Sequence[Sequence[str]], tokens: int) -> HeadCertificate:
    """Compare the outputs of a model for texts with a folder that `transformers` opens in a fresh process.

    The other process reads the texts themselves: its tokenizer, padding and choice of the token are compared, too.

    Args:
        ours: Outputs of the model, in the units that the folder states, (texts, outputs).
        folder: Hugging Face folder. Its model computes in float32.
        texts: Each text, or the two texts of each pair.
        tokens: Number of tokens of the texts.

    Raises:
        LavraError: If the other process fails; the message has the last line of its output.
    """
    theirs, found = reference_outputs(folder, "sequence", [[0]], texts=texts)
    several = ours.shape[1] > 1
    same = (ours.argmax(1) == theirs.argmax(1)) if several else torch.isclose(ours[:, 0], theirs[:, 0], rtol=OF_TEXTS)
    return HeadCertificate(
        architecture=found["architecture"],
        tokens=tokens,
        largest_difference=float((ours - theirs).abs().max()),
        largest_output=float(theirs.abs().max()),
        same_prediction=float(same.float().mean()),
        missing=tuple(found["missing"]),
        unexpected=tuple(found["unexpected"]),
        transformers=found["transformers"],
        torch=found["torch"],
        allowed=OF_TEXTS,
    )


def _outputs(model: Decoder | HFModel, windows: Sequence[Sequence[int]]) -> torch.Tensor:
    """Return the outputs of the head for all windows, one after the other, (tokens or windows, outputs)."""
    device = device_of(model)
    rows = []
    with eval_mode(model), torch.no_grad():
        for window in windows:
            inputs = torch.tensor([list(window)])
            batch = Batch(inputs, torch.full_like(inputs, IGNORED)).to(device)
            outputs = head_of(model)(model.features(batch), batch)
            rows.append(outputs.reshape(-1, outputs.shape[-1]).float().cpu())
    return torch.cat(rows)

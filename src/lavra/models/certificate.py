"""The proof that a model and an exported Hugging Face folder are the same: both compute logits for the same text."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import torch
from torch.nn import functional as F

from lavra.core.disk.files import read_json
from lavra.core.disk.scratch import scratch_folder
from lavra.core.errors import LavraError
from lavra.core.units import perplexity_of
from lavra.models import reference
from lavra.models.native.decoder import Decoder
from lavra.models.protocols import IGNORED, Batch, device_of, eval_mode

if TYPE_CHECKING:
    from lavra.models.hf.model import HFModel

FILE = "certificate.json"
"""Name of the certificate's file in an exported folder."""

TOLERANCE = 1e-5
"""Largest difference allowed between two logits, relative to the largest logit where that is above 1. Float32 differs
by about as much when two programs add the same numbers in another order."""

_PADDING = -1
"""Id that marks padding until the mask is made."""


class Proof:
    """What certificates share: a dataclass of what was compared, with the names of what is missing on either side."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    lost: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether nothing is missing, unused or lost."""
        return not self.missing and not self.unexpected and not self.lost

    @property
    def holds(self) -> bool:
        """Whether both are the same model."""
        raise NotImplementedError

    @property
    def tolerance(self) -> float:
        """Largest difference that is allowed."""
        raise NotImplementedError

    @property
    def verdict(self) -> str:
        """Whether both are the same model, in words."""
        return "the same model" if self.holds else "NOT the same model"

    @property
    def lacks(self) -> str:
        """What is missing, unused or lost, a line each; empty where nothing is."""
        lists = (
            ("missing tensors", self.missing),
            ("unused tensors", self.unexpected),
            ("not carried over", self.lost),
        )
        return "".join(f"\n  {what}: {', '.join(names)}" for what, names in lists if names)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object with the fields as named here, for `certificate.json`."""
        return {"holds": self.holds, "tolerance": self.tolerance, **asdict(cast("Any", self))}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Return the certificate that `to_json` wrote.

        Args:
            values: JSON object of a certificate.
        """
        found = {field.name: values[field.name] for field in fields(cast("Any", cls))}
        lists = {name: tuple(found[name]) for name in ("missing", "unexpected", "lost")}
        return cls(**{**found, **lists})


@dataclass(frozen=True)
class Certificate(Proof):
    """The result of comparing a model with a Hugging Face folder.

    Attributes:
        architecture: Name of the class that `transformers` opened.
        tokens: Number of tokens that were compared, each with a logit for every id of the vocabulary.
        largest_difference: Largest absolute difference between two logits of the same token and id.
        largest_logit: Largest absolute value of a logit.
        same_next_token: Share of tokens after which both models give the same id the highest probability.
        perplexity: Perplexity of the text by lavra. For a decoder it covers the tokens after the first of each window;
            for an encoder, which sees the text unmasked, each token at its own place; for an encoder-decoder, the text
            that it writes.
        transformers_perplexity: Perplexity of the same tokens by `transformers`.
        tied: Whether the head should share the weight of the embedding.
        transformers_tied: Whether it does so in the model that `transformers` opened.
        tied_by_config: Whether the folder's config.json says so.
        missing: Names of tensors that `transformers` expected and the folder lacks.
        unexpected: Names of tensors of the folder that `transformers` did not use.
        transformers: Version of `transformers`.
        torch: Version of torch.
        lost: Settings beside the weights that the folder states differently from the source of the model: its chat
            template, special tokens and settings of generation.
    """

    architecture: str
    tokens: int
    largest_difference: float
    largest_logit: float
    same_next_token: float
    perplexity: float
    transformers_perplexity: float
    tied: bool
    transformers_tied: bool
    tied_by_config: bool
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    transformers: str
    torch: str
    lost: tuple[str, ...] = ()

    @property
    def tolerance(self) -> float:
        """Largest difference between two logits that is allowed."""
        return TOLERANCE * max(1.0, self.largest_logit)

    @property
    def holds(self) -> bool:
        """Whether both are the same model: logits within the tolerance, equal ties, nothing missing or lost."""
        return self.complete and self.tied == self.transformers_tied and self.largest_difference <= self.tolerance

    def __str__(self) -> str:
        ties = f"head tied: {_yes(self.tied)}, in transformers: {_yes(self.transformers_tied)}"
        return (
            f"certificate: {self.verdict} in transformers {self.transformers} ({self.architecture})\n"
            f"  logits of {self.tokens} tokens differ by at most {self.largest_difference:.2e} "
            f"(allowed {self.tolerance:.2e}); perplexity {self.perplexity:.6g} here, "
            f"{self.transformers_perplexity:.6g} there; same next token in {self.same_next_token:.2%}\n"
            f"  {ties}{self.lacks}"
        )


def certify(
    model: Decoder | HFModel,
    folder: Path,
    windows: Sequence[Sequence[int]],
    *,
    sources: Sequence[Sequence[int]] = (),
    tied: bool | None = None,
) -> Certificate:
    """Compare a model with a Hugging Face folder that `transformers` opens in a fresh process.

    Args:
        model: Decoder of our own, or a model of `transformers` of any kind. It computes in its own precision.
        folder: Hugging Face folder. Its model computes in float32.
        windows: Token ids of each window, at least two and at most as many as the context of the model.
        sources: For an encoder-decoder, the source that its encoder reads for each window.
        tied: Whether the head in the folder should share the weight of the embedding; None expects the same as in the
            model.

    Raises:
        LavraError: If the other process fails; the message has the last line of its output.
    """
    kind = model.kind
    theirs, found = reference_outputs(folder, kind, windows, sources)
    ours = _logits(model, windows, sources)
    targets, counted = _targets(windows, kind)
    if tied is None:
        tied = model.tied
    return Certificate(
        architecture=found["architecture"],
        tokens=len(ours),
        largest_difference=float((ours - theirs).abs().max()),
        largest_logit=float(theirs.abs().max()),
        same_next_token=float((ours.argmax(-1) == theirs.argmax(-1)).float().mean()),
        perplexity=_perplexity(ours[counted], targets[counted]),
        transformers_perplexity=_perplexity(theirs[counted], targets[counted]),
        tied=tied,
        transformers_tied=found["tied"],
        tied_by_config=found["tied_by_config"],
        missing=tuple(found["missing"]),
        unexpected=tuple(found["unexpected"]),
        transformers=found["transformers"],
        torch=found["torch"],
    )


def reference_outputs(
    folder: Path,
    kind: str,
    windows: Sequence[Sequence[int]],
    sources: Sequence[Sequence[int]] = (),
    texts: Sequence[Sequence[str]] = (),
) -> tuple[torch.Tensor, dict[str, Any]]:
    """Return what `transformers` computes for windows in a fresh process, in float32, and what it found in the folder.

    Args:
        folder: Hugging Face folder.
        kind: Kind of the model, or of the head that it has: one of those of `lavra.models.reference`.
        windows: Token ids of each window.
        sources: For an encoder-decoder, the source that its encoder reads for each window.
        texts: For the labels of texts, each text, or the two texts of each pair, which the tokenizer of the folder
            encodes in place of windows.

    Returns:
        The (tokens, outputs) logits of all windows one after the other, or those of texts, (texts, outputs), and the
        findings as plain values.

    Raises:
        LavraError: If the other process fails; the message has the last line of its output.
    """
    from safetensors.torch import load_file, save_file

    with scratch_folder() as temporary:
        tokens, out = Path(temporary) / "tokens.safetensors", Path(temporary) / "logits.safetensors"
        request = _rows(windows, "") | (_rows(sources, "source_") if sources else {})
        save_file(request, tokens, metadata={"kind": kind, "texts": json.dumps([list(one) for one in texts])})
        command = [sys.executable, "-P", str(reference.__file__), str(folder.resolve()), str(tokens), str(out)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:] or ["it ended without a word"]
            raise LavraError(
                f"transformers could not run the model in {folder}: {last[0]}", "report this with the model"
            )
        return load_file(out)["logits"], read_json(Path(f"{out}.json"))


def _rows(windows: Sequence[Sequence[int]], prefix: str) -> dict[str, torch.Tensor]:
    """Return the ids of all windows, padded to (windows, length), and an equally large mask of those not padding."""
    ids = torch.full((len(windows), max(map(len, windows))), _PADDING)
    for row, window in zip(ids, windows, strict=True):
        row[: len(window)] = torch.tensor(list(window))
    attention_mask = ids != _PADDING
    return {f"{prefix}ids": ids.clamp(min=0), f"{prefix}attention_mask": attention_mask.to(torch.uint8)}


def _logits(
    model: Decoder | HFModel, windows: Sequence[Sequence[int]], sources: Sequence[Sequence[int]]
) -> torch.Tensor:
    device = device_of(model)
    rows = []
    with eval_mode(model), torch.no_grad():
        for number, window in enumerate(windows):
            ids, extra = list(window), {}
            if sources:
                ids, extra = (
                    cast("Any", model).decoder_inputs(ids),
                    {"encoder_inputs": torch.tensor([list(sources[number])])},
                )
            inputs = torch.tensor([ids])
            batch = Batch(inputs, torch.full_like(inputs, IGNORED), model_inputs=extra)
            rows.append(model.head(model.features(batch.to(device)))[0].float().cpu())
    return torch.cat(rows)


def _targets(windows: Sequence[Sequence[int]], kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the target id at each position, and at which positions there is a target."""
    if kind != "decoder":
        own = torch.cat([torch.tensor(list(window)) for window in windows])
        return own, torch.ones_like(own, dtype=torch.bool)
    following = torch.cat([torch.tensor([*window[1:], 0]) for window in windows])
    counted = torch.cat([torch.arange(len(window)) < len(window) - 1 for window in windows])
    return following, counted


def _perplexity(logits: torch.Tensor, targets: torch.Tensor) -> float:
    return perplexity_of(float(F.cross_entropy(logits.double(), targets)))


def _yes(value: bool) -> str:
    return "yes" if value else "no"


SENTENCES = (
    "Era uma vez uma aldeia à beira do rio, onde ninguém sabia ler. Um dia chegou um homem com uma arca cheia de "
    "livros, e as crianças, que nunca tinham visto tantas letras juntas, não o deixaram ir embora. Ficou para o "
    "inverno, disse ele; mas na primavera já havia uma escola, e na escola uma janela de onde se via a água passar.",
    "Once upon a time there was a little girl named Lily who lived near the sea. She loved to play outside in the "
    "park, and every morning she ran down the hill to look for shells. One day she found a small green bottle. There "
    "was a letter in it, but the ink had run, and only one word could still be read: tomorrow.",
    "O artigo 5.º garante a todos o direito de resposta. Em 1988 foram 245 artigos; hoje, com as emendas, são mais de "
    "250. def area(raio): return 3.14159 * raio ** 2  # quanto mede um círculo",
)
"""Texts on which two programs are compared: Portuguese, English, and a mixture with numbers and code."""

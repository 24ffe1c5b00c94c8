"""How well a model fills in what is missing of a text: the likelihood of middles, and words that it restores exactly.

Each text is cut twice. A middle between two random places gives bits per byte, beside those of the same middle from the
text before it alone (from left to right, or without a text after the gap by a model that learned to fill in hidden
spans): the difference is what the model gains from reading on. A single word is restored exactly where
each of its tokens, and the end after them, is the likeliest; that is what greedy generation would write.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lavra.core.progress import Progress
from lavra.core.seeds import numpy_stream
from lavra.core.units import counted
from lavra.evaluation.intervals import Estimate, ratio_estimates
from lavra.generation.infilling import can_infill
from lavra.models.protocols import IGNORED, PREFIX, Batch, device_of, eval_mode, logit_cap_of
from lavra.objectives.cross_entropy import chunk_logits, token_losses
from lavra.objectives.denoise.fim import Cutter, Sections, infilled
from lavra.objectives.denoise.layouts import Laid, encoder_and_decoder, left_to_right, one_sequence
from lavra.objectives.denoise.marks import MODES, infilling_of, sentinels_of
from lavra.objectives.denoise.rows import encoder_side

if TYPE_CHECKING:
    from lavra.data.tokenizers.tokenizer import Tokenizer
    from lavra.models.protocols import Model

_SPARE = 24
"""Tokens of the context that are kept free for marks and for the tokens of words that are cut."""

_ROWS = 16
"""Texts that are computed together."""

_WORD = re.compile(r"[^\W\d_]{3,}")


@dataclass(frozen=True)
class InfillingResult:
    """How well middles are filled in.

    Attributes:
        bits_per_byte: Bits per byte of random middles, from the texts on both sides.
        without_suffix: Bits per byte of the same middles from the text before alone.
        exact_match: Share of single words that are restored exactly.
        documents: Number of texts.
    """

    bits_per_byte: Estimate
    without_suffix: Estimate
    exact_match: Estimate
    documents: int

    def to_json(self) -> dict[str, Any]:
        """Return the figures as plain values."""
        return {
            "bits_per_byte": self.bits_per_byte.to_json(),
            "without_suffix_bits_per_byte": self.without_suffix.to_json(),
            "exact_match": self.exact_match.to_json(),
            "documents": self.documents,
        }

    def table(self) -> str:
        """Return the figures as plain text."""
        lines = [f"infilling, on {counted(self.documents, 'text')}; in brackets, 95 % intervals over texts"]
        for name, one in (
            ("middle, bits per byte", self.bits_per_byte),
            ("the same without what follows", self.without_suffix),
            ("words restored exactly", self.exact_match),
        ):
            interval = "" if one.low is None else f"  [{one.low:.4g}, {one.high:.4g}]"
            lines.append(f"  {name:<31}{one.value:.4g}{interval}")
        return "\n".join(lines)


def infilling(
    model: Model,
    tokenizer: Tokenizer,
    texts: Iterable[str],
    *,
    context: int | None = None,
    documents: int = 200,
    seed: int = 0,
) -> InfillingResult | None:
    """Measure how well a decoder or an encoder-decoder fills in middles.

    Args:
        model: The model. It is put into evaluation mode and back.
        tokenizer: Tokenizer of the model.
        texts: Texts to measure on, of which a random sample is taken; the beginning of each is used, as far as it fits
            the context.
        context: Most tokens of a text; None takes the context of the model.
        documents: Most texts.
        seed: Seed of the cuts and of the bootstrap.

    Returns:
        The figures; None where the model knows no way to be asked for a middle, or no text has one.
    """
    if not can_infill(tokenizer):
        return None
    most = (context or model.context) - _SPARE
    begin = tokenizer.document_bos
    cutter, ask = Cutter(tokenizer), _asking(model, tokenizer)
    middles: list[Sections] = []
    words: list[Sections] = []
    chosen = _sample(texts, documents, seed)
    with Progress("cutting texts", float(len(chosen)), "texts") as progress:
        for number, text in enumerate(chosen):
            piece, tokens = _beginning(tokenizer, text, most)
            if len(tokens) < 4:
                continue
            stream = numpy_stream(seed, "infilling", number)
            middle = cutter.cut(tokens, stream)
            if not len(middle[1]):
                continue
            middles.append(middle)
            words.append(_word(cutter, piece, tokens, stream))
            progress.advance()
    if not middles:
        return None
    sizes = np.array([_bytes_of(tokenizer, one[1]) for one in middles])
    nll, _ = _scored(model, [_only(ask(one), len(one[1]), 1) for one in middles])
    if infilling_of(tokenizer) is not None:
        alone = [_only(left_to_right(begin, np.concatenate(one[:2])), len(one[1]), 0) for one in middles]
    else:
        alone = [_only(ask((one[0], one[1], one[2][:0])), len(one[1]), 1) for one in middles]
    before, _ = _scored(model, alone)
    _, right = _scored(model, [_only(ask(one), len(one[1]) + 1, 0) for one in words])
    bits = math.log(2) * np.maximum(1, sizes)
    return InfillingResult(
        ratio_estimates(nll, {"bits": bits}, seed=seed)["bits"],
        ratio_estimates(before, {"bits": bits}, seed=seed)["bits"],
        ratio_estimates(right.astype(float), {"words": np.ones(len(words))}, seed=seed)["words"],
        len(middles),
    )


def _sample(texts: Iterable[str], count: int, seed: int) -> list[str]:
    """Return a random sample of texts whose number is not known beforehand (reservoir sampling)."""
    stream, kept = numpy_stream(seed, "infilling", "texts"), list[str]()
    for number, text in enumerate(texts):
        if len(kept) < count:
            kept.append(text)
        elif (place := int(stream.integers(number + 1))) < count:
            kept[place] = text
    return kept


def _asking(model: Model, tokenizer: Tokenizer) -> Callable[[Sections], Laid]:
    """Return the function that lays out three sections as the model learned it, the middle at the end."""
    marks, end = infilling_of(tokenizer), tokenizer.end_of_document
    if marks is not None:
        return lambda cut: infilled(tokenizer.document_bos, cut, marks, end, suffix_first=False)
    sentinel, mode = sentinels_of(tokenizer)[0], tokenizer.inner.token_to_id(MODES["R"])
    first = tokenizer.document_bos if mode is None else mode
    bidirectional = bool(getattr(getattr(model, "spec", None), "prefix_attention", False))
    shift: Any = getattr(model, "decoder_inputs", None)
    reads = getattr(model, "kind", "decoder") == "encoder-decoder"
    before, after = tokenizer.around_source

    def ask(cut: Sections) -> Laid:
        corrupted = np.concatenate([cut[0], [sentinel], cut[2]])
        answer = np.concatenate([[sentinel], cut[1]])
        if reads:
            source = np.concatenate([before, [] if mode is None else [mode], corrupted, after])
            return encoder_and_decoder(source, answer, end, shift([*answer.astype(int).tolist(), end]))
        laid = one_sequence(first, corrupted, answer, end)
        return laid if bidirectional else replace(laid, prefix=0)

    return ask


def _beginning(tokenizer: Tokenizer, text: str, most: int) -> tuple[str, np.ndarray]:
    """Return the beginning of a text that has at most so many tokens, and its ids."""
    text = text[: 16 * most]
    tokens = tokenizer.encode(text)
    if len(tokens) > most:
        text = tokenizer.decode(tokens[:most]).rstrip("\ufffd")
        tokens = tokenizer.encode(text)
    return text, np.array(tokens[:most], np.int64)


def _word(cutter: Cutter, piece: str, tokens: np.ndarray, stream: np.random.Generator) -> Sections:
    """Return the sections of a text around one of its words; around one of its tokens where words cannot be cut out."""
    words = [one.span() for one in _WORD.finditer(piece)] if cutter.between_characters else []
    words = [(start, end) for start, end in words if start]
    if not words or len(cutter.places(tokens)) != len(piece) + 1:
        place = int(stream.integers(len(tokens)))
        return tokens[:place], tokens[place : place + 1], tokens[place + 1 :]
    start, end = words[int(stream.integers(len(words)))]
    return cutter.sections(tokens, (len(piece[:start].encode()), len(piece[:end].encode())))


def _bytes_of(tokenizer: Tokenizer, tokens: np.ndarray) -> int:
    return len(tokenizer.decode(tokens).encode())


def _only(laid: Laid, count: int, after: int) -> Laid:
    """Return a laid-out text with `count` of its targets: the last ones, before `after` others."""
    targets = laid.targets.copy()
    stop = len(targets) - after
    targets[: stop - count] = IGNORED
    targets[stop:] = IGNORED
    return replace(laid, targets=targets)


def _scored(model: Model, laid: Sequence[Laid]) -> tuple[np.ndarray, np.ndarray]:
    """Return the summed loss of each text's targets in nats, and whether each target was the likeliest token."""
    order = sorted(range(len(laid)), key=lambda number: -len(laid[number]))
    losses, right = np.zeros(len(laid)), np.zeros(len(laid), bool)
    device = device_of(model)
    with eval_mode(model), torch.no_grad():
        for begin in range(0, len(order), _ROWS):
            some = order[begin : begin + _ROWS]
            batch = _batch([laid[number] for number in some]).to(device)
            rows = (batch.targets != IGNORED).nonzero()[:, 0]
            features = model.features(batch)[batch.targets != IGNORED]
            targets = batch.targets[batch.targets != IGNORED]
            weight, bias = model.output_projection()
            cap, vocabulary = logit_cap_of(model), model.vocabulary
            nll = token_losses(features, weight, targets, bias=bias, vocabulary=vocabulary, cap=cap)
            best = torch.cat(
                [chunk_logits(part, weight, bias, vocabulary, cap).argmax(-1) for part in features.split(512)]
            )
            owners = rows.cpu().numpy()
            losses[some] = np.bincount(owners, nll.cpu().double().numpy(), minlength=len(some))
            wrong = np.bincount(owners, (best != targets).cpu().numpy(), minlength=len(some))
            right[some] = wrong == 0
    return losses, right


def _batch(laid: Sequence[Laid]) -> Batch:
    """Return texts as one batch, each in a row of its own and padded on the right."""
    shape = (len(laid), max(len(one) for one in laid))
    inputs, targets = np.zeros(shape, np.int64), np.full(shape, IGNORED, np.int64)
    document_ids, prefix = np.full(shape, -1, np.int32), np.zeros(shape, bool)
    for row, one in enumerate(laid):
        inputs[row, : len(one)], targets[row, : len(one)] = one.inputs, one.targets
        document_ids[row, : len(one)] = 0
        prefix[row, : one.prefix] = True
    extra = {PREFIX: torch.from_numpy(prefix)} if prefix.any() else {}
    return Batch(
        torch.from_numpy(inputs),
        torch.from_numpy(targets),
        document_ids=torch.from_numpy(document_ids),
        weight=float((targets != IGNORED).sum()),
        model_inputs=extra | encoder_side([[one] for one in laid]),
    )

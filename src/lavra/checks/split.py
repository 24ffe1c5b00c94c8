"""Check: no held-out document is trained on, neither word for word nor nearly so."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from lavra.checks.base import CheckResult, Subject
from lavra.core.seeds import numpy_stream
from lavra.data.near_duplicates import THRESHOLD, near_duplicates
from lavra.data.store import TokenStore
from lavra.evaluation.documents import documents_of_store
from lavra.evaluation.likelihood import likelihood

_TRAIN_TOKENS, _HELD_OUT_TOKENS = 4_000_000, 1_000_000
_MEASURED_TOKENS = 4096
_FEW, _MANY = 0.01, 0.1
_SHORT = 20
"""Tokens below which a copy says nothing: headings and one-line documents repeat by nature."""


def check_copies(subject: Subject) -> list[CheckResult]:
    """Look for held-out documents that stand word for word in the training text."""
    name, expected = "held_out_copies", "no held-out document in the training text"
    if subject.data is None:
        return [CheckResult(name, "ok", "the subject comes without text; nothing to compare", expected)]
    train, held_out = subject.data.train, subject.data.validation
    copied = _copied(train, held_out)
    share = _share(held_out, copied)
    measured = f"{len(copied)} of {len(held_out)} held-out documents, {share:.1%} of the tokens, are trained on"
    if not copied:
        return [CheckResult(name, "ok", measured, expected)]
    remedy = "remove the copies, and prepare the text again: lavra keeps equal documents on one side"
    return [CheckResult(name, "fail", measured, expected, remedy, _shown(subject, copied))]


def check_near_duplicates(subject: Subject) -> list[CheckResult]:
    """Look for held-out documents that nearly stand in the training text, and measure the loss without them."""
    name = "held_out_near_duplicates"
    expected = f"less than {_FEW:.0%} of the held-out text with a resemblance of {THRESHOLD:g} or more to training text"
    if subject.data is None:
        return [CheckResult(name, "ok", "the subject comes without text; nothing to compare", expected)]
    train, held_out = subject.data.train, subject.data.validation
    some, all_tokens = _sample(train, _TRAIN_TOKENS)
    measured_ones, _ = _sample(held_out, _HELD_OUT_TOKENS)
    pairs = near_duplicates(_texts(subject, held_out, measured_ones), THRESHOLD, others=_texts(subject, train, some))
    near = sorted({measured_ones[pair.first] for pair in pairs})
    near = [number for number in near if len(held_out.document(number)) >= _SHORT]
    share = _share(held_out, near) / max(1e-9, _share(held_out, measured_ones))
    covered = "" if all_tokens else f" (compared with {len(some):,} of {len(train):,} training documents)"
    measured = f"{len(near)} of {len(measured_ones)} held-out documents, {share:.1%} of the tokens{covered}"
    if near and subject.loaded:
        measured += _losses(subject, held_out, measured_ones, near)
    if share <= _FEW:
        return [CheckResult(name, "ok", measured, expected)]
    remedy = "held-out figures flatter the model by these; remove near duplicates before the split"
    verdict = "fail" if share > _MANY else "warn"
    return [CheckResult(name, verdict, measured, expected, remedy, _shown(subject, near))]


def _copied(train: TokenStore, held_out: TokenStore) -> list[int]:
    """Return the held-out documents of some length whose ids are those of a training document."""
    lengths = np.diff(held_out.offsets.astype(np.int64))
    long = np.flatnonzero(lengths >= _SHORT).tolist()
    wanted = {held_out.document(number).astype(np.int64).tobytes(): number for number in long}
    candidates = np.flatnonzero(np.isin(np.diff(train.offsets.astype(np.int64)), lengths[lengths >= _SHORT]))
    found = (wanted.get(train.document(number).astype(np.int64).tobytes()) for number in candidates.tolist())
    return sorted({number for number in found if number is not None})


def _share(store: TokenStore, numbers: Sequence[int]) -> float:
    lengths = np.diff(store.offsets.astype(np.int64))
    return float(lengths[list(numbers)].sum()) / max(1, int(lengths.sum()))


def _sample(store: TokenStore, tokens: int) -> tuple[list[int], bool]:
    """Return documents drawn at random up to a number of tokens, and whether these are all."""
    if store.manifest.tokens <= tokens:
        return list(range(len(store))), True
    order = numpy_stream(0, "near duplicates").permutation(len(store))
    lengths = np.diff(store.offsets.astype(np.int64))[order]
    return np.sort(order[: int(np.searchsorted(np.cumsum(lengths), tokens)) + 1]).tolist(), False


def _texts(subject: Subject, store: TokenStore, numbers: Sequence[int]) -> list[str]:
    assert subject.data is not None
    inner = subject.data.tokenizer.inner
    return inner.decode_batch([store.document(number)[:-1].tolist() for number in numbers], skip_special_tokens=True)


def _losses(subject: Subject, held_out: TokenStore, measured: Sequence[int], near: Sequence[int]) -> str:
    """Return the held-out loss with and without near duplicates, in words."""
    assert subject.data is not None
    every = documents_of_store(held_out, subject.data.tokenizer)
    rest = sorted(set(measured) - set(near))
    losses = []
    for numbers in (measured, rest):
        if not numbers:
            return "; all of them are near duplicates"
        with torch.no_grad():
            sample = every.select(list(numbers)).sample(_MEASURED_TOKENS)
            losses.append(likelihood(subject.model, sample).total.loss.value)
    return f"; held-out loss {losses[0]:.4f} with them, {losses[1]:.4f} without"


def _shown(subject: Subject, numbers: Sequence[int]) -> tuple[str, ...]:
    assert subject.data is not None
    tokenizer, store = subject.data.tokenizer, subject.data.validation
    return tuple(f"document {number}: {tokenizer.decode(store.document(number)[:24])!r}" for number in numbers[:3])

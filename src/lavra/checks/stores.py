"""Checks of the data: tokenizer, stores and model agree, no text is lost, and no validation document is trained on."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch

from lavra.checks.base import CheckContext, CheckResult
from lavra.core.errors import CorruptFile
from lavra.core.seeds import numpy_stream
from lavra.data.token_store.prepare import Prepared
from lavra.data.token_store.store import TokenStore
from lavra.data.tokenizers.tokenizer import Tokenizer
from lavra.evaluation.documents import documents_of_store
from lavra.evaluation.likelihood import likelihood
from lavra.text.near_duplicates import THRESHOLD, near_duplicates

_DOCUMENTS = 200  # documents of the sample, and characters of each
_CHARACTERS = 2000
_MUCH_LOST = 0.5
"""Share of texts that are not decoded as they were from which a tokenizer fails, and share of unknown tokens from which
there is a warning."""
_MANY_UNKNOWN = 0.01
_SHOWN = 3  # examples that a result lists


def check_tokenizer(check_context: CheckContext) -> list[CheckResult]:
    """Check that tokenizer, stores and model agree, that decoding inverts encoding, and how many tokens are unknown.

    Args:
        check_context: Training set-up to check.

    Returns:
        One result, named `tokenizer`.
    """
    expected = "decode(encode(x)) = x, no unknown tokens, and the same token ids in tokenizer, text and model"
    if check_context.data is None:
        return [CheckResult("tokenizer", "ok", "there is no text to compare with", expected)]
    tokenizer = check_context.data.tokenizer
    faults = _disagreements(check_context, check_context.data, tokenizer)
    sample = [text[:_CHARACTERS] for text in itertools.islice(check_context.data.validation.texts(), _DOCUMENTS)]
    lost, unknown = _lost(tokenizer, sample)
    rate = len(lost) / max(1, len(sample))
    rows = check_context.model.output_projection()[0].shape[0]
    measured = (
        f"{len(sample) - len(lost)} of {len(sample)} texts are decoded unchanged, {unknown:.2%} unknown tokens, "
        f"a vocabulary of {tokenizer.vocabulary_size} tokens for {rows} rows of the head"
    )
    measured = "; ".join([measured, *(words for words, _ in faults)])
    remedies = [remedy for _, remedy in faults]
    if lost or unknown > _MANY_UNKNOWN:
        remedies.append("see below what changes; a byte-level tokenizer, which lavra trains by default, loses nothing")
    hopeless = rate > _MUCH_LOST and unknown > 10 * _MANY_UNKNOWN
    verdict = "fail" if faults or hopeless else "warn" if remedies else "ok"
    return [CheckResult("tokenizer", verdict, measured, expected, "; ".join(remedies), tuple(lost[:_SHOWN]))]


def check_files(check_context: CheckContext) -> list[CheckResult]:
    """Check every file of the stores against the hash that was computed when it was written.

    Args:
        check_context: Training set-up to check.

    Returns:
        One result, named `files`.
    """
    expected = "every file of the stores has the content that was written"
    if not check_context.stores:
        return [CheckResult("files", "ok", "there are no stores to verify", expected)]
    faults = []
    for store in check_context.stores:
        try:
            store.verify()
        except CorruptFile as damaged:
            faults.append(damaged)
    if not faults:
        measured = f"all files of {len(check_context.stores)} stores match their hashes"
        return [CheckResult("files", "ok", measured, expected)]
    remedies = dict.fromkeys(fault.remedy for fault in faults)
    return [CheckResult("files", "fail", "; ".join(fault.message for fault in faults), expected, "; ".join(remedies))]


def _disagreements(check_context: CheckContext, data: Prepared, tokenizer: Tokenizer) -> list[tuple[str, str]]:
    faults = []
    other = "prepare the text with the tokenizer that belongs to the model (--text.tokenizer)"
    if tokenizer.vocabulary_size > check_context.model.vocabulary:
        words = f"the tokenizer has {tokenizer.vocabulary_size} tokens, the model only {check_context.model.vocabulary}"
        faults.append((words, other))
    for side, store in (("train", data.train), ("validation", data.validation)):
        manifest = store.manifest
        if manifest.tokenizer_fingerprint != tokenizer.fingerprint:
            faults.append((f"the {side} store was made with another tokenizer", other))
        if manifest.end_of_document != tokenizer.end_of_document:
            ids = f"{manifest.end_of_document} in the {side} store, {tokenizer.end_of_document} in the tokenizer"
            faults.append((f"the end of a document is {ids}", other))
        largest = int(np.max(store.tokens)) if manifest.tokens else 0
        if largest >= check_context.model.vocabulary:
            faults.append((f"the {side} store contains token id {largest}, which the model does not have", other))
    return faults


def _lost(tokenizer: Tokenizer, sample: list[str]) -> tuple[list[str], float]:
    """Return the texts that decoding changes, as lines to show, and the share of unknown tokens."""
    encoded = tokenizer.encode_many(sample)
    lost = []
    for text, ids in zip(sample, encoded, strict=True):
        back = tokenizer.decode(ids)
        if back != text:
            same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(text, back, strict=False))
            place = sum(1 for _ in same)
            here = slice(max(0, place - 15), place + 25)
            lost.append(f"changed: {text[here]!r} is decoded as {back[here]!r}")
    total = sum(len(ids) for ids in encoded)
    unknown = 0 if tokenizer.unknown is None else sum(int((ids == tokenizer.unknown).sum()) for ids in encoded)
    return lost, unknown / max(1, total)


_TRAIN_TOKENS = 4_000_000  # tokens of either side that are searched for near duplicates
_VALIDATION_TOKENS = 1_000_000
_MEASURED_TOKENS = 4096  # tokens on which the loss with and without near duplicates is measured
_FEW = 0.01
"""Share of near duplicates in the validation text up to which the verdict is `ok`, and from which it is `fail`."""
_MANY = 0.1
_LEAST_TO_FAIL = 2
"""Near duplicates from which the verdict may be `fail`: one document, such as a form letter, is no evidence that the
text was split wrongly, however large its share of a small validation text is."""
_SHORT = 20
"""Tokens below which a copy is ignored: headings and one-line documents repeat by nature."""

_COMPARED_TOKENS = 8
"""Tokens of a document, evenly spread, by which it is chosen to be compared with others."""


def check_copies(check_context: CheckContext) -> list[CheckResult]:
    """Look for validation documents that occur word for word in the training text.

    Args:
        check_context: Training set-up to check.

    Returns:
        One result, named `validation_copies`.
    """
    name, expected = "validation_copies", "no validation document in the training text"
    if check_context.data is None:
        return [CheckResult(name, "ok", "there is no text to compare", expected)]
    train, validation_set = check_context.data.train, check_context.data.validation
    copied = _copied(train, validation_set)
    share = _share(validation_set, copied)
    measured = f"{len(copied)} of {len(validation_set)} validation documents, {share:.1%} of the tokens, are trained on"
    if not copied:
        return [CheckResult(name, "ok", measured, expected)]
    remedy = "remove the copies, and prepare the text again: lavra keeps equal documents on one side of the split"
    return [CheckResult(name, "fail", measured, expected, remedy, _shown(check_context, copied))]


def check_near_duplicates(check_context: CheckContext) -> list[CheckResult]:
    """Look for validation documents that occur almost word for word in the training text.

    For a pretrained model, the loss without these documents is measured too.

    Args:
        check_context: Training set-up to check.

    Returns:
        One result, named `validation_near_duplicates`.
    """
    name = "validation_near_duplicates"
    expected = f"less than {_FEW:.0%} of the validation text with a resemblance of {THRESHOLD:g} to training text"
    if check_context.data is None:
        return [CheckResult(name, "ok", "there is no text to compare", expected)]
    train, validation_set = check_context.data.train, check_context.data.validation
    some, all_tokens = _sample(train, _TRAIN_TOKENS)
    measured_ones, _ = _sample(validation_set, _VALIDATION_TOKENS)
    pairs = near_duplicates(
        _texts(check_context, validation_set, measured_ones), THRESHOLD, others=_texts(check_context, train, some)
    )
    near = sorted({measured_ones[pair.first] for pair in pairs})
    near = [number for number in near if len(validation_set.document(number)) >= _SHORT]
    share = _share(validation_set, near) / max(1e-9, _share(validation_set, measured_ones))
    covered = "" if all_tokens else f" (compared with {len(some):,} of {len(train):,} training documents)"
    measured = f"{len(near)} of {len(measured_ones)} validation documents, {share:.1%} of the tokens{covered}"
    if near and check_context.loaded:
        measured += _losses(check_context, validation_set, measured_ones, near)
    if share <= _FEW:
        return [CheckResult(name, "ok", measured, expected)]
    remedy = "near duplicates make validation results too good; remove them before the split"
    verdict = "fail" if share > _MANY and len(near) >= _LEAST_TO_FAIL else "warn"
    return [CheckResult(name, verdict, measured, expected, remedy, _shown(check_context, near))]


def _copied(train: TokenStore, validation_set: TokenStore) -> list[int]:
    """Return the numbers of the validation documents, short ones excepted, that are equal to a training document."""
    lengths = np.diff(validation_set.offsets.astype(np.int64))
    long = np.flatnonzero(lengths >= _SHORT)
    wanted = {validation_set.document(number).astype(np.int64).tobytes(): number for number in long.tolist()}
    # Only training documents are read and compared that have the length and some tokens of a validation document.
    signatures = _signatures(validation_set, long)
    training = np.flatnonzero(np.isin(np.diff(train.offsets.astype(np.int64)), lengths[long]))
    candidates = training[np.isin(_signatures(train, training), signatures)]
    found = (wanted.get(train.document(number).astype(np.int64).tobytes()) for number in candidates.tolist())
    return sorted({number for number in found if number is not None})


def _signatures(store: TokenStore, numbers: np.ndarray) -> np.ndarray:
    """Return a hash of the length and of a few tokens of each document, (numbers,) uint64; equal ones have equal ones.

    Args:
        store: The store of the documents.
        numbers: Numbers of documents of at least `_SHORT` tokens.
    """
    starts = store.offsets[numbers].astype(np.int64)
    lengths = store.offsets[numbers + 1].astype(np.int64) - starts
    signature = lengths.astype(np.uint64)
    for part in range(_COMPARED_TOKENS):
        tokens = store.tokens[starts + (lengths - 2) * part // (_COMPARED_TOKENS - 1)]
        signature = signature * np.uint64(0x9E3779B97F4A7C15) + tokens.astype(np.uint64)
    return signature


def _share(store: TokenStore, numbers: Sequence[int]) -> float:
    lengths = np.diff(store.offsets.astype(np.int64))
    return float(lengths[list(numbers)].sum()) / max(1, int(lengths.sum()))


def _sample(store: TokenStore, tokens: int) -> tuple[list[int], bool]:
    """Return the numbers of randomly chosen documents, up to a number of tokens, and whether they are all documents."""
    if store.manifest.tokens <= tokens:
        return list(range(len(store))), True
    order = numpy_stream(0, "near duplicates").permutation(len(store))
    lengths = np.diff(store.offsets.astype(np.int64))[order]
    return np.sort(order[: int(np.searchsorted(np.cumsum(lengths), tokens)) + 1]).tolist(), False


def _texts(check_context: CheckContext, store: TokenStore, numbers: Sequence[int]) -> list[str]:
    assert check_context.data is not None
    inner = check_context.data.tokenizer.inner
    return inner.decode_batch([store.document(number)[:-1].tolist() for number in numbers], skip_special_tokens=True)


def _losses(
    check_context: CheckContext, validation_set: TokenStore, measured: Sequence[int], near: Sequence[int]
) -> str:
    """Return the validation loss with and without near duplicates, in words."""
    assert check_context.data is not None
    every = documents_of_store(validation_set, check_context.data.tokenizer)
    rest = sorted(set(measured) - set(near))
    losses = []
    for numbers in (measured, rest):
        if not numbers:
            return "; all of them are near duplicates"
        with torch.no_grad():
            sample = every.select(list(numbers)).sample(_MEASURED_TOKENS)
            losses.append(likelihood(check_context.model, sample).total.loss.value)
    return f"; validation loss {losses[0]:.4f} with them, {losses[1]:.4f} without"


def _shown(check_context: CheckContext, numbers: Sequence[int]) -> tuple[str, ...]:
    assert check_context.data is not None
    tokenizer, store = check_context.data.tokenizer, check_context.data.validation
    return tuple(f"document {number}: {tokenizer.decode(store.document(number)[:24])!r}" for number in numbers[:3])

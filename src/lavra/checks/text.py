"""Checks: the stores hold what was written; tokenizer, stores and model speak of the same ids; no text is lost."""

from __future__ import annotations

import itertools

import numpy as np

from lavra.checks.base import CheckResult, Subject
from lavra.core.errors import Damaged
from lavra.data.prepare import Prepared
from lavra.data.tokenizer import Tokenizer

_DOCUMENTS, _CHARACTERS = 200, 2000
_MUCH_LOST, _MANY_UNKNOWN = 0.5, 0.01
_SHOWN = 3


def check_tokenizer(subject: Subject) -> list[CheckResult]:
    """Check ids and sizes, the round trip of a sample, and how much of it is unknown."""
    expected = "decode(encode(x)) = x, nothing unknown, and the same ids in tokenizer, text and model"
    if subject.data is None:
        return [CheckResult("tokenizer", "ok", "the subject comes without text; nothing to compare", expected)]
    tokenizer = subject.data.tokenizer
    faults = _disagreements(subject, subject.data, tokenizer)
    sample = [text[:_CHARACTERS] for text in itertools.islice(subject.data.validation.texts(), _DOCUMENTS)]
    lost, unknown = _lost(tokenizer, sample)
    rate = len(lost) / max(1, len(sample))
    rows = subject.model.output_projection()[0].shape[0]
    measured = (
        f"{len(sample) - len(lost)} of {len(sample)} texts come back, {unknown:.2%} unknown, "
        f"{tokenizer.vocabulary_size} tokens for {rows} rows of the head"
    )
    measured = "; ".join([measured, *(words for words, _ in faults)])
    remedies = [remedy for _, remedy in faults]
    if lost or unknown > _MANY_UNKNOWN:
        remedies.append("see below what is lost; a byte-level tokenizer, which lavra trains by default, loses nothing")
    hopeless = rate > _MUCH_LOST and unknown > 10 * _MANY_UNKNOWN
    verdict = "fail" if faults or hopeless else "warn" if remedies else "ok"
    return [CheckResult("tokenizer", verdict, measured, expected, "; ".join(remedies), tuple(lost[:_SHOWN]))]


def check_files(subject: Subject) -> list[CheckResult]:
    """Check every file of the stores against the hash that was taken when it was written."""
    expected = "every file of the stores has the content that was written"
    if not subject.stores:
        return [CheckResult("files", "ok", "the subject comes without stores; nothing to compare", expected)]
    faults = []
    for store in subject.stores:
        try:
            store.verify()
        except Damaged as damaged:
            faults.append(damaged)
    if not faults:
        measured = f"the files of {len(subject.stores)} stores have their hashes"
        return [CheckResult("files", "ok", measured, expected)]
    remedies = dict.fromkeys(fault.remedy for fault in faults)
    return [CheckResult("files", "fail", "; ".join(fault.message for fault in faults), expected, "; ".join(remedies))]


def _disagreements(subject: Subject, data: Prepared, tokenizer: Tokenizer) -> list[tuple[str, str]]:
    faults = []
    other = "prepare the text with the tokenizer that belongs to the model (--text.tokenizer)"
    if tokenizer.vocabulary_size > subject.model.vocabulary:
        words = f"the tokenizer has {tokenizer.vocabulary_size} tokens, the model only {subject.model.vocabulary}"
        faults.append((words, other))
    for side, store in (("train", data.train), ("validation", data.validation)):
        manifest = store.manifest
        if manifest.tokenizer_fingerprint != tokenizer.fingerprint:
            faults.append((f"the {side} store was made with another tokenizer", other))
        if manifest.end_of_document != tokenizer.end_of_document:
            ids = f"{manifest.end_of_document} in the {side} store, {tokenizer.end_of_document} in the tokenizer"
            faults.append((f"the end of a document is {ids}", other))
        largest = int(np.max(store.tokens)) if manifest.tokens else 0
        if largest >= subject.model.vocabulary:
            faults.append((f"the {side} store holds id {largest}, unknown to the model", other))
    return faults


def _lost(tokenizer: Tokenizer, sample: list[str]) -> tuple[list[str], float]:
    """Return what does not come back, as lines to show, and the share of unknown tokens."""
    encoded = tokenizer.encode_many(sample)
    lost = []
    for text, ids in zip(sample, encoded, strict=True):
        back = tokenizer.decode(ids)
        if back != text:
            same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(text, back, strict=False))
            place = sum(1 for _ in same)
            here = slice(max(0, place - 15), place + 25)
            lost.append(f"lost: {text[here]!r} comes back as {back[here]!r}")
    total = sum(len(ids) for ids in encoded)
    unknown = 0 if tokenizer.unknown is None else sum(int((ids == tokenizer.unknown).sum()) for ids in encoded)
    return lost, unknown / max(1, total)

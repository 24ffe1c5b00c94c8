"""Another vocabulary for a base model: trained, extended or given, and measured before and after the change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import cast

import torch

from lavra.config.training import TrainConfig
from lavra.core.errors import InputError
from lavra.core.progress import log
from lavra.core.units import counted
from lavra.data.examples.rows import read_examples
from lavra.data.readers.documents import is_repeatable, read_rows
from lavra.data.readers.rows import BadRows
from lavra.data.tokenizers.extension import extend_tokenizer, with_special_tokens
from lavra.data.tokenizers.report import CorpusSample, TokenizerReport
from lavra.data.tokenizers.tokenizer import Tokenizer
from lavra.evaluation.documents import documents_of_rows
from lavra.evaluation.likelihood import likelihood
from lavra.models.families.companions import template_tokens
from lavra.models.native.decoder import Decoder
from lavra.models.protocols import Model
from lavra.models.transforms.vocabulary import swap_vocabulary
from lavra.tasks.base import ModelKind
from lavra.workflows.datasets.text import open_tokenizer, pair_columns
from lavra.workflows.models.base_model import Base, base_of

_SAMPLE_BYTES = 20_000_000
"""Most bytes of text from which a vocabulary is trained or extended."""

_MEASURED_BYTES = 16_000
"""Bytes of text on which the model is measured before and after the change, and the context length in tokens."""
_MEASURED_CONTEXT = 256


def with_another_vocabulary(config: TrainConfig, base: Base) -> Base:
    """Return the base model with the vocabulary that the request asks for.

    The request may name a tokenizer, the size of a vocabulary to train on the text, or a number of tokens to add.

    Args:
        config: The request.
        base: The base model.

    Returns:
        The base model with the new vocabulary; unchanged where the request asks for none.

    Raises:
        InputError: If two of these are asked for, or the text cannot be read twice.
    """
    asked = config.text
    given = [name for name in ("tokenizer", "vocabulary", "extend") if getattr(asked, name)]
    if not given:
        return base
    if len(given) > 1:
        raise InputError(
            f"--text.{given[0]} and --text.{given[1]} both say which vocabulary to use", "give one of them"
        )
    texts = _sample(config, base)
    old = base.tokenizer
    if asked.tokenizer:
        new = open_tokenizer(asked.tokenizer)
    elif asked.vocabulary:
        new = _with_marks_of_chats(Tokenizer.train(texts, asked.vocabulary), base)
    else:
        new = extend_tokenizer(old, texts, asked.extend or 0)
    if new.fingerprint == old.fingerprint:
        return base
    assert base.opened is not None
    model = base.model
    before = _bits_per_byte(model, old, texts, base)
    method = asked.new_rows
    changed = swap_vocabulary(model, old, new, method, texts if method == "focus" else ())
    after = _bits_per_byte(changed, new, texts, base)
    for name, tokenizer in (("old", old), ("new", new)):
        log(f"{name} {TokenizerReport.measure(tokenizer, texts).summary()}")
    if before is not None and after is not None:
        log(f"before training: {before:.3f} bits per byte with the old vocabulary, {after:.3f} with the new one")
    opened = replace(base.opened, model=changed, tokenizer=new, folder=None)
    changed_base = base_of(opened, base.task, base.objective, base.window, base.source_window)
    return replace(changed_base, another_vocabulary=True, surgery=base.surgery, room=base.room, rate=base.rate)


def with_objective_tokens(config: TrainConfig, base: Base) -> Base:
    """Return the base model with the special tokens that its objective needs, such as sentinels.

    Args:
        config: The request.
        base: The base model.

    Returns:
        The base model with rows for the new tokens, which begin as the mean of all others; unchanged where it has them.
    """
    old, kind = base.tokenizer, cast(ModelKind, getattr(base.model, "kind", "decoder"))
    new = base.task.complete_tokenizer(old, config.objective, base.objective, kind)
    if new.fingerprint == old.fingerprint:
        return base
    assert base.opened is not None
    added = new.vocabulary_size - old.vocabulary_size
    log(f"{counted(added, 'special token')} for {base.objective} added to the vocabulary of {old.vocabulary_size:,}")
    opened = replace(base.opened, model=swap_vocabulary(base.model, old, new), tokenizer=new, folder=None)
    changed = base_of(opened, base.task, base.objective, base.window, base.source_window)
    return replace(changed, another_vocabulary=True, surgery=base.surgery, room=base.room, rate=base.rate)


def _with_marks_of_chats(new: Tokenizer, base: Base) -> Tokenizer:
    """Add the special tokens of the model's chat template to a new tokenizer, so that the template stays usable."""
    assert base.opened is not None
    marks = template_tokens(base.opened.files)
    if not marks:
        return new
    end = base.tokenizer.end_of_document_token
    return with_special_tokens(new, marks, end if end in marks else new.end_of_document_token)


def _sample(config: TrainConfig, base: Base) -> list[str]:
    if not all(is_repeatable(location) for location in config.data):
        raise InputError(
            "another vocabulary needs the text twice, and this can be read only once", "save it to a file first"
        )
    sample = CorpusSample(_SAMPLE_BYTES)
    for text in _texts(config, examples=base.task.rows != "text"):
        sample.add(text)
    return list(sample)


def _texts(config: TrainConfig, *, examples: bool) -> Iterator[str]:
    asked = config.text
    if not examples:
        rows = read_rows(
            config.data,
            text_column=asked.column,
            encoding=asked.encoding,
            validation=asked.validation,
            wanted=(),
            bad_rows=BadRows(),
        )
        yield from (row.text for row in rows if not row.is_validation)
        return
    columns = pair_columns(asked)
    for row in read_examples(
        config.data, BadRows(), columns=columns, encoding=asked.encoding, validation=asked.validation
    ):
        if not row.is_validation:
            yield from (row.prompt, row.completion, *(turn["content"] for turn in row.messages))


def _bits_per_byte(model: Decoder | Model, tokenizer: Tokenizer, texts: list[str], base: Base) -> float | None:
    """Return the bits per byte of a decoder on a little of the text; None for models with another objective."""
    if not base.task.gives_likelihood:
        return None
    chosen, size = [], 0
    for text in texts:
        chosen.append(text[: _MEASURED_BYTES - size])  # the first document may be a whole book
        size += len(chosen[-1].encode())
        if size >= _MEASURED_BYTES:
            break
    documents = documents_of_rows(chosen, tokenizer)
    with torch.no_grad():
        result = likelihood(model, documents, context=min(_MEASURED_CONTEXT, model.context))
    return result.total.bits_per_byte.value

"""Measuring a model on text: perplexity, bits per byte, per character and per word, beside baselines."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from lavra.core.errors import InputError
from lavra.core.progress import log
from lavra.core.units import parse_duration
from lavra.data.examples.prepare import holds_examples
from lavra.data.readers.documents import read_rows
from lavra.data.readers.rows import BadRows, OnBadRow
from lavra.data.token_store.prepare import Prepared, open_prepared
from lavra.data.token_store.store import TokenStore
from lavra.evaluation.baselines import Baseline, baselines, count_tokens
from lavra.evaluation.documents import Documents, documents_of_rows, documents_of_store
from lavra.evaluation.infilling import InfillingResult, infilling
from lavra.evaluation.likelihood import likelihood
from lavra.evaluation.results import LikelihoodResult, likelihood_table
from lavra.models.native.decoder import Decoder
from lavra.training.signals import StopRequest
from lavra.workflows.datasets.text import data_folder, request_of
from lavra.workflows.embeddings.measure import evaluate_vectors, makes_vectors
from lavra.workflows.labels.evaluate import TaskEvaluation, evaluate_labels
from lavra.workflows.labels.labeller import NetworkLabeller, linear_at
from lavra.workflows.models.open import OpenModel, open_model

_STOPPING = "ending with the documents that were measured; a second Ctrl-C stops at once, without figures"


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    Attributes:
        model: The location of the model that was measured.
        result: The likelihood of the text, in total and by source.
        baselines: Baselines on the same bytes: xz, a unigram model, guessing.
        infilling: How well the model fills in middles; None for a model that did not learn to.
        reading: What was read, left out and changed of the text that was given; None for text that was prepared before.
        stopped_by: Number of the signal (Ctrl-C) that ended the evaluation early; 0 where none did.
    """

    model: str
    result: LikelihoodResult
    baselines: list[Baseline]
    reading: dict[str, Any] | None = None
    stopped_by: int = 0
    infilling: InfillingResult | None = None

    @property
    def table(self) -> str:
        """The figures as a table of plain text."""
        table = likelihood_table(self.result, self.baselines)
        return table if self.infilling is None else f"{table}\n\n{self.infilling.table()}"

    def to_json(self) -> dict[str, Any]:
        """Return the figures as plain values."""
        sticks = [stick.to_json() for stick in self.baselines]
        reading = {} if self.reading is None else {"reading": self.reading}
        filled = {} if self.infilling is None else {"infilling": self.infilling.to_json()}
        return {"model": self.model, **self.result.to_json(), "baselines": sticks, **filled, **reading}


def evaluate(
    model: str,
    data: Sequence[str] = (),
    *,
    split: Literal["train", "validation"] = "validation",
    stride: int | None = None,
    context: int | None = None,
    text_column: str = "text",
    on_bad_row: OnBadRow = "skip",
    encoding: str | None = None,
    bos: bool | None = None,
    device: str = "auto",
    budget: float | str | None = None,
    seed: int = 0,
) -> Evaluation | TaskEvaluation:
    """Measure a model on text: perplexity and bits per byte, with bootstrap intervals over documents.

    Documents longer than the context are read in overlapping sequences (a sliding window): each token is predicted
    once, with at least `context - stride` tokens before it except at the beginning of its document.

    Args:
        model: The location of the model: a run, a checkpoint or a model folder.
        data: The text: locations as for training, a token store, or a folder that `lavra prepare` made; the run's own
            text if empty.
        split: Which part of the run's own text, or of a prepared folder, to measure on.
        stride: Tokens from the start of one sequence to the start of the next; half the context if None. A smaller
            stride gives each token more context, and takes longer.
        context: Tokens of a sequence; the model's context if None.
        text_column: Column of the files that holds the text.
        on_bad_row: What to do with rows that cannot be used; see `lavra.data.readers.documents.read_rows`.
        encoding: Encoding of the files; None recognises it, see `lavra.data.readers.documents.read_rows`.
        bos: False puts an end-of-document token before the first token of a document where the model's own tokenizer
            begins texts with another token; None keeps the tokenizer's.
        device: Device that computes: auto, cpu, cuda or mps.
        budget: Longest time of the whole evaluation, in seconds or as text ("60s"): where it does not suffice for all
            documents, a random sample of them is measured, and never less than some thousand tokens. None measures
            all.
        seed: Seed of the bootstrap and of the sample.

    Returns:
        The figures, in total and by source, beside baselines on the same text.

    Raises:
        InputError: If there is no such model, or the text cannot be used.

    Examples:
        >>> import lavra
        >>> found = lavra.evaluate("runs/book", ["news.jsonl"])      # doctest: +SKIP
        >>> found.result.total.bits_per_byte                         # doctest: +SKIP
    """
    deadline = math.inf if budget is None else time.monotonic() + parse_duration(budget)
    linear = linear_at(model)
    if linear is not None:
        return evaluate_labels(linear, data, seed, on_bad_row=on_bad_row, encoding=encoding)
    if makes_vectors(model, data, text_column, encoding):
        return evaluate_vectors(
            model, data, text_column=text_column, device=device, seed=seed, on_bad_row=on_bad_row, encoding=encoding
        )
    opened = open_model(model, device)
    if opened.task is not None:
        return evaluate_labels(NetworkLabeller(opened), data, seed, on_bad_row=on_bad_row, encoding=encoding)
    own = _own_text(opened)
    store, bad_rows = _store(opened, own, data, split), BadRows()
    if store is not None:
        documents = documents_of_store(store, opened.tokenizer)
    else:
        documents = _documents_of(opened, data, text_column, on_bad_row, encoding, bad_rows)
    if bos is False:
        documents = replace(documents, bos=opened.tokenizer.end_of_document)
    found = _measured(opened, own, documents, context, stride, seed, deadline)
    return found if store is not None else replace(found, reading=bad_rows.report())


def _documents_of(
    opened: OpenModel,
    data: Sequence[str],
    text_column: str,
    on_bad_row: OnBadRow,
    encoding: str | None,
    bad_rows: BadRows,
) -> Documents:
    """Return the documents of text that is given, tokenised, after saying what was left out of it."""
    rows = read_rows(
        data, text_column=text_column, on_bad_row=on_bad_row, encoding=encoding, wanted=(), bad_rows=bad_rows
    )
    documents = documents_of_rows(rows, opened.tokenizer)
    if bad_rows.summary():
        log(bad_rows.summary())
    return documents


def _measured(
    opened: OpenModel,
    own: Prepared | None,
    documents: Documents,
    context: int | None,
    stride: int | None,
    seed: int,
    deadline: float,
) -> Evaluation:
    """Return the figures of a language model on documents, as far as the time allows."""
    with torch.no_grad(), StopRequest(_STOPPING) as asked:
        result = likelihood(
            opened.model,
            documents,
            context=context,
            stride=stride,
            seed=seed,
            stop=lambda: bool(asked.requested) or time.monotonic() >= deadline,
        )
    documents = result.per_document
    vocabulary = opened.tokenizer.vocabulary_size
    sticks = baselines(documents, documents.texts(opened.tokenizer), vocabulary, _training_counts(opened, own))
    filled = None
    if isinstance(opened.model, Decoder) and not asked.requested and time.monotonic() < deadline:
        texts = documents.texts(opened.tokenizer)
        filled = infilling(opened.model, opened.tokenizer, texts, context=context, seed=seed)
    _tell_of_objective(opened)
    return Evaluation(opened.place, result, sticks, None, asked.requested, filled)


def _tell_of_objective(opened: OpenModel) -> None:
    """Say so where a model did not learn to predict texts from left to right, which is what was measured."""
    objective = opened.run.plan.get("objective") if opened.run is not None else None
    if objective == "span-corruption":
        log(
            "note: this model learned to fill in hidden spans, and never to read a text from left to right: its bits "
            "per byte say little; the infilling figures are what it learned"
        )


def _store(opened: OpenModel, own: Prepared | None, data: Sequence[str], split: str) -> TokenStore | None:
    """Return the token store that the data names; None where it is text that still has to be tokenised."""
    if not data:
        if own is None:
            raise InputError(f"{opened.place} keeps no text of its own", "say what to measure on: --data FILES")
        return own.train if split == "train" else own.validation
    folder = Path(data[0])
    if len(data) == 1 and (folder / "manifest.json").exists():
        return TokenStore.open(folder)
    if len(data) == 1 and (folder / split / "manifest.json").exists():
        return TokenStore.open(folder / split)
    return None


def _own_text(opened: OpenModel) -> Prepared | None:
    if opened.run is None:
        return None
    folder = data_folder(request_of(opened.run), opened.run.path)
    return open_prepared(folder) if folder.exists() and not holds_examples(folder) else None


def _training_counts(opened: OpenModel, own: Prepared | None) -> Any:
    """Return how often each token occurs in the model's training text, if that is here."""
    return None if own is None else count_tokens(own.train.tokens, opened.tokenizer.vocabulary_size)

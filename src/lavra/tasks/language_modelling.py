"""Language modelling: every token of a text is predicted from those before it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from lavra.core.units import counted
from lavra.evaluation.baselines import baselines, count_tokens
from lavra.evaluation.document_losses import DOCUMENT_LOSSES, DocumentLosses, text_fingerprint
from lavra.evaluation.documents import Documents, documents_of_store
from lavra.evaluation.likelihood import likelihood
from lavra.evaluation.results import LikelihoodResult, likelihood_table
from lavra.models.hf.model import HFModel
from lavra.models.native.decoder import Decoder
from lavra.objectives.base import Objective
from lavra.objectives.causal import Causal
from lavra.tasks.base import LEAST_EVALUATED, TRIAL_SHARE, Measured, Task, Trained
from lavra.tasks.datasets import Dataset, TextDataset
from lavra.tasks.samples import written_samples
from lavra.training.deadline import amount_in_time
from lavra.training.plan import Plan

_LEAST_TRIAL = 1024
"""Fewest tokens by which the speed of the final evaluation is measured."""


class LanguageModelling(Task):
    """Next-token prediction on documents."""

    name = "language-modelling"
    objectives = ("causal",)
    rows = "text"
    gives_likelihood = True
    follows_scaling_law = True
    counts_ngrams = True

    def objective(self, plan: Plan, model: Decoder | HFModel, dataset: Dataset) -> Objective:
        """Return the causal objective."""
        return Causal(plan.context, plan.isolate, plan.label_smoothing)

    def evaluate(self, trained: Trained) -> Measured:
        """Measure the likelihood of whole validation documents in overlapping sequences, beside baselines."""
        plan, data = trained.plan, trained.dataset
        assert isinstance(data, TextDataset)
        every = documents_of_store(data.prepared.validation, data.tokenizer)
        context = plan.context  # the model may read longer ones, for what an objective adds to a text
        with torch.no_grad():
            tokens = amount_in_time(
                min(plan.evaluation_tokens, int(every.lengths.sum())),
                trained.deadline,
                lambda amount: likelihood(trained.model, _first_tokens(every, amount), context=context),
                trial=max(_LEAST_TRIAL, plan.evaluation_tokens // TRIAL_SHARE),
                least=LEAST_EVALUATED,
            )
            documents = every.sample(tokens)
            result = likelihood(trained.model, documents, context=context, seed=plan.seed)
        if trained.folder is not None:
            _losses(data, every, result).save(trained.folder / DOCUMENT_LOSSES)
        counts = count_tokens(data.prepared.train.tokens, data.tokenizer.vocabulary_size)
        sticks = baselines(documents, documents.texts(data.tokenizer), data.tokenizer.vocabulary_size, counts)
        measured = result.to_json()
        figures = {
            **{name: measured[name] for name in ("loss", "perplexity", "bits_per_byte", "bits_per_word")},
            "baselines": [stick.to_json() for stick in sticks],
            "evaluation": {**measured, "validation_documents": len(every)},
        }
        table = likelihood_table(result, sticks)
        if len(documents) < len(every):
            table += (
                f"\n(on {len(documents):,} of {counted(len(every), 'validation document')}, to keep to the time; "
                "`lavra evaluate` measures all of them)"
            )
        return Measured(figures, table)

    def samples(self, trained: Trained, count: int) -> list[dict[str, str]]:
        """Return new documents."""
        return written_samples(trained, count, greedy=False)


def _first_tokens(documents: Documents, amount: int) -> Documents:
    """Return the beginnings of documents, cut so that they have about as many tokens together."""
    chosen = documents.select(np.arange(min(len(documents), 8)))
    each = max(1, amount // len(chosen))
    return replace(chosen, ends=np.minimum(chosen.ends, chosen.starts + each))


def _losses(data: TextDataset, every: Documents, result: LikelihoodResult) -> DocumentLosses:
    """Return the loss of each measured document, for comparisons with other runs on the same validation text."""
    manifest = data.prepared.validation.manifest
    return DocumentLosses(
        text_fingerprint(source.fingerprint for source in manifest.sources),
        manifest.tokenizer_fingerprint,
        np.searchsorted(every.starts, result.per_document.starts),
        result.per_document.bytes,
        result.nll,
    )

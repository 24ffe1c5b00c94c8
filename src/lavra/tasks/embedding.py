"""Embeddings: vectors of texts, learned from pairs, scores, margins or bare text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from lavra.core.errors import InputError
from lavra.data.examples.text_groups import LENGTHS, NEGATIVES, TARGET, TextGroups
from lavra.data.tokenizers.word_boundaries import Words
from lavra.models.heads import EmbeddingHead
from lavra.models.reconstruction import ReconstructingHead
from lavra.objectives.base import Objective
from lavra.objectives.contrastive import Contrastive
from lavra.objectives.embedding.cosent import CoSENT
from lavra.objectives.embedding.cosine_regression import CosineRegression
from lavra.objectives.embedding.margin_mse import MarginMSE
from lavra.objectives.embedding.matryoshka import matryoshka
from lavra.objectives.embedding.simcse import SimCSE
from lavra.objectives.embedding.tsdae import TSDAE
from lavra.tasks.base import Measured, Task, Trained
from lavra.tasks.datasets import DataDescription, Dataset
from lavra.tasks.embedding_columns import columns_of, pair_of
from lavra.tasks.embedding_dataset import SECOND, EmbeddingDataset
from lavra.tasks.embedding_measures import measure_trained, write_untrained

if TYPE_CHECKING:
    from lavra.config.training import SetupConfig

_SIMCSE_DROPOUT = 0.1
"""Dropout by which the two views of a text differ; it was best in the paper (table 3)."""

_NEEDS = {
    "contrastive": ("two texts that belong together", "anchor and positive, or query and passage"),
    "cosent": ("two texts with a score", "text1, text2 and score"),
    "cosine-regression": ("two texts with a score", "text1, text2 and score"),
    "margin-mse": ("a negative and a margin", "query, positive, negative and margin"),
}
"""What the rows of objectives have, and columns that hold it."""


class EmbeddingTask(Task):
    """Vectors of whole texts, by an encoder or a decoder.

    Each text of a row is read by itself. What is learned follows from the columns: with texts that belong together
    each is to recognise the other among those of the step; with scores the cosines are to have their order; with
    margins the similarities are to differ by them; of bare texts each is to recognise itself.
    """

    name = "embedding"
    objectives = ("contrastive", "cosent", "cosine-regression", "margin-mse", "simcse", "tsdae")
    kinds = ("encoder", "decoder")
    rows = "labelled"
    causal = False
    bos = True
    fewest_steps = 60
    adapting_rate = 2e-5  # 5e-5 pulls apart what an encoder knows in the first dozens of steps, warm-up or not
    most_epochs = (10.0, 30.0)
    learns, headline = "texts", "accuracy"

    def recognises(self, data: DataDescription) -> bool:
        """Return whether the columns are named as texts that belong together."""
        if data.prepared is not None:
            return data.prepared == "labelled" and LENGTHS in data.columns
        return pair_of(data.columns) is not None

    def usual_objective(self, data: DataDescription) -> str:
        """Return the objective that learns from all that the columns hold."""
        if data.prepared is not None:
            paired, scored, negatives = (name in data.columns for name in (SECOND, TARGET, NEGATIVES))
        else:
            found = columns_of(data) or TextGroups()
            paired, scored, negatives = bool(found.second), bool(found.score), bool(found.negatives)
        if not paired:
            return "simcse"
        return ("margin-mse" if negatives else "cosent") if scored else "contrastive"

    def headline_of(self, objective: str) -> str:
        """Return the metric that says something of an objective; "" where none does."""
        by_name = {"contrastive": "accuracy", "margin-mse": "accuracy", "simcse": "", "tsdae": ""}
        return by_name.get(objective, "spearman")

    def usual_dropout(self, objective: str) -> float:
        """Return the dropout that makes the two views of SimCSE; none for others."""
        return _SIMCSE_DROPOUT if objective == "simcse" else 0.0

    def reader(self, data: DataDescription) -> TextGroups:
        """Return what reads the rows.

        Raises:
            InputError: If no column of text is found.
        """
        found = columns_of(data)
        if found is None:
            raise InputError(
                f"the task {self.name} finds no texts among the columns {', '.join(sorted(data.columns))}",
                "name them anchor and positive, query and passage, or text1, text2 and score; or name a column of bare "
                "text with --text-column",
            )
        told = None if data.sentence is None else data.sentence.longest
        return found if told is None else found.for_context(told)

    def reader_from(self, columns: dict[str, Any]) -> TextGroups:
        """Return what reads further rows of a trained model."""
        return TextGroups(**columns)

    def asked(self, config: SetupConfig, data: DataDescription) -> dict[str, Any]:
        """Return the options of the objective, the prompts, and the pooling and normalisation of the vectors.

        Raises:
            InputError: If the model has layers after its pooling, which nothing here trains.
        """
        settings = data.sentence
        if settings is not None and settings.layers:
            raise InputError(
                f"{settings.folder} has linear layers after its pooling, which are not trained here",
                "start from the model inside it, or from another one",
            )
        options, pooling = asdict(config.embedding), config.head.pooling
        if pooling == "auto" and settings is not None:
            pooling = settings.pooling
        normalise = options.pop("normalise")
        if normalise is None:
            normalise = settings is None or settings.normalise
        kept = {name: options[name] for name in ("temperature", "symmetric", "matryoshka", "deleted")}
        kept |= {"matryoshka": list(kept["matryoshka"]), "pooling": pooling, "normalise": normalise}
        kept["reconstructs"] = config.objective.name == "tsdae"
        return {"prompts": dict(data.prompts), "embedding": kept}

    def facts(self, dataset: Dataset) -> dict[str, Any]:
        """Return the smallest and the largest number of the training rows, where these have one."""
        assert isinstance(dataset, EmbeddingDataset)
        if not dataset.scored:
            return {}
        numbers = np.array(dataset.labels(TARGET), dtype=np.float64)
        return {"lowest": float(numbers.min()), "highest": float(numbers.max())}

    def head(self, facts: dict[str, Any], width: int) -> EmbeddingHead:
        """Return the head of a text, which has a decoder beside it where texts are to be written again."""
        asked = facts["embedding"]
        pooling = facts["head"]["pooling"] if asked["pooling"] == "auto" else asked["pooling"]
        make = ReconstructingHead if asked["reconstructs"] else EmbeddingHead
        head = make(width, pooling, asked["normalise"])
        head.initialize()
        return head

    def objective(self, plan: Any, model: Any, dataset: Dataset) -> Objective:
        """Return the objective that the plan names, with vectors of all sizes that are asked for.

        Raises:
            InputError: If the rows lack what it learns from.
        """
        assert isinstance(dataset, EmbeddingDataset)
        _refuse_misfit(plan.objective, dataset)
        facts, asked = plan.facts, plan.facts["embedding"]
        context, temperature = dataset.longest_text, asked["temperature"]
        packed: dict[str, Any] = {"isolate": plan.isolate}
        makers = {
            "contrastive": lambda: Contrastive(context, temperature, asked["symmetric"], **packed),
            "cosent": lambda: CoSENT(context, temperature, **packed),
            "cosine-regression": lambda: CosineRegression(context, facts["lowest"], facts["highest"], **packed),
            "margin-mse": lambda: MarginMSE(context, temperature, **packed),
            "simcse": lambda: SimCSE(context, temperature, **packed),
            "tsdae": lambda: TSDAE(context, Words.of(dataset.tokenizer).special, asked["deleted"]),
        }
        return matryoshka(makers[plan.objective](), tuple(asked["matryoshka"]))

    def first_loss(self, facts: dict[str, Any]) -> float:
        """Return NaN: what a pretrained encoder knows of the texts is not known beforehand."""
        return math.nan

    def must_learn(self, tokenizer: Any) -> tuple[int, ...]:
        """Return nothing: no token has to be learned."""
        return ()

    def metrics(self, loss: float, parts: Mapping[str, float], **_: Any) -> dict[str, float]:
        """Return what the objective measured beside the loss."""
        return dict(parts)

    def before_training(self, trained: Trained) -> None:
        """Measure the model as it came on the validation rows, and keep that in the folder of the run."""
        write_untrained(trained)

    def evaluate(self, trained: Trained) -> Measured:
        """Measure the vectors on the validation rows, beside those of the model as it came and TF-IDF of letters."""
        return measure_trained(trained)


def _refuse_misfit(objective: str, dataset: EmbeddingDataset) -> None:
    """Refuse rows that lack what an objective learns from."""
    negatives = bool(dataset.columns_read[NEGATIVES])
    there = {
        "contrastive": dataset.paired,
        "cosent": dataset.paired and dataset.scored,
        "cosine-regression": dataset.paired and dataset.scored,
        "margin-mse": dataset.scored and negatives,
    }
    if not there.get(objective, True):
        what, columns = _NEEDS[objective]
        raise InputError(
            f"--objective {objective} learns from {what}, and the rows have the columns "
            f"{', '.join(TextGroups(**dataset.columns_read).texts)}",
            f"give the columns {columns}, or leave --objective out",
        )

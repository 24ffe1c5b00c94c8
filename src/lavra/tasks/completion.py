"""Completion: a decoder reads prompts or chats, and learns only what follows (supervised fine-tuning)."""

from __future__ import annotations

from lavra.data.examples.rows import looks_like_example
from lavra.models.hf.model import HFModel
from lavra.models.native.decoder import Decoder
from lavra.objectives.completion import Completion
from lavra.tasks.base import Task, Trained
from lavra.tasks.datasets import DataDescription, Dataset
from lavra.tasks.samples import written_samples
from lavra.training.plan import Plan


class CompletionTask(Task):
    """Next-token prediction of completions, after prompts that are only read."""

    name = "completion"
    objectives = ("completion",)
    gives_likelihood = True

    def recognises(self, data: DataDescription) -> bool:
        """Rows with a prompt and a completion, or a chat, and no column of text."""
        if data.prepared is not None:
            return data.prepared == "pairs"
        pairs = looks_like_example(dict.fromkeys(data.columns))
        return data.pairs_named or (pairs and data.text_column not in data.columns)

    def objective(self, plan: Plan, model: Decoder | HFModel, dataset: Dataset) -> Completion:
        """Return the completion objective."""
        return Completion(plan.context, plan.label_smoothing)

    def samples(self, trained: Trained, count: int) -> list[dict[str, str]]:
        """Return completions of validation prompts, beside the expected ones."""
        return written_samples(trained, count, greedy=True)

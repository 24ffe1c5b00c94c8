"""Seq2seq: an encoder-decoder reads a source and writes a target."""

from __future__ import annotations

from typing import cast

from lavra.models.hf.model import HFModel
from lavra.models.native.decoder import Decoder
from lavra.models.native.encoder_decoder import EncoderDecoder
from lavra.objectives.seq2seq import Seq2Seq
from lavra.tasks.base import Task, Trained
from lavra.tasks.datasets import DataDescription, Dataset
from lavra.tasks.samples import written_samples
from lavra.training.plan import Plan


class Seq2SeqTask(Task):
    """Targets from sources."""

    name = "seq2seq"
    objectives = ("seq2seq",)
    kinds = ("encoder-decoder",)
    sources = True

    def recognises(self, data: DataDescription) -> bool:
        """Any rows: an encoder-decoder learns nothing else, and rows without a source are told when they are read."""
        return data.prepared in (None, "pairs")

    def objective(self, plan: Plan, model: Decoder | HFModel, dataset: Dataset) -> Seq2Seq:
        """Return the seq2seq objective."""
        shift = cast("HFModel | EncoderDecoder", model).decoder_inputs
        return Seq2Seq(plan.context, plan.source_context, shift, plan.label_smoothing)

    def samples(self, trained: Trained, count: int) -> list[dict[str, str]]:
        """Return what is written for validation sources, beside the expected targets."""
        return written_samples(trained, count, greedy=True)

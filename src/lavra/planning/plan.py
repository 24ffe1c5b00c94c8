"""The plan: everything that is decided before the first step, so that from there on a run is deterministic."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lavra.config.transforms import EditConfig
from lavra.core.configuration import from_table, to_json
from lavra.models.spec import DecoderSpec
from lavra.training.optimizers.optimizers import OptimizerOptions
from lavra.training.optimizers.schedules import Schedule
from lavra.training.precision import Precision


@dataclass(frozen=True)
class Plan:
    """What a run will do; written to `plan.json`.

    Attributes:
        model: the shape; None for a wrapped model, whose shape is in its own configuration.
        parameters: how many it has.
        context: tokens of a window.
        tokens_per_step: of one optimiser step, over all ranks: rows x context.
        rows_per_step: windows of one optimiser step.
        micro_rows: windows of one micro-batch at the start (memory faults may shrink it).
        steps: optimiser steps.
        tokens: that will be trained on (the last window of an epoch may be shorter).
        epochs: how often each token of the corpus is seen.
        device: `cpu`, `cuda`, `mps`.
        precision: of the working weights.
        compile: whether the blocks are compiled.
        threads: processor threads.
        optimizer: which, how fast.
        schedule: of the learning rates.
        seed: of everything that is random.
        isolate: whether documents are kept apart.
        label_smoothing: of the objective.
        clip: limit of the gradient's norm.
        validation_rows: windows of each validation during training.
        validate_every: steps between validations.
        checkpoint_every: steps between checkpoints.
        evaluation_tokens: held-out tokens that the final evaluation measures.
        flops_per_token: of a training step.
        budget_seconds: the time given; None when the length was given in another way.
        probe: what was measured on this machine.
        base: where the model was read from that is adapted; None where training begins from nothing.
        objective: causal, answers, seq2seq or masked.
        source_context: longest source in tokens, for seq2seq.
        mask_rate: share of the tokens that the masked objective asks for at the start.
        final_mask_rate: the same at the end.
        whole_words: whether the masked objective hides whole words.
        pure_mask: whether every chosen token is hidden behind the mask.
        edits: what is done to the model before it is trained.
        bigram_contexts: tokens whose followers are counted before the first step, to begin with what they tell
            (`lavra.models.native.bigram_init`); 0 for random weights.
        trigram_contexts: pairs of tokens whose followers are counted too, for a model with a table of pairs
            (`lavra.models.native.trigram_init`).
        start_bits_per_byte: on held-out rows, by the counts of single tokens' followers alone; None without them.
        forecast: what the run is expected to take and bring: `seconds`, `tokens_per_second`, `peak_bytes`,
            `bits_per_byte` with its interval, `loss`; as far as it is known beforehand.
    """

    model: DecoderSpec | None
    parameters: int
    context: int
    tokens_per_step: int
    rows_per_step: int
    micro_rows: int
    steps: int
    tokens: int
    epochs: float
    device: str
    precision: Precision
    compile: bool
    threads: int
    optimizer: OptimizerOptions
    schedule: Schedule
    seed: int
    isolate: bool
    label_smoothing: float
    clip: float
    validation_rows: int
    validate_every: int
    checkpoint_every: int
    evaluation_tokens: int
    flops_per_token: float
    budget_seconds: float | None = None
    probe: dict[str, float] = field(default_factory=dict)
    base: str | None = None
    objective: str = "causal"
    source_context: int = 0
    mask_rate: float = 0.15
    final_mask_rate: float = 0.15
    whole_words: bool = True
    pure_mask: bool = False
    edits: EditConfig = field(default_factory=EditConfig)
    bigram_contexts: int = 0
    trigram_contexts: int = 0
    start_bits_per_byte: float | None = None
    forecast: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return to_json(self)

    @classmethod
    def from_json(cls, values: dict[str, Any], place: str) -> Plan:
        """Read a plan back.

        Raises:
            InputError: if a value is missing or wrong; names `place`.
        """
        return from_table(cls, values, place)

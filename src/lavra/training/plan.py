"""The plan: everything that is decided before the first step, so that the run is deterministic from there on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lavra.config.denoising import DenoisingConfig
from lavra.config.transforms import TransformConfig
from lavra.core.configuration import from_table, to_json
from lavra.models.spec import DecoderSpec
from lavra.training.optimizers.optimizers import OptimizerOptions
from lavra.training.optimizers.schedules import Schedule
from lavra.training.precision import Precision


@dataclass(frozen=True)
class Plan:
    """Everything that determines a run; written to `plan.json`.

    Attributes:
        model: Shape of the model; None for a model of `transformers`, which has a configuration of its own.
        parameters: Number of parameters of the model.
        context: Length of a training sequence in tokens of text; a denoising objective makes longer ones of it.
        batch_tokens: Tokens of one optimiser step over all processes: `global_batch_size` x `context`.
        global_batch_size: Sequences of one optimiser step over all processes (the global batch size).
        micro_batch_size: Sequences of one micro-batch at the start; it is halved when memory runs out.
        steps: Number of optimiser steps.
        tokens: Number of tokens to train on; the last sequence of an epoch may be shorter.
        epochs: Number of passes over the training text.
        device: Kind of device: `cpu`, `cuda` or `mps`.
        precision: Precision that the model computes in.
        compile: Whether the blocks of the model are compiled.
        threads: Number of processor threads.
        optimizer: Optimiser and its hyperparameters.
        schedule: Learning-rate schedule.
        seed: Random seed of the run.
        isolate: Whether attention is kept inside each document of a sequence.
        label_smoothing: Label smoothing of the objective, from 0 for none to below 1.
        max_grad_norm: Largest norm of the gradient; it is clipped beyond.
        validation_rows: Number of sequences of each validation during training.
        validate_every: Steps between two validations.
        checkpoint_every: Steps between two checkpoints.
        evaluation_tokens: Number of validation tokens that the final evaluation measures.
        flops_per_token: Floating-point operations per token of a training step.
        budget_seconds: Time budget in seconds; None if the length was given in another way.
        probe: What was measured on this machine before the plan was made, by name.
        base: Where the model that is fine-tuned was read from; None for training from scratch.
        task: Name of the task (`lavra.tasks`).
        objective: Name of the training objective.
        facts: What the task knows of the data (`Task.facts`).
        most_steps: Number of steps beyond which more only memorises the data; None for no such number.
        source_context: Longest source of an encoder-decoder in tokens.
        mask_rate: Share of the tokens that the masked objective predicts at the start of the run.
        final_mask_rate: Share of the tokens that the masked objective predicts at the end of the run.
        whole_words: Whether the masked objective masks whole words.
        pure_mask: Whether the masked objective replaces every chosen token by the mask token, and none by others.
        denoising: What a denoising objective hides.
        growth: Tokens that the model computes for each token of text; `flops_per_token` are for a token of text.
        predicted: Share of these at which the head is computed; of the tokens that a generator fills in for electra.
        z_loss: Weight of the squared logarithm of the softmax normaliser in the loss of tokens; 0 for none.
        transforms: Transforms of the model before training, such as adapters.
        bigram_contexts: Number of tokens whose followers are counted for a warm start
            (`lavra.models.native.bigram_init`); 0 for random weights.
        trigram_contexts: Number of bigrams whose followers are counted too, for a model with a bigram embedding
            (`lavra.models.native.trigram_init`).
        start_bits_per_byte: Validation loss of the warm start from bigram counts alone, before the first step, in bits
            per byte; None without one.
        forecast: Expected results by name, as far as they are known in advance: `seconds`, `tokens_per_second`,
            `peak_bytes`, `bits_per_byte` with its interval, and `loss` in nats per token.
        no_forecast: Why the loss was not forecast, in words; empty where it was, or where nothing asked for it.

    Examples:
        >>> plan = Plan(
        ...     model=DecoderSpec(), parameters=123_456, context=256, batch_tokens=4096, global_batch_size=16,
        ...     micro_batch_size=8, steps=300, tokens=1_228_800, epochs=1.5, device="cpu", precision="fp32",
        ...     compile=False, threads=2, optimizer=OptimizerOptions(), schedule=Schedule(), seed=3, isolate=True,
        ...     label_smoothing=0.0, max_grad_norm=1.0, validation_rows=64, validate_every=30, checkpoint_every=15,
        ...     evaluation_tokens=10_000, flops_per_token=1e6, task="language-modelling", objective="causal",
        ... )
        >>> Plan.from_json(plan.to_json(), "plan.json") == plan
        True
    """

    model: DecoderSpec | None
    parameters: int
    context: int
    batch_tokens: int
    global_batch_size: int
    micro_batch_size: int
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
    max_grad_norm: float
    validation_rows: int
    validate_every: int
    checkpoint_every: int
    evaluation_tokens: int
    flops_per_token: float
    task: str
    objective: str
    budget_seconds: float | None = None
    probe: dict[str, float] = field(default_factory=dict)
    base: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    most_steps: int | None = None
    source_context: int = 0
    mask_rate: float = 0.15
    final_mask_rate: float = 0.15
    whole_words: bool = True
    pure_mask: bool = False
    denoising: DenoisingConfig = field(default_factory=DenoisingConfig)
    growth: float = 1.0
    predicted: float = 1.0
    z_loss: float = 0.0
    transforms: TransformConfig = field(default_factory=TransformConfig)
    bigram_contexts: int = 0
    trigram_contexts: int = 0
    start_bits_per_byte: float | None = None
    forecast: dict[str, float] = field(default_factory=dict)
    no_forecast: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the plan as the JSON values of `plan.json`."""
        return to_json(self)

    @classmethod
    def from_json(cls, values: dict[str, Any], place: str) -> Plan:
        """Return the plan that JSON values describe.

        Args:
            values: Values of `plan.json`.
            place: Name of the file, for error messages.

        Raises:
            InputError: if a value is missing or wrong.
        """
        return from_table(cls, values, place)

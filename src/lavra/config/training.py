"""What a person can ask of a training run; the defaults, the command line, the TOML file and the help in one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from lavra.config.choices import Activation, NewRows, Norm, ObjectiveName, OptimizerName, Policy, Positions, Shape
from lavra.config.quantities import Count, Duration, Size
from lavra.config.transforms import EditConfig


@dataclass(frozen=True)
class TextConfig:
    """How text is read, divided and tokenised."""

    column: str = "text"
    """Column of JSONL, CSV, TSV and Parquet files that holds the text (also --text-column)."""
    on_bad_row: Literal["skip", "error", "strict"] = "skip"
    """What to do with rows that cannot be used: skip and report them, or stop at the first; strict (also --strict)
    stops at whatever is left out, guessed, replaced or cut on the way in."""
    encoding: str | None = None
    """Encoding of the files, e.g. windows-1251 (also --encoding). By default what the mark at their beginning names,
    else UTF-8; bytes that are no UTF-8 in Western text are read as Windows-1252, and that is said."""
    validation: tuple[str, ...] = ()
    """Files or folders to hold out for validation, instead of a share of the data (also --validation). Files in the
    data named dev, validation or test beside a train file are held out or left out without it."""
    normalize: bool = False
    """Bring the text to Unicode's NFC form; recorded with the run."""
    validation_share: float = 0.05
    """Share of the documents held out, by a hash of their content."""
    validation_limit: Size = 10_000_000
    """Most bytes held out."""
    tokenizer: str | None = None
    """A tokenizer.json, a Hugging Face folder, or a run whose tokenizer is taken; trained on the text by default."""
    vocabulary: int | None = None
    """Size of the vocabulary to train; chosen from corpus and model by default, the model's own kept with --from."""
    extend: int | None = None
    """Tokens to add to the vocabulary of the model given by --from, for the user's text."""
    new_rows: NewRows = "mean"
    """How the rows of tokens that the model did not have begin: as the mean of their parts, or by their use (focus)."""
    isolate: bool = True
    """Documents in a window do not see each other."""
    prompt: str | None = None
    """Column of what is only read, in rows of examples; prompt, source, passage, … are found by themselves."""
    completion: str | None = None
    """Column of what is learned; completion, target, answer, query, … are found by themselves, and so are chats."""


@dataclass(frozen=True)
class ModelConfig:
    """The shape of the model; what is not given is taken from the preset, or chosen by the plan."""

    preset: str = "auto"
    """A preset's name (gpt2-124m, opt-125m, lavra-9m, …), or auto: the plan chooses (also --model NAME)."""
    context: int | None = None
    """Tokens of a window."""
    depth: int | None = None
    """Blocks."""
    width: int | None = None
    """Size of the residual stream."""
    heads: int | None = None
    """Attention heads."""
    kv_heads: int | None = None
    """Key and value heads: fewer than heads is grouped-query attention."""
    positions: Positions | None = None
    """Kind of positions."""
    norm: Norm | None = None
    """Kind of norm."""
    activation: Activation | None = None
    """Of the MLP."""
    pairs: int | None = None
    """Rows of a table of pairs of tokens, e.g. 65536: some hundredths fewer bits per byte after the same steps, for
    more memory and a model that only lavra can read. None by default."""
    recall: bool | None = None
    """Whether to look up what followed when a token last occurred in the document: some hundredths fewer bits per byte
    after the same steps, and a model that only lavra can read. Not by default."""
    tied: bool | None = None
    """Whether the head is the embedding."""
    dropout: float | None = None
    """On embeddings, attention and branches; none by default, also with --from."""


@dataclass(frozen=True)
class ObjectiveConfig:
    """What is learned."""

    name: ObjectiveName = "auto"
    """causal: every token from those before; answers: only the completions of prompts; seq2seq: targets from sources;
    masked: hidden words from both sides. auto: what the model and the columns of the data allow."""
    source_context: int | None = None
    """Longest source in tokens, for seq2seq."""
    mask_rate: float = 0.15
    """Share of the tokens that the masked objective asks for."""
    final_mask_rate: float | None = None
    """The same at the end of the run, reached in a straight line; unchanged by default."""
    whole_words: bool = True
    """The masked objective hides all tokens of a word together."""
    pure_mask: bool = False
    """Hide every chosen token behind the mask, instead of 80 % of them, with 10 % random and 10 % unchanged."""


@dataclass(frozen=True)
class OptimizationConfig:
    """How it learns; what is not given depends on whether a model is trained from nothing or adapted."""

    name: OptimizerName | None = None
    """Muon for the blocks' matrices and AdamW for the rest (from nothing), or AdamW for all (adapting)."""
    learning_rate: float | None = None
    """AdamW's peak learning rate: 6e-3 from nothing (3e-3 where the head is tied or embeddings are not normed), 1e-4
    adapting, 5e-4 with an adapter."""
    embedding_learning_rate: float | None = None
    """The same for embeddings: 0.15 from nothing where they are normed, elsewhere the same rate."""
    matrix_learning_rate: float | None = None
    """Muon's peak learning rate: 0.014, less in runs of few tokens that begin with pairs of them."""
    weight_decay: float = 0.0
    """Decay of the matrices that AdamW learns."""
    matrix_weight_decay: float = 0.01
    """Decay of the matrices that Muon learns."""
    schedule: Shape | None = None
    """Shape of the learning rate over the run: wsd from nothing, linear adapting."""
    warmup_steps: int | None = None
    """Steps of linear growth at the beginning: 10 from nothing, a twentieth of the run adapting."""
    cooldown: float = 0.5
    """Share of the run over which the wsd schedule falls."""
    floor: float = 0.05
    """Factor of the learning rate at the end."""
    tokens_per_step: Count | None = None
    """Tokens of one optimiser step; chosen by the plan by default."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    label_smoothing: float = 0.0
    """Share of each target's probability spread over the vocabulary."""
    bigrams: bool | None = None
    """Begin with what pairs of tokens in the text tell instead of with random weights; by default where it pays: in
    runs from nothing of up to 1,000 tokens for each token of the vocabulary."""
    layer_decay: float = 1.0
    """Factor on the learning rate from each block to the one below it, so that the first layers move least."""


@dataclass(frozen=True)
class MachineConfig:
    """Where and how it computes."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of the working weights; the learned ones are always fp32."""
    compile: Literal["auto", "yes", "no"] = "auto"
    """Compile the model's blocks; auto does when the run is long enough to repay it."""
    threads: int | None = None
    """Processor threads; one for each core by default."""
    micro_rows: int | None = None
    """Windows of a micro-batch; chosen by default, and halved when memory runs out."""


@dataclass(frozen=True)
class FaultConfig:
    """What happens when numbers go wrong."""

    policy: Policy = "skip"
    """For a loss or gradient that is not finite: skip the step, roll back to the last checkpoint, or stop."""
    most_in_a_row: int = 10
    """Bad steps in a row that end the run."""
    spikes: bool = False
    """Also treat spikes of the loss or of the gradient's norm as faults."""


@dataclass(frozen=True)
class AverageConfig:
    """Averaged weights, used for validation and export."""

    kind: Literal["none", "ema", "swa"] = "none"
    """Exponential moving average, or the mean of regular snapshots of the last part (SWA)."""
    decay: float = 0.999
    """Of the moving average."""
    start: float = 0.75
    """Share of the run after which SWA begins."""
    every: int = 10
    """Steps between SWA's snapshots."""


@dataclass(frozen=True)
class TrainConfig:
    """A training run from text."""

    data: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Files, folders, globs, -, hf:NAME[:SPLIT], installed-docs:, or a folder made by `lavra prepare`."""
    base: str | None = None
    """The model to go on from (also --from MODEL): a run, a Hugging Face folder or a hub name; by default, none."""
    budget: Duration | None = None
    """Time of training: probe, compilation, steps, validation and final evaluation. 10m when no length is given."""
    tokens: Count | None = None
    """Length of the run in tokens, instead of a time."""
    epochs: float | None = None
    """Length of the run in passes over the text, instead of a time."""
    steps: int | None = None
    """Length of the run in optimiser steps, instead of a time."""
    out: str | None = None
    """The run folder; a new one under runs/ by default."""
    force: bool = False
    """Replace an existing run folder."""
    seed: int = 0
    """Of everything that is random."""
    checkpoint_every: int | None = None
    """Steps between checkpoints; a twentieth of the run, at least every 10 minutes, by default."""
    keep_checkpoints: int = 2
    """Newest checkpoints to keep, besides the best."""
    early_stopping: int | None = None
    """End the run after this many validations without a better one; it never ends early by default."""
    samples: int = 3
    """Texts to write with the finished model."""
    check: bool = True
    """Check the set-up before the first step (some seconds); a failed check ends the run."""
    track: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ()
    """Trackers to tell (needs the extra `track`)."""
    text: TextConfig = field(default_factory=TextConfig)
    edits: EditConfig = field(default_factory=EditConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimization: OptimizationConfig = field(default_factory=OptimizationConfig)
    machine: MachineConfig = field(default_factory=MachineConfig)
    faults: FaultConfig = field(default_factory=FaultConfig)
    average: AverageConfig = field(default_factory=AverageConfig)

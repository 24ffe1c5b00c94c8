"""The options of a training run, once: the defaults, the command line, the TOML file, the Python API and the help.

The string under each field is the help text of its flag.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from lavra.config.choices import Activation, NewRows, Norm, ObjectiveName, OptimizerName, Policy, Positions, Shape
from lavra.config.quantities import Count, Duration, Size
from lavra.config.transforms import EditConfig


@dataclass(frozen=True)
class TextConfig:
    """How text is read, split into training and validation documents, and tokenised."""

    column: str = "text"
    """Column of JSONL, CSV, TSV and Parquet files that holds the text (also --text-column)."""
    on_bad_row: Literal["skip", "error", "strict"] = "skip"
    """What to do with rows that cannot be used: skip and report them, or stop at the first (error); strict (also
    --strict) stops at whatever is left out, guessed, replaced or cut while reading."""
    encoding: str | None = None
    """Encoding of the files, such as windows-1251 (also --encoding). By default the one that a byte-order mark names,
    else UTF-8; Western text that is not UTF-8 is read as Windows-1252, and that is said."""
    validation: tuple[str, ...] = ()
    """Files or folders for validation, instead of a share of the data (also --validation). Files of the data named dev,
    validation or test beside a train file are used for validation or left out even without this flag."""
    normalize: bool = False
    """Normalise the text to Unicode's NFC form; this is recorded with the run."""
    validation_share: float = 0.05
    """Share of the documents for validation, between 0 and 1; they are chosen by a hash of their content."""
    validation_limit: Size = 10_000_000
    """Most bytes of text for validation."""
    tokenizer: str | None = None
    """The tokenizer to use: a tokenizer.json, a Hugging Face folder, or a run. By default it is trained on the text."""
    vocabulary: int | None = None
    """Tokens of the vocabulary to train. By default the number is chosen from the size of the text and of the model,
    and a model given by --from keeps its vocabulary."""
    extend: int | None = None
    """Number of tokens, learned from the text, to add to the vocabulary of the model given by --from."""
    new_rows: NewRows = "mean"
    """How the embeddings of tokens that are new to the model are initialised: as the mean of the old tokens that spell
    them (mean), or from similar tokens (focus, arXiv 2305.14481)."""
    isolate: bool = True
    """--text.no-isolate lets the documents of one sequence attend to each other; by default they are kept apart."""
    prompt: str | None = None
    """Column of examples that is only read; prompt, source, passage, … are recognised without this flag."""
    completion: str | None = None
    """Column of examples that is learned; completion, target, answer, query, … and chats are recognised without this
    flag."""


@dataclass(frozen=True)
class ModelConfig:
    """The shape of the model. What is not given comes from the preset, or the plan chooses it."""

    preset: str = "auto"
    """Name of a preset (gpt2-124m, opt-125m, lavra-9m, …), also --model NAME; auto lets the plan choose the shape."""
    context: int | None = None
    """Context length: tokens of a sequence."""
    depth: int | None = None
    """Number of transformer blocks."""
    width: int | None = None
    """Width of the model: the size of the residual stream."""
    heads: int | None = None
    """Number of attention heads."""
    kv_heads: int | None = None
    """Number of key and value heads; fewer than --model.heads is grouped-query attention."""
    positions: Positions | None = None
    """Position encoding: rotary (rope), learned, ALiBi (alibi), or none."""
    norm: Norm | None = None
    """Normalisation layer: layernorm or rmsnorm."""
    activation: Activation | None = None
    """Activation of the MLP; geglu and swiglu are gated."""
    pairs: int | None = None
    """Rows of a hashed embedding of token bigrams, such as 65536. It gives some 0.01 to 0.09 fewer bits per byte after
    the same steps, takes more memory, and only lavra can read such a model. By default there is none."""
    recall: bool | None = None
    """Look up which token followed the last occurrence of the current n-gram in the document (n-gram copy). It gives
    some 0.01 to 0.09 fewer bits per byte after the same steps, and only lavra can read such a model. Off by default."""
    tied: bool | None = None
    """Share one weight between the embedding and the output head."""
    dropout: float | None = None
    """Dropout probability on embeddings, attention weights and residual branches; 0 by default, also with --from."""


@dataclass(frozen=True)
class ObjectiveConfig:
    """The training objective: which tokens are predicted from which."""

    name: ObjectiveName = "auto"
    """causal predicts every token from those before it; answers predicts only the completions of prompts (supervised
    fine-tuning); seq2seq predicts targets from sources; masked predicts hidden tokens from both sides (MLM). auto takes
    what the model and the columns of the data allow."""
    source_context: int | None = None
    """Most tokens of a source, for seq2seq; longer sources are cut."""
    mask_rate: float = 0.15
    """Share of the tokens that the masked objective predicts, between 0 and 1."""
    final_mask_rate: float | None = None
    """Share of predicted tokens at the end of the run, reached linearly from --objective.mask-rate; by default the
    share stays the same."""
    whole_words: bool = True
    """--objective.no-whole-words hides tokens one by one in the masked objective; by default the tokens of a word are
    hidden together."""
    pure_mask: bool = False
    """Replace every chosen token by the mask token, instead of 80 % of them, 10 % by a random token and 10 % by itself
    (BERT)."""


@dataclass(frozen=True)
class OptimizationConfig:
    """Optimiser, learning rates and schedule. Defaults depend on whether a model is trained from scratch or adapted."""

    name: OptimizerName | None = None
    """muon trains the matrices of the blocks with Muon and all else with AdamW (the default from scratch); adamw trains
    everything with AdamW (the default with --from)."""
    learning_rate: float | None = None
    """AdamW's peak learning rate. By default 6e-3 from scratch (3e-3 with a tied head or without a norm on the
    embeddings), 1e-4 with --from, 5e-4 with an adapter."""
    embedding_learning_rate: float | None = None
    """Peak learning rate of the embeddings. By default 0.15 from scratch where the embeddings have a norm, else the one
    of --optimization.learning-rate."""
    matrix_learning_rate: float | None = None
    """Muon's peak learning rate. By default 0.014, and less in short runs with a warm start from bigram counts."""
    weight_decay: float = 0.0
    """Weight decay of the matrices that AdamW trains."""
    matrix_weight_decay: float = 0.01
    """Weight decay of the matrices that Muon trains."""
    schedule: Shape | None = None
    """Schedule of the learning rate: wsd (warm-up, stable, decay) by default from scratch, linear with --from."""
    warmup_steps: int | None = None
    """Steps of linear warm-up: 10 by default from scratch, a twentieth of the run with --from."""
    cooldown: float = 0.5
    """Share of the run over which the wsd schedule decays."""
    floor: float = 0.05
    """Learning rate at the last step, as a share of its peak."""
    tokens_per_step: Count | None = None
    """Tokens of one update (the global batch); the plan chooses by default."""
    clip: float = 1.0
    """Largest norm of the gradient; a gradient with a larger one is scaled down to it."""
    label_smoothing: float = 0.0
    """Share of each target's probability that is spread over the vocabulary."""
    bigrams: bool | None = None
    """Warm start from bigram counts of the text, instead of random embeddings and head. By default it is used where it
    helps: from scratch, in runs of up to 1,000 tokens for each token of the vocabulary."""
    layer_decay: float = 1.0
    """Factor from the learning rate of each block to that of the block below it, so that the first layers change least;
    1 turns it off."""


@dataclass(frozen=True)
class MachineConfig:
    """The device, and how it computes."""

    device: str = "auto"
    """Device that holds the model and computes: auto, cpu, cuda, cuda:1 or mps."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Type of the weights in the forward and backward pass; the optimiser always updates fp32 master weights."""
    compile: Literal["auto", "yes", "no"] = "auto"
    """Compile the blocks of the model; auto does when the run is long enough to repay the time that it takes."""
    threads: int | None = None
    """Processor threads; one for each core by default."""
    micro_rows: int | None = None
    """Sequences of a micro-batch; chosen by default, and halved when memory runs out."""


@dataclass(frozen=True)
class FaultConfig:
    """What happens at a loss or gradient that is not finite, or that spikes."""

    policy: Policy = "skip"
    """What to do at a loss or gradient that is not finite: skip the step, return to the last checkpoint (rollback), or
    stop."""
    most_in_a_row: int = 10
    """Number of such steps in a row that ends the run."""
    spikes: bool = False
    """Treat spikes of the loss or of the gradient norm in the same way."""


@dataclass(frozen=True)
class AverageConfig:
    """Weight averaging; the averaged weights are used for validation and export."""

    kind: Literal["none", "ema", "swa"] = "none"
    """ema keeps an exponential moving average of the weights; swa averages snapshots from the last part of the run
    (stochastic weight averaging, arXiv 1803.05407)."""
    decay: float = 0.999
    """Decay of the exponential moving average in each step, between 0 and 1."""
    start: float = 0.75
    """Share of the run after which swa takes its first snapshot."""
    every: int = 10
    """Steps from one snapshot of swa to the next."""


@dataclass(frozen=True)
class TrainConfig:
    """A training run: what `lavra train` and `lavra.train` take.

    Examples:
        >>> config = TrainConfig(data=("mytext/",), steps=100, model=ModelConfig(depth=4))
        >>> config.seed, config.text.validation_share, config.model.depth
        (0, 0.05, 4)
    """

    data: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """The text: files, folders, globs, - (standard input), hf:NAME[:SPLIT], installed-docs:, or a folder that
    `lavra prepare` made."""
    base: str | None = None
    """The pretrained model to adapt (also --from MODEL): a run, a Hugging Face folder or a hub name. By default a new
    model is trained from scratch."""
    budget: Duration | None = None
    """Time for training: timing the first steps, compilation, steps, validation and the final evaluation. 10m when no
    length is given."""
    tokens: Count | None = None
    """Length of the run in tokens, instead of a time."""
    epochs: float | None = None
    """Length of the run in passes over the text, instead of a time."""
    steps: int | None = None
    """Length of the run in optimiser steps, instead of a time."""
    out: str | None = None
    """The folder of the run; a new one under runs/ by default."""
    force: bool = False
    """Replace an existing run folder."""
    seed: int = 0
    """Seed of everything that is random."""
    checkpoint_every: int | None = None
    """Steps from one checkpoint to the next; by default a twentieth of the run, and at least every 10 minutes."""
    keep_checkpoints: int = 2
    """Number of newest checkpoints to keep, besides the one with the best validation loss."""
    early_stopping: int | None = None
    """End the run after this many validations without a lower loss; by default it never ends early."""
    samples: int = 3
    """Number of sample texts to generate with the finished model."""
    check: bool = True
    """--no-check leaves out the checks of the set-up before the first step, which take some seconds; a failed check
    ends the run."""
    track: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ()
    """Experiment trackers to log metrics to (needs the extra `track`)."""
    text: TextConfig = field(default_factory=TextConfig)
    edits: EditConfig = field(default_factory=EditConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimization: OptimizationConfig = field(default_factory=OptimizationConfig)
    machine: MachineConfig = field(default_factory=MachineConfig)
    faults: FaultConfig = field(default_factory=FaultConfig)
    average: AverageConfig = field(default_factory=AverageConfig)

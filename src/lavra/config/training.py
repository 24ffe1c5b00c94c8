"""The options of a training run: one dataclass is the Python argument, the command line, the recipe file and the help.

The text under each field is the help of its flag, so it is written for a user. A field that is None is decided by the
plan, and the text says by what.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from lavra.config.choices import (
    Activation,
    Architecture,
    Extension,
    NewRows,
    Norm,
    NormPlacement,
    OptimizerName,
    Policy,
    Positions,
    Shape,
)
from lavra.config.denoising import DenoisingConfig
from lavra.config.embedding import EmbeddingConfig
from lavra.config.flags import Common, shown
from lavra.config.quantities import Count, Duration, Size
from lavra.config.reading import ReadingConfig
from lavra.config.techniques import TechniqueConfig
from lavra.config.transforms import TransformConfig


@dataclass(frozen=True)
class TextConfig(ReadingConfig):
    """How text is read, split and tokenised.

    Examples:
        >>> from lavra.config.training import TextConfig
        >>> TextConfig(column="body", vocabulary=8192).validation_share
        0.05
    """

    validation: Annotated[tuple[str, ...], Common, shown("--validation", metavar="DATA…")] = ()
    """Files or folders of validation data, instead of a share of the data. Files in the data named dev or validation
    beside a train file are taken without it, and test files are left out."""
    normalize: bool = False
    """Bring the text to Unicode's NFC form; recorded with the run."""
    validation_share: float = 0.05
    """Share of the text, up to 0.5, that becomes validation data; a hash of each document's content decides. With 0 all
    rows with one label each are learned, and nothing is measured."""
    validation_limit: Size = 10_000_000
    """Largest size of the validation data in bytes."""
    held_out: Annotated[bool, tyro.conf.Suppress] = False
    """Keep half of the validation data apart, to measure what the other half chose. Sweeps do that."""
    tokenizer: Annotated[str | None, shown("--tokenizer", metavar="FROM")] = None
    """A tokenizer.json, a Hugging Face folder, or a run whose tokenizer is used; by default one is trained on the
    text."""
    vocabulary: Annotated[int | None, Common, shown("--vocabulary", metavar="N")] = None
    """Size of the vocabulary to train; chosen from corpus and model by default, the model's own kept with --from."""
    extend: int | None = None
    """Number of tokens to add, for your text, to the vocabulary of the model given by --from."""
    new_rows: NewRows = "mean"
    """How the embeddings of tokens that the model did not have are initialised: as the mean of their parts, or from
    tokens that are used alike (focus)."""
    encoder_tokens: bool = False
    """Give the vocabulary the tokens that an encoder needs: a mask, and a token before every text. For `lavra prepare`;
    training an encoder from scratch on the text itself does so unasked."""
    isolate: bool = True
    """Keep the documents of one sequence apart; --text.no-isolate lets them attend to each other."""
    prompt: str | None = None
    """Column of the prompt, which is read but not learned; prompt, source, passage, … are recognised by their names."""
    completion: str | None = None
    """Column of the completion, which is learned; completion, target, answer, query, … are recognised by their names,
    and so are chats."""
    label: Annotated[str | None, shown("--label-column", metavar="COLUMN")] = None
    """Column of the labels; label, labels, class, category, score, … are recognised by their names."""
    template: str = ""
    """Text that is made of several columns, as "similarity of {anchor} to {target} in {context}"; a template for
    labelled rows."""


Prefer = Literal["best", "small"]
"""Which of two models is taken."""


@dataclass(frozen=True)
class HeadConfig:
    """The head that a model gets for labels.

    Examples:
        >>> from lavra.config.training import HeadConfig
        >>> HeadConfig(pooling="max").dropout
        0.1
    """

    pooling: Literal["auto", "first", "mean", "last", "max", "attention"] = "auto"
    """How the hidden states of a text become one vector; by default the last for decoders, and for encoders the first,
    or the mean where there are fewer than 500 texts."""
    dropout: float = 0.1
    """Dropout probability of that vector, from 0 to below 1."""
    probe: bool | None = None
    """Begin with a head that was fitted on the frozen features of a pretrained model, or, --head.no-probe, with a
    random one; by default the former where there are fewer than 500 texts, and for tags of words where the time budget
    does not suffice for every sentence."""
    prefer: Annotated[Prefer, shown("--prefer")] = "best"
    """Which model labels texts in the end: the best on the validation texts, or the linear one where it is as good
    within the interval (small)."""
    class_weights: Literal["none", "balanced"] = "none"
    """Whether rare classes weigh more in the loss: balanced weighs each class by the inverse of its frequency."""


@dataclass(frozen=True)
class LabelsConfig:
    """What labelled rows are learned from beside their labels.

    Examples:
        >>> from lavra.config.training import LabelsConfig
        >>> LabelsConfig(pseudo=1.0).adapt
        0.0
    """

    pseudo: float = 0.0
    """Weight in the loss of the rows without a label: a teacher, trained first on the others, says how likely each
    label is for them (pseudo-labels), and a student learns from all rows. It is kept where it is not worse. 0 leaves
    these rows out."""
    adapt: float = 0.0
    """Share of the length of a run, as .3, for which a pretrained model first reads the texts of the training rows and
    of those without a label (domain adaptation): an encoder fills hidden words. Of a time budget it is a part, to steps
    or passes it is added. Without --from, a new encoder reads them; it is kept where it beats the linear model inside
    the training rows. 0 leaves that out, except for such an encoder where texts and time suffice."""


@dataclass(frozen=True)
class ModelConfig:
    """The shape of the model; what is not given is taken from the preset, or chosen by the plan.

    Examples:
        >>> from lavra.config.training import ModelConfig
        >>> ModelConfig(depth=8, width=512, context=1024).preset
        'auto'
    """

    preset: Annotated[str, Common, shown("--model", metavar="NAME")] = "auto"
    """A preset's name (gpt2-124m, lavra-9m, bert-small, modernbert-small, …), or auto: the plan chooses."""
    architecture: Architecture | None = None
    """Whether a token sees the text before it (decoder) or on both sides (encoder); by default what the preset is, or
    what the task needs: an encoder for mlm, and a decoder otherwise."""
    context: Annotated[int | None, shown("--context")] = None
    """Tokens of a sequence."""
    depth: int | None = None
    """Number of transformer blocks."""
    width: int | None = None
    """Size of the hidden states (the residual stream)."""
    heads: int | None = None
    """Number of attention heads."""
    kv_heads: int | None = None
    """Number of key and value heads; fewer than heads is grouped-query attention."""
    positions: Positions | None = None
    """Position encoding; with --from, alibi, rope or none takes the place of the model's own."""
    extension: Extension | None = None
    """How a model given by --from reads longer sequences than it was made for, where --context asks for them: rotary
    positions by llama3 (the default), linear or none, learned ones by tile (the default) or interpolate."""
    window: int | None = None
    """Largest distance in tokens between a token and one that it sees (sliding window); 0, the default, is no limit."""
    global_every: int | None = None
    """Every how many blocks one has no window, the first among them; 0, the default, gives all blocks the window."""
    norm: Norm | None = None
    """Normalisation layer."""
    norm_placement: NormPlacement | None = None
    """Whether norms stand before attention and MLP, after each sum, or before and after attention and MLP (both)."""
    deepnorm: bool | None = None
    """Scale the residual stream for deep models with norms after each sum (DeepNorm). Not by default."""
    normformer: bool | None = None
    """Add norms after attention and inside the MLP, and a factor on each head (NormFormer). Not by default."""
    value_residual: bool | None = None
    """Mix the values of each block with those of the first (value residual). Not by default."""
    shared_blocks: int | None = None
    """Number of different blocks, used in turn: 1 shares one block over the whole depth (ALBERT). All by default."""
    own_norms: bool | None = None
    """Give every depth norms of its own where blocks are shared, as WideNet does. Not by default."""
    attention_cap: float | None = None
    """Bound of the attention scores, by cap · tanh(scores / cap), as in Gemma 2 (50); 0, the default, sets none."""
    logit_cap: float | None = None
    """Bound of the logits, by cap · tanh(logits / cap), as in Gemma 2 (30); 0, the default, sets none."""
    activation: Activation | None = None
    """Activation function of the feed-forward layers."""
    experts: int | None = None
    """Number of MLPs of each block of which a router chooses some for each token (mixture of experts): more parameters
    for the same time of a step. One MLP by default."""
    experts_per_token: int | None = None
    """Number of experts that each token gets, 2 by default."""
    shared_experts: int | None = None
    """Number of further experts that every token gets. None by default."""
    expert_normalized: bool | None = None
    """Make the weights of a token's experts add up to 1, which is the default."""
    balance_loss: float | None = None
    """Factor of the auxiliary loss that makes experts get as many tokens as each other: 0.01 by default, and 0 with
    --model.balance-bias."""
    balance_bias: bool | None = None
    """Balance experts by a bias on their choice instead of a loss (loss-free balancing). Not by default."""
    bigram_embedding: int | None = None
    """Rows of a hashed bigram embedding, e.g. 65536: some hundredths fewer bits per byte after the same steps, for
    more memory and a model that only lavra can read. None by default."""
    ngram_copy: bool | None = None
    """Add an n-gram copy, which looks up what followed when a token last occurred in the document: some hundredths
    fewer bits per byte after the same steps, and a model that only lavra can read. Not by default."""
    tied: bool | None = None
    """Let the output layer share its weights with the token embedding; by default as the preset or the model has it."""
    dropout: float | None = None
    """Dropout probability on embeddings, attention and residual branches; 0 by default, also with --from."""


@dataclass(frozen=True)
class ObjectiveConfig(DenoisingConfig):
    """What is learned.

    Examples:
        >>> from lavra.config.training import ObjectiveConfig
        >>> ObjectiveConfig(name="mlm", mask_rate=0.3).whole_words
        True
        >>> ObjectiveConfig(name="fim", fim_rate=0.9).spm_share
        0.5
    """

    name: Annotated[str, shown("--objective", metavar="NAME")] = "auto"
    """causal: every token from those before; completion: only the completions of prompts; seq2seq: targets from
    sources; mlm: hidden words from both sides; electra: which words a small generator replaced; fim: causal, with the
    middle of some texts at their end; prefix-lm: the end of a text from its beginning; span-corruption: hidden spans,
    as T5; ul2 and ul2r: a mixture of both, from scratch and from a causal model; mlm+causal: masked and causal texts in
    one decoder. for embeddings contrastive, cosent, cosine-regression, margin-mse, simcse or tsdae. auto: the usual one
    of the task and the columns."""
    source_context: int | None = None
    """Largest number of tokens of a source, for seq2seq."""
    mask_rate: float | None = None
    """Share of the tokens that the masked objective predicts: 0.3 from scratch and 0.15 with --from by default, and
    0.15 for electra."""
    final_mask_rate: float | None = None
    """Mask rate at the end of the run, approached linearly; the same as --objective.mask-rate by default."""
    whole_words: bool = True
    """Hide the tokens of a word together in the masked objective; --objective.no-whole-words hides them one by one."""
    pure_mask: bool = False
    """Hide every chosen token behind the mask, instead of 80 % of them, with 10 % random and 10 % unchanged; or, for
    electra, instead of 85 % of them."""
    generator_share: float = 0.25
    """Width of electra's generator as a share of that of the model."""
    detection_weight: float = 50.0
    """Weight of the loss of electra's detector beside that of its generator."""


@dataclass(frozen=True)
class OptimizationConfig:
    """How the weights are optimised; some defaults depend on whether a model is trained from scratch or fine-tuned.

    Examples:
        >>> from lavra.config.training import OptimizationConfig
        >>> OptimizationConfig(name="adamw", learning_rate=3e-4, schedule="cosine").max_grad_norm
        1.0
    """

    name: Annotated[OptimizerName | None, shown("--optimizer")] = None
    """Optimiser: muon (default from scratch), soap and shampoo take the blocks' matrices and leave the rest to AdamW;
    adamw (default in fine-tuning), lion, adafactor and schedule-free-adamw take all weights; adamw-8bit keeps the state
    of matrices in 8 bits."""
    learning_rate: float | None = None
    """AdamW's peak learning rate: 6e-3 from scratch (3e-3 where the output layer is tied or embeddings are not
    normalised), 1e-4 in fine-tuning (2e-5 for embeddings), 5e-4 with an adapter; a fifth of it for lion, and ten times
    as much for adafactor, relative to the size of the weights."""
    embedding_lr: float | None = None
    """Peak learning rate of the embeddings: 0.15 from scratch where they are normalised (a fifth of it for lion),
    elsewhere the learning rate."""
    muon_lr: float | None = None
    """Muon's peak learning rate: 0.014, less in short runs that start from bigram counts."""
    weight_decay: float = 0.0
    """Weight decay of the matrices, except those that Muon trains; norms, biases and embeddings have none."""
    muon_weight_decay: float = 0.01
    """Weight decay of the matrices that Muon trains."""
    beta1: float | None = None
    """Decay rate of the moving average of the gradient: 0.9 by default, 0.95 for soap; adafactor has none."""
    beta2: float | None = None
    """Decay rate of the moving average of the squared gradient: 0.95 by default; of the gradient for lion, 0.99."""
    eps: float | None = None
    """Constant added to the denominator: 1e-10 by default, 1e-8 for soap and adamw-8bit; lion has none."""
    embedding_gradient: float = 1.0
    """Factor on the gradient of the token embeddings, such as 0.1, which keeps it from ruling the norm of the whole
    gradient (GLM-130B); 1 changes nothing."""
    z_loss: float = 0.0
    """Weight of the squared logarithm of the softmax normaliser in the loss, such as 1e-4, which keeps the logits from
    drifting; 0 for none."""
    schedule: Shape | None = None
    """Shape of the learning-rate schedule, wsd by default: warm-up, constant, and a linear decay over the last half;
    constant for schedule-free-adamw."""
    warmup_steps: int | None = None
    """Steps of linear warm-up: 10 from scratch, about a twentieth of the run in fine-tuning."""
    decay_fraction: float = 0.5
    """Share of the run over which the wsd schedule decays."""
    min_lr_ratio: float = 0.05
    """Learning rate at the end of the run, as a share of the peak."""
    batch_tokens: Count | None = None
    """Tokens of one optimiser step; chosen by the plan by default."""
    max_grad_norm: float = 1.0
    """Largest norm of the gradient; a larger gradient is scaled down to it."""
    label_smoothing: float = 0.0
    """Share of each target's probability that is spread over the vocabulary."""
    bigram_init: bool | None = None
    """Start from the bigram counts of the text instead of from random weights (warm start); by default where it pays:
    in runs from scratch of up to 1,000 tokens for each token of the vocabulary."""
    layer_decay: float = 1.0
    """Factor on the learning rate from each block to the one below it, so that the first layers change least."""


@dataclass(frozen=True)
class MachineConfig:
    """Which device computes, and how.

    Examples:
        >>> from lavra.config.training import MachineConfig
        >>> MachineConfig(device="cpu", threads=4).precision
        'auto'
    """

    device: Annotated[str, Common, shown("--device", metavar="DEVICE")] = "auto"
    """Device that computes: auto, cpu, cuda, cuda:1 or mps."""
    precision: Annotated[Literal["auto", "fp32", "bf16", "fp16"], shown("--precision")] = "auto"
    """Precision of the working weights; the master weights are always fp32."""
    compile: Annotated[Literal["auto", "yes", "no"], shown("--compile")] = "auto"
    """Compile the model's blocks; auto compiles when the run is long enough to repay it."""
    threads: int | None = None
    """Number of processor threads; one for each core by default."""
    micro_batch_size: int | None = None
    """Sequences of a micro-batch; chosen by default, and halved when memory runs out."""


@dataclass(frozen=True)
class AnomalyConfig:
    """What happens when the loss or the gradient is not finite.

    Examples:
        >>> from lavra.config.training import AnomalyConfig
        >>> AnomalyConfig(policy="rollback").max_in_a_row
        10
    """

    policy: Policy = "skip"
    """For a loss or gradient that is not finite: skip the step, roll back to the last checkpoint, or stop."""
    max_in_a_row: int = 10
    """Number of such steps in a row that ends the run."""
    spikes: bool = False
    """Treat spikes of the loss or of the gradient norm in the same way."""


@dataclass(frozen=True)
class StabilityConfig:
    """What is recorded of the stability of a run, layer by layer.

    Examples:
        >>> from lavra.config.training import StabilityConfig
        >>> StabilityConfig(every=200).histograms
        False
    """

    every: int | None = None
    """Steps between two records of the norms of weights, gradients, updates and activations; a fortieth of the run, at
    least 50, by default; 0 records nothing."""
    histograms: bool = False
    """Record histograms of the sizes of weights, gradients and activations, too."""


@dataclass(frozen=True)
class AverageConfig:
    """Averaged weights, used for validation and export.

    Examples:
        >>> from lavra.config.training import AverageConfig
        >>> AverageConfig(kind="ema").decay
        0.999
    """

    kind: Literal["none", "ema", "swa"] = "none"
    """Exponential moving average (ema), or the mean of regular snapshots of the last part of the run (swa)."""
    decay: float = 0.999
    """Decay of the moving average at each step."""
    start: float = 0.75
    """Share of the run after which SWA begins."""
    every: int = 10
    """Steps between SWA's snapshots."""


@dataclass(frozen=True)
class SetupConfig:
    """A training set-up: which data, which model, and how it learns; not how long.

    Examples:
        >>> from lavra.config.training import MachineConfig, SetupConfig
        >>> SetupConfig(data=("mytext/",), machine=MachineConfig(device="cpu")).base is None
        True
    """

    data: Annotated[tyro.conf.Positional[tuple[str, ...]], shown(metavar="DATA…")] = ()
    """Files, folders, globs, -, hf:NAME[:SPLIT], installed-docs:, or a folder made by `lavra prepare`."""
    task: Annotated[str, Common, shown(metavar="TASK")] = "auto"
    """What is learned: language-modelling, infilling, denoising, completion, seq2seq, mlm; from labels classification,
    multi-label, regression, ordinal, token-classification, question-answering; vectors of texts by embedding. auto:
    what fits the columns and the model."""
    base: Annotated[str | None, Common, shown("--from", metavar="MODEL")] = None
    """The model to fine-tune: a run, a Hugging Face folder or a hub name. By default a model is trained from
    scratch."""
    seed: int = 0
    """Seed of everything that is random."""
    text: TextConfig = field(default_factory=TextConfig)
    transforms: TransformConfig = field(default_factory=TransformConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimization: OptimizationConfig = field(default_factory=OptimizationConfig)
    technique: TechniqueConfig = field(default_factory=TechniqueConfig)
    machine: MachineConfig = field(default_factory=MachineConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    embedding: EmbeddingConfig = field(default_factory=EmbeddingConfig)


@dataclass(frozen=True)
class TrainConfig(SetupConfig):
    """A training run from text.

    Examples:
        >>> from lavra.config.training import ModelConfig, TrainConfig
        >>> from lavra.core.configuration import from_toml, to_toml
        >>> config = TrainConfig(data=("corpus.jsonl",), budget=1200.0, model=ModelConfig(context=512))
        >>> from_toml(TrainConfig, to_toml(config), "recipe.toml") == config
        True
        >>> from_toml(TrainConfig, 'data = ["corpus.jsonl"]' + chr(10) + 'budget = "20m"', "recipe.toml").budget
        1200.0
    """

    budget: Annotated[Duration | None, Common] = None
    """Length of the run as the time from the start of the command to its end. 10m when no length is given."""
    tokens: Count | None = None
    """Length of the run in tokens, instead of a time."""
    epochs: Annotated[float | None, Common] = None
    """Length of the run in passes over the text, instead of a time."""
    steps: Annotated[int | None, Common] = None
    """Length of the run in optimiser steps, instead of a time."""
    out: Annotated[str | None, Common, shown(metavar="RUN")] = None
    """The run folder; a new one under runs/ by default."""
    force: Annotated[bool, Common] = False
    """Replace an existing run folder."""
    checkpoint_every: int | None = None
    """Steps between checkpoints; a twentieth of the run, at least every 10 minutes, by default."""
    keep_checkpoints: int = 2
    """Number of newest checkpoints to keep, besides the best."""
    early_stopping: int | None = None
    """End the run after this many validations without a better one; by default it never ends early."""
    deliver: Annotated[Literal["best", "last"], tyro.conf.Suppress] = "best"
    """Which checkpoint is the result: the best by the validation loss where the last is clearly worse, or the last. A
    fold delivers the last, because the rows that measure it may not choose it."""
    update: tuple[str, ...] = ()
    """Further updates around each step, by the names under which they are registered; the first is the outermost."""
    samples: int = 3
    """Number of texts to generate with the finished model."""
    measure: Annotated[str | None, shown(metavar="LABELS")] = None
    """Rows with labels by which the finished model of a text is measured: the labels are learned from it, in a seventh
    of the budget, and the figures stand in its result."""
    folds: int | None = None
    """Number of folds of a cross-validated run, for rows with labels: a model is trained for each fold, all rows are
    predicted by models that never saw them, and then one model is trained on all rows. The budget is for all of it.
    Columns `group` and `fold` are respected."""
    seeds: int = 1
    """Number of seeds with which each fold, or without folds the model, is trained; for rows with labels."""
    fold_by: Annotated[str | None, shown(metavar="COLUMN")] = None
    """Column of dates or numbers: each fold is then validated on rows that are later than those it is trained on."""
    check: bool = True
    """Check the set-up before the first step, which takes some seconds; a failed check ends the run. --no-check leaves
    this out."""
    track: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ()
    """Experiment trackers to report to (needs the extra `track`)."""
    labels: LabelsConfig = field(default_factory=LabelsConfig)
    anomalies: AnomalyConfig = field(default_factory=AnomalyConfig)
    stability: StabilityConfig = field(default_factory=StabilityConfig)
    average: AverageConfig = field(default_factory=AverageConfig)

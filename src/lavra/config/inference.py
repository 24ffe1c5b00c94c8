"""The options of the commands that put a model to work: generate, chat, score, classify, explain, evaluate, export."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from lavra.config.flags import Common, shown
from lavra.config.generation import GenerateOptions, PromptOptions, SamplingOptions, TokenOptions
from lavra.config.quantities import Duration
from lavra.config.reading import ReadingConfig


@dataclass(frozen=True, kw_only=True)
class InferenceConfig:
    """Which model is used, and on which device.

    Examples:
        >>> from lavra.config.inference import InferenceConfig
        >>> InferenceConfig(model="runs/book").device
        'auto'
    """

    model: Annotated[tyro.conf.Positional[str], shown(metavar="MODEL")]
    """The model: a run, one of its checkpoints, a model folder or a hub name."""
    device: Annotated[str, Common, shown(metavar="DEVICE")] = "auto"
    """Device that computes: auto, cpu, cuda, cuda:1 or mps."""


@dataclass(frozen=True, kw_only=True)
class GenerateConfig(InferenceConfig, GenerateOptions):
    """The generation of texts.

    Examples:
        >>> from lavra.config.inference import GenerateConfig
        >>> GenerateConfig(model="runs/book", text="Era uma vez", top_k=40).options.top_k
        40
    """

    text: Annotated[tyro.conf.Positional[str | None], shown(metavar="[PROMPT]")] = None
    """The text to continue. In a terminal, a chat model opens a conversation when none is given."""
    prompt: Annotated[tuple[str, ...], Common] = ()
    """Several texts to continue, instead of PROMPT; an empty one starts a new document, and so does no prompt at
    all."""
    prefix: Annotated[str | None, Common] = None
    """With --suffix, instead of a prompt: the text before the gap that is filled in, by a model that learned to
    (--objective fim, span-corruption or ul2)."""
    suffix: Annotated[str | None, Common] = None
    """The text after the gap."""
    input: Annotated[str, Common, shown("--in", metavar="FILE")] = ""
    """A file of JSON Lines whose "prompt" is continued, instead of PROMPT; --out must be given too."""
    out: Annotated[str, Common, shown(metavar="FILE")] = ""
    """File of JSON Lines for the texts of --in. After an interruption, the same command makes only what is missing."""
    force: bool = False
    """Replace a file of --out that holds the texts of another request."""
    engine: Literal["auto", "torch", "ctranslate2"] = "auto"
    """Library that computes. auto takes ctranslate2 on a CPU for 64 texts or more (or a model that was converted
    before), where it supports what is asked; else torch."""
    precision: Literal["auto", "fp32", "bf16", "fp16", "int8"] = "auto"
    """Type of the weights. auto takes fp32 where nothing is sampled (greedy, beam and contrastive search), else the
    fastest: int8 with ctranslate2, with torch bf16 or int8, as the processor has it."""

    @property
    def options(self) -> GenerateOptions:
        """How to continue the prompts, without the rest."""
        return _part(self)


@dataclass(frozen=True, kw_only=True)
class ChatConfig(InferenceConfig, GenerateOptions):
    """A conversation.

    Examples:
        >>> from lavra.config.inference import ChatConfig
        >>> ChatConfig(model="runs/assistant", temperature=0.6).options.temperature
        0.6
    """

    system: Annotated[str, Common] = ""
    """The system message, which the model reads before the first turn."""
    precision: Literal["auto", "fp32", "bf16", "fp16", "int8"] = "auto"
    """Type of the weights; auto takes fp32 with --greedy, else the fastest of the device."""

    @property
    def options(self) -> GenerateOptions:
        """How to generate the answers, without the rest."""
        return _part(self)


@dataclass(frozen=True, kw_only=True)
class ExplainConfig(InferenceConfig, SamplingOptions):
    """The explanation of what a model generates next.

    Examples:
        >>> from lavra.config.inference import ExplainConfig
        >>> ExplainConfig(model="runs/book", prompt="Era uma", steps=3).options.max_new_tokens
        3
    """

    prompt: Annotated[str, Common] = ""
    """The text that the model continues."""
    steps: Annotated[int, Common] = 5
    """Number of tokens to generate and explain."""
    top: Annotated[int, Common] = 10
    """Number of candidates to show for each token."""

    @property
    def options(self) -> GenerateOptions:
        """How to generate the tokens, without the rest."""
        values = {one.name: getattr(self, one.name) for one in dataclasses.fields(SamplingOptions)}
        return GenerateOptions(max_new_tokens=self.steps, **values)


@dataclass(frozen=True, kw_only=True)
class ScoreConfig(InferenceConfig, PromptOptions):
    """The scoring of options after prompts.

    Examples:
        >>> from lavra.config.inference import ScoreConfig
        >>> ScoreConfig(model="runs/book", prompt="It is", options=(" so", " not so")).by
        'sum'
    """

    prompt: str = ""
    """The text before the options."""
    options: tuple[str, ...] = ()
    """Texts that may follow the prompt; each usually starts with a space."""
    input: Annotated[str, shown("--in", metavar="FILE")] = ""
    """A file of JSON Lines with "prompt" and "options", instead of --prompt and --options."""
    by: Literal["sum", "token", "byte", "pmi"] = "sum"
    """Compare options by their log-probability (sum), by its mean per token or per byte, or by how much the prompt
    raises it over the neutral prompt (pmi, pointwise mutual information)."""
    neutral: str = ""
    """The prompt that says nothing about the options, for --by pmi."""


@dataclass(frozen=True, kw_only=True)
class ClassifyConfig(InferenceConfig, TokenOptions):
    """The labelling of texts by a language model.

    Examples:
        >>> from lavra.config.inference import ClassifyConfig
        >>> ClassifyConfig(model="runs/book", zero_shot=True, labels=("good", "bad")).calibration
        True
    """

    text: Annotated[tuple[str, ...], Common] = ()
    """Texts to label."""
    input: Annotated[str, Common, shown("--in", metavar="FILE")] = ""
    """A file of JSON Lines with "text", instead of --text; where every line has a "label" too, the accuracy is
    given."""
    labels: Annotated[tuple[str, ...], Common, shown(metavar="LABEL…")] = ()
    """The labels to choose from, a/b for labels with levels; by default those of the examples."""
    zero_shot: Annotated[bool, Common] = False
    """Show the model no examples, only the labels."""
    few_shot: Annotated[str, Common, shown(metavar="FILE")] = ""
    """Show the model examples from this file of JSON Lines with "text" and "label"."""
    shots: Annotated[int, Common] = 8
    """Number of examples in a prompt."""
    choice: Annotated[Literal["random", "similar", "vote-k"], Common] = "random"
    """Choose the examples at random, by their similarity to the text, or as a set that represents all (vote-k)."""
    templates: Annotated[str, Common, shown(metavar="NAME|FILE")] = "classify"
    """A TOML file of prompt templates, or one of the built-in ones: classify (English), classify-pt (Portuguese)."""
    combine: Literal["average", "vote"] = "average"
    """Average the probabilities that the templates give, or let the templates vote."""
    calibration: bool = True
    """Remove the model's preference for some labels (contextual calibration); --no-calibration keeps it."""
    long_text: Literal["cut", "refuse"] = "cut"
    """Leave out the end of a text that does not fit the model's context, which is counted and said (cut), or stop there
    (refuse)."""
    out: Annotated[str, Common, shown(metavar="FILE")] = ""
    """File of JSON Lines to write the labelled lines to."""
    force: bool = False
    """Replace the file of --out."""
    seed: int = 0
    """Seed of the random choice of examples."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "fp32"
    """Type of the weights; auto takes what the device multiplies fastest."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(InferenceConfig):
    """The measurement of a model on text.

    Examples:
        >>> from lavra.config.inference import EvaluateConfig
        >>> EvaluateConfig(model="runs/book", data=("news.jsonl",)).text.column
        'text'
    """

    data: Annotated[tuple[str, ...], shown(metavar="DATA…")] = ()
    """Text to measure on, named as for training; the validation text of the run by default."""
    budget: Duration | None = None
    """Longest time of the evaluation: where it does not suffice for all documents, a random sample of them is measured.
    """
    split: Literal["train", "validation"] = "validation"
    """Which part of the run's own text, or of a prepared folder, to measure on."""
    stride: int | None = None
    """Tokens from the start of one sequence to the start of the next; half the context by default. A smaller stride
    gives each token more context, and takes longer."""
    context: int | None = None
    """Tokens of a sequence; the model's context by default."""
    bos: bool | None = None
    """--no-bos predicts a document's first token from an end-of-document token, where the model's own tokenizer begins
    texts with another one."""
    seed: int = 0
    """Seed of the bootstrap from which the intervals come, and of the sample of documents."""
    text: ReadingConfig = field(default_factory=ReadingConfig)


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """The writing of a model for other programs.

    Examples:
        >>> from lavra.config.inference import ExportConfig
        >>> ExportConfig(model="gpt2", out="exported/gpt2").format
        'hf'
    """

    model: Annotated[tyro.conf.Positional[str], shown(metavar="MODEL")]
    """The model: a run, one of its checkpoints, a model folder, a Hugging Face folder, a hub name or a llama2.c
    file."""
    out: Annotated[str, shown(metavar="FOLDER")]
    """The folder to write the model into."""
    format: Literal["hf", "ct2", "onnx", "sentence-transformers", "static"] = "hf"
    """hf: a folder that transformers opens (config.json, model.safetensors, tokenizer, model card); ct2: one that
    ctranslate2 opens; onnx: a classifier of texts for onnxruntime; sentence-transformers: an encoder of texts with
    pooling, prompts and normalisation; static: an encoder distilled into one vector for each token, which embeds
    thousands of texts a second (it needs --data)."""
    quantization: Literal["int8", "int8_float32", "int8_bfloat16", "int8_float16", "bfloat16", "float16", "float32"] = (
        "int8"
    )
    """Type of the weights, for --format ct2; for onnx, int8 or float32."""
    data: Annotated[tuple[str, ...], shown(metavar="DATA…")] = ()
    """Text on which the outputs of both models are compared; some sentences that come with lavra by default. For
    --format static, text like that which will be embedded: its tokens are counted, and the vectors tuned on it; a run
    that trained static vectors needs none."""
    dimensions: Annotated[int | None, shown(metavar="N")] = None
    """Size of the vectors, for --format static; 256 by default."""
    tune: Annotated[int, shown(metavar="TEXTS")] = 20_000
    """Most texts on which the vectors are tuned, for --format static; 0 leaves that out."""
    force: bool = False
    """Replace an existing folder."""
    text: ReadingConfig = field(default_factory=ReadingConfig)


def _part(config: GenerateConfig | ChatConfig) -> GenerateOptions:
    """Return the options of generation that a command's configuration holds."""
    return GenerateOptions(**{one.name: getattr(config, one.name) for one in dataclasses.fields(GenerateOptions)})

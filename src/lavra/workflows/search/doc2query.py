"""Training a query generator (doc2query), and measuring it on validation documents."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from lavra.config.search import Doc2QueryConfig
from lavra.config.training import (
    MachineConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimizationConfig,
    TextConfig,
    TrainConfig,
)
from lavra.config.transforms import TransformConfig
from lavra.core.disk.files import write_json
from lavra.core.disk.json_lines import one_line
from lavra.core.disk.replacing import check_replaceable, check_replaceable_file
from lavra.core.disk.run_folder import RunFolder, is_run
from lavra.core.errors import InputError
from lavra.core.progress import log, printable
from lavra.core.units import counted
from lavra.data.readers.lines import warning_lines
from lavra.data.readers.rows import BadRows
from lavra.data.tokenizers.tokenizer import Tokenizer, choose_vocabulary_size
from lavra.evaluation.text_overlap import TextOverlap, text_overlap
from lavra.models.families.importing import read_config
from lavra.models.hf.kinds import choose_kind
from lavra.search.expansion.prompts import BARE, QueryPrompt, is_recorded, prompt_of
from lavra.search.expansion.query_generator import ModelQueryGenerator, reads_with_encoder
from lavra.search.expansion.scorers import LikelihoodScorer
from lavra.search.expansion.training_rows import (
    TrainingPassage,
    check_pairs,
    example_row,
    is_validation,
    read_pairs,
    training_passages,
)
from lavra.text.languages import guess_language
from lavra.workflows.models.open import OpenModel, hugging_face_folder, open_model
from lavra.workflows.training.train import train

DEFAULT_BUDGET = 600.0
"""Time budget in seconds where no length is given."""

VALIDATION = "doc2query-validation.json"
"""Name of the file with the validation figures, in the folder of the run."""

_VALIDATION_SHARE = 0.03
"""Share of the documents that are kept for validation."""

_TRAINING_SHARE = 0.93
"""Share of the time budget for training; generating and comparing queries takes the rest."""

_FEWEST_TOKENS = 64
"""Least length in tokens of the chunks that the generator is given later."""

_SHOWN = 5
"""Number of validation passages whose queries are shown."""

_CONTEXT = 512
"""Default context length in tokens of a decoder that is trained from scratch."""


@dataclass(frozen=True)
class Generator:
    """A trained query generator.

    Attributes:
        run: The training run, which `lavra expand --model` takes.
        prompt: The prompt with which the generator was trained.
        loss: Validation loss: mean nats per token of people's queries for validation documents.
        overlap: Overlap of the greedy query with the queries of people (BLEU, ROUGE).
        examples: Validation passages with the queries of people and of the generator.
        documents: Number of validation documents.
    """

    run: RunFolder
    prompt: QueryPrompt
    loss: float
    overlap: TextOverlap
    examples: list[dict[str, Any]]
    documents: int

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "run": str(self.run.path),
            "loss": self.loss,
            "perplexity": math.exp(min(self.loss, 700.0)),
            **self.overlap.to_json(),
            "validation_documents": self.documents,
            "prompt": self.prompt.to_json(),
            "examples": self.examples,
        }


def train_generator(config: Doc2QueryConfig) -> Generator:
    """Train a query generator on pairs of a passage and a query, and measure it on validation documents.

    This is doc2query (Nogueira et al., arXiv 1904.08375). A decoder that is trained from scratch predicts the passages
    too, from which it learns the language, and after each its queries. A pretrained model predicts only the queries.
    The prompt is recorded with the model, so that the generator is used as it was trained.

    Args:
        config: The request.

    Returns:
        The generator with its validation figures, which are also in `doc2query-validation.json` in the run's folder.

    Raises:
        InputError: If the request is wrong or the pairs cannot be used.
        Interrupted: After a signal to stop; `lavra resume RUN` continues.
    """
    out = Path(config.out) if config.out else _new_folder(config)
    check_replaceable(out, force=config.force, inputs=[config.pairs, *([config.base] if config.base else [])])
    encoder = _encoder(config)
    prompt = _prompt(config, encoder)
    problems = BadRows()
    data = _rows_of(out)
    check_replaceable_file(data, force=config.force, inputs=[config.pairs])
    validation_set, language = _write_rows(config, prompt, data, problems)
    for line in warning_lines(problems):
        log(line)
    run = train(_request(config, data, out, reads=encoder is not None))
    opened = open_model(str(run.path), config.device, config.precision)
    prompt = replace(prompt, language=language, trained_on=config.pairs)
    if config.base is None:
        prompt = replace(prompt, passage_tokens=_longest(opened, validation_set))
    prompt.write(run.path)
    prompt.write(run.path / "model")
    generator = measure_generator(run, opened, prompt, validation_set)
    write_json(run.path / VALIDATION, generator.to_json())
    return generator


def _new_folder(config: Doc2QueryConfig) -> Path:
    number = 1
    while (folder := Path("runs") / f"doc2query-{number:03d}").exists() or _rows_of(folder).exists():
        number += 1
    return folder


def _rows_of(out: Path) -> Path:
    """Return the file of the training rows, which lies beside the run."""
    return out.with_name(f"{out.name}-pairs.jsonl")


def _encoder(config: Doc2QueryConfig) -> Path | None:
    """Return the folder of a base model that is an encoder, to which training adds a decoder (Rothe et al., arXiv
    1907.12461); None for other base models."""
    if config.base is None:
        return None
    run = Path(config.base)
    folder = hugging_face_folder(str(run / "model") if is_run(run) else config.base)
    return None if folder is None or choose_kind(read_config(folder), folder) != "encoder" else folder


def _prompt(config: Doc2QueryConfig, encoder: Path | None) -> QueryPrompt:
    """Return the prompt: the recorded one of a generator; the bare passage for an encoder; else one with a mark that
    tells a decoder where the passage ends."""
    if config.base is None:
        return QueryPrompt()
    if is_recorded(config.base):
        return prompt_of(config.base, BARE)
    if encoder is not None:
        return _bare(Tokenizer.load(encoder))
    opened = open_model(config.base, "cpu")
    return _bare(opened.tokenizer) if reads_with_encoder(opened.model) else QueryPrompt()


def _bare(tokenizer: Tokenizer) -> QueryPrompt:
    """Return the prompt for an encoder, with a mark between queries that the tokenizer can write."""
    for separator in (" |", " ;"):
        if separator.strip() in tokenizer.decode(tokenizer.encode(f"a{separator} b")):
            return replace(BARE, separator=separator.strip())
    return BARE


def _write_rows(
    config: Doc2QueryConfig, prompt: QueryPrompt, data: Path, problems: BadRows
) -> tuple[list[TrainingPassage], str]:
    """Write the training rows; return the passages for validation, and the language of all."""
    data.parent.mkdir(parents=True, exist_ok=True)
    validation_set: list[TrainingPassage] = []
    sample: list[str] = []
    passages = queries = 0
    part = data.with_name(f".{data.name}.part")  # a killed command leaves no file that the next would not replace
    with part.open("w", encoding="utf8", errors="surrogatepass") as handle:
        for asked in training_passages(read_pairs(config.pairs, config.split, problems)):
            if is_validation(asked.document, _VALIDATION_SHARE):
                validation_set.append(asked)
                continue
            passages += 1
            queries += len(asked.queries)
            if passages % 20 == 1 and len(sample) < 500:
                sample.append(asked.passage)
            for row in example_row(asked, prompt, whole=config.base is None, seed=config.seed):
                handle.write(one_line(row) + "\n")
    try:
        check_pairs(passages, config.pairs)
        if not validation_set:
            raise InputError(f"{config.pairs} has too few documents to keep some for validation", "give more pairs")
    except InputError:
        part.unlink()
        raise
    part.replace(data)
    guess = guess_language(sample)
    log(
        f"{counted(passages, 'passage')} with {counted(queries, 'query', 'queries')} for training, "
        f"{counted(len(validation_set), 'passage')} for validation; language: {guess.name}"
    )
    return validation_set[: config.validation_documents], guess.language or ""


def _request(config: Doc2QueryConfig, data: Path, out: Path, *, reads: bool) -> TrainConfig:
    """Return the request of the training; `reads` says that the base model is an encoder, which gets a decoder."""
    vocabulary = choose_vocabulary_size(data.stat().st_size) if config.base is None else None
    lengths = (config.budget, config.epochs, config.steps)
    budget = config.budget if any(one is not None for one in lengths) else DEFAULT_BUDGET
    return TrainConfig(
        data=(str(data),),
        base=config.base,
        budget=None if budget is None else _TRAINING_SHARE * budget,
        epochs=config.epochs,
        steps=config.steps,
        out=str(out),
        force=config.force,
        seed=config.seed,
        samples=0,
        check=config.check,
        transforms=TransformConfig(freeze=config.freeze),
        objective=ObjectiveConfig(name="seq2seq" if reads else "auto"),
        text=TextConfig(validation_share=0.02, vocabulary=vocabulary),
        model=ModelConfig(context=(config.context or _CONTEXT) if config.base is None else config.context),
        optimization=OptimizationConfig(learning_rate=config.learning_rate),
        machine=MachineConfig(device=config.device, precision=config.precision),
    )


def _longest(opened: OpenModel, validation_set: list[TrainingPassage]) -> int:
    """Return the most tokens that a passage has; documents are later split into chunks of at most this length."""
    return max(_FEWEST_TOKENS, *(len(opened.tokenizer.encode(one.passage)) for one in validation_set))


def measure_generator(
    run: RunFolder, opened: OpenModel, prompt: QueryPrompt, validation_set: list[TrainingPassage]
) -> Generator:
    """Generate the greedy query for each validation passage, and compare it with the queries of people.

    Args:
        run: The training run.
        opened: The trained model.
        prompt: The prompt with which it was trained.
        validation_set: The validation passages with the queries of people.

    Returns:
        The generator with its validation figures.
    """
    log(f"validation: generating queries for {counted(len(validation_set), 'passage')}")
    writer = ModelQueryGenerator(opened.model, opened.tokenizer, prompt)  # pyright: ignore[reportArgumentType]
    readable = [
        one for one in validation_set if len(opened.tokenizer.encode(one.passage)) <= writer.room
    ] or validation_set[:1]
    passages = [one.passage for one in readable]
    greedy = [queries[0] for queries in writer.write(passages, 1, 0)]
    drawn = writer.write(passages[:_SHOWN], 3, 0)
    overlap = text_overlap(greedy, [one.queries for one in readable])
    scorer = LikelihoodScorer(opened.model, opened.tokenizer, prompt)  # pyright: ignore[reportArgumentType]
    examples = [
        {"passage": one.passage, "people": list(one.queries), "greedy": best, "sampled": some}
        for one, best, some in zip(islice(readable, _SHOWN), greedy, drawn, strict=False)
    ]
    loss = scorer.loss(passages, [one.queries for one in readable])
    return Generator(run, prompt, loss, overlap, examples, len({one.document for one in readable}))


def report(generator: Generator) -> list[str]:
    """Return the validation figures and the examples as lines of plain text.

    Args:
        generator: What `train_generator` returned.
    """
    overlap = generator.overlap
    named = {"BLEU": overlap.bleu, "ROUGE-1": overlap.rouge1, "ROUGE-2": overlap.rouge2, "ROUGE-L": overlap.rougeL}
    lines = []
    for one in generator.examples:
        lines += ["", f"  passage: {printable(' '.join(one['passage'].split()))[:200]}…"]
        lines += [f"  people:  {printable(one['people'][0])}", f"  greedy:  {printable(one['greedy'])}"]
        lines += [f"  sampled: {printable(query)}" for query in one["sampled"]]
    return [
        f"{generator.run.path}: measured on {counted(generator.documents, 'validation document')}",
        f"  validation loss {generator.loss:.3f} nats per token of people's queries",
        *(f"  {name} {_shown(value)}" for name, value in named.items()),
        *lines,
    ]


def _shown(estimate: Any) -> str:
    bounds = "" if estimate.low is None else f" [{estimate.low:.3f}, {estimate.high:.3f}]"
    return f"{estimate.value:.3f}{bounds}"

"""What a training run needs before its plan, in the folder of the run: the machine, the base model, the data."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from lavra.config.training import TextConfig, TrainConfig
from lavra.core.disk.files import read_json
from lavra.core.errors import InputError
from lavra.core.progress import log
from lavra.data.examples.chats import ChatTemplate
from lavra.data.examples.default_chat import default_chat_template, with_turn_token
from lavra.data.examples.labelled import LabelReader
from lavra.data.examples.prepare import prepare_examples
from lavra.data.examples.rows import PairColumns, read_examples
from lavra.data.readers.documents import is_repeatable, read_rows
from lavra.data.readers.rows import BadRows
from lavra.data.token_store.prepare import TOKENIZER
from lavra.data.tokenizers.for_encoders import for_encoder, has_mask
from lavra.data.tokenizers.report import CorpusSample, TokenizerReport
from lavra.data.tokenizers.tokenizer import ENCODER_TOKENS, Tokenizer
from lavra.models.families.companions import TEMPLATES, copy_files
from lavra.models.presets import named_vocabulary
from lavra.planning.budget import vocabulary_for, vocabulary_note
from lavra.planning.machine.hardware import measure_matrix_peak
from lavra.planning.machine.memory import memory_of
from lavra.planning.scaling_law.past_runs import load_calibration
from lavra.tasks.base import ModelKind, Task
from lavra.tasks.datasets import DataDescription, Dataset, TextDataset
from lavra.tasks.labelled_text import LabelledTextTask
from lavra.tasks.opening import open_dataset
from lavra.tasks.table import choose_task, kind_from_scratch
from lavra.training.devices import use_threads
from lavra.training.precision import choose_precision
from lavra.workflows.datasets.text import (
    data_folder,
    is_prepared,
    open_tokenizer,
    pair_columns,
    prepare_as_asked,
    tokenizer_place,
)
from lavra.workflows.embeddings.base_settings import prompts_of, settings_of
from lavra.workflows.models.base_model import Base, read_base
from lavra.workflows.models.saved_base import BASE, save_base
from lavra.workflows.models.surgery import tell_longest
from lavra.workflows.models.vocabulary import with_another_vocabulary, with_objective_tokens
from lavra.workflows.training.autoconfig import Machine, draft_model

_FITTING = 0.99
"""Share of the examples that must fit a row without being cut, the longest row in tokens that this may give, and the
number of which the length of a row is a multiple."""
_LONGEST = 1024
_MULTIPLE = 64

_MEASURED = 200
"""Pieces of text on which the bytes per token of a new tokenizer are measured."""


def describe_data(config: TrainConfig) -> DataDescription:
    """Return what the data of a request are, by the columns of the first row; nothing else is read.

    Args:
        config: The request.
    """
    text = config.text
    named = bool(text.prompt or text.completion)
    sentence = settings_of(config.base)
    prompts = prompts_of(config.embedding, sentence)
    if is_prepared(config.data):
        return replace(open_dataset(Path(config.data[0])).description, sentence=sentence, prompts=prompts)
    plain = DataDescription(
        text_column=text.column,
        pairs_named=named,
        label_column=text.label,
        template=text.template,
        sentence=sentence,
        prompts=prompts,
    )
    if not all(is_repeatable(location) for location in config.data):
        return plain
    try:
        rows = read_rows(
            config.data,
            text_column=None,
            encoding=text.encoding,
            validation=text.validation,
            bad_rows=BadRows(),
        )
        first = dict(next(rows).fields)
        return replace(plain, columns=frozenset(first), first_row=first)
    except (InputError, StopIteration):  # files without columns; what is wrong with others is told when they are read
        return plain


def training_dataset(
    config: TrainConfig, home: Path, machine: Machine, base: Base | None, task: Task | None = None
) -> Dataset:
    """Open the prepared data of a request, or prepare its data in the folder of the run.

    Args:
        config: The request.
        home: The folder of the run.
        machine: The machine that will train, whose speed decides the size of a new vocabulary.
        base: The pretrained model to adapt, whose tokenizer is used; None for training from scratch.
        task: The task that will be trained; that of the base model if None.

    Returns:
        The data set.

    Raises:
        InputError: If the data cannot be used, or was prepared with another tokenizer than that of the base model.
    """
    folder = data_folder(config, home)
    if is_prepared(config.data):
        return _matching(open_dataset(folder), base, folder, task, kind_from_scratch(config))
    task = task if base is None else base.task
    assert task is not None
    data = (_prepared_text if task.rows == "text" else _prepared_examples)(config, home, folder, machine, base, task)
    log(data.summary())
    return data


def _matching(data: Dataset, base: Base | None, folder: Path, task: Task | None, kind: ModelKind) -> Dataset:
    if base is None and task is not None and task.bos and kind == "encoder" and not has_mask(data.tokenizer):
        raise InputError(
            f"{folder} was prepared for a decoder: its vocabulary has no mask token",
            "prepare it again: lavra prepare DATA --text.encoder-tokens --out FOLDER",
        )
    if base is not None and base.tokenizer.fingerprint != data.tokenizer.fingerprint:
        raise InputError(
            f"{folder} was prepared with another tokenizer than that of {base.place}",
            f"prepare it again: lavra prepare DATA --text.tokenizer {base.place} --out FOLDER",
        )
    return data


def _prepared_text(
    config: TrainConfig, _home: Path, folder: Path, machine: Machine, base: Base | None, task: Task
) -> Dataset:
    return TextDataset(
        prepare_as_asked(
            config.data,
            folder,
            config.text,
            vocabulary_size=_vocabulary_chooser(config, machine),
            tokenizer=None if base is None else base.tokenizer,
            encoder=base is None and kind_from_scratch(config) == "encoder",
            complete=None if base is not None else _completer(config, task),
            bos=task.bos,
        )
    )


def _completer(config: TrainConfig, task: Task) -> Callable[[Tokenizer], Tokenizer]:
    """Return the function that gives the tokenizer of a new model the special tokens of its objective."""
    objective, kind = task.objective_named(config.objective.name), kind_from_scratch(config)
    return lambda tokenizer: task.complete_tokenizer(tokenizer, config.objective, objective, kind)


def _prepared_examples(
    config: TrainConfig, home: Path, folder: Path, machine: Machine, base: Base | None, task: Task
) -> Dataset:
    if task.rows == "labelled" and not config.text.validation_share and not isinstance(task, LabelledTextTask):
        raise InputError(f"--text.validation-share 0 is not for {task.name}", "keep some rows to measure on")
    columns = task.reader(describe_data(config)) if task.rows == "labelled" else pair_columns(config.text)
    if base is None:
        tokenizer, context, source_context = _from_nothing(config, machine, columns)
    else:
        tokenizer, context, source_context = base.tokenizer, base.window, base.source_window
    if isinstance(columns, LabelReader):
        columns = columns.for_context(context)
        context = columns.longest_text(context)
    prepared = prepare_examples(
        config.data,
        folder,
        tokenizer,
        kind="labelled" if task.rows == "labelled" else "encoder-decoder" if task.sources else "decoder",
        context=context,
        source_context=source_context or None,
        columns=columns,
        chat_template=_chat_template(config, home, base, tokenizer),
        validation_share=config.text.validation_share,
        validation_limit=config.text.validation_limit,
        on_bad_row=config.text.on_bad_row,
        normalize=config.text.normalize,
        encoding=config.text.encoding,
        validation=config.text.validation,
        held_out=config.text.held_out,
    )
    if base is not None and prepared.report["chats"] and ChatTemplate.load(home / BASE) is None:
        copy_files(folder / TOKENIZER, home / BASE, TEMPLATES)  # the model now learns this template, so it keeps it
    return open_dataset(prepared.folder)


def _from_nothing(
    config: TrainConfig, machine: Machine, columns: PairColumns | LabelReader | None
) -> tuple[Tokenizer, int, int]:
    """Return a tokenizer for the examples, and the lengths in tokens of the rows of the model that will be trained on
    them, and of its sources: 0 for a model that reads none."""
    sample, sizes, sources, chats = CorpusSample(), array("L"), array("L"), False
    kind = kind_from_scratch(config)
    text = config.text
    for row in read_examples(
        config.data,
        BadRows(policy=text.on_bad_row),
        columns=columns,
        encoding=text.encoding,
        validation=text.validation,
    ):
        if row.is_validation:
            continue
        chats |= bool(row.messages)
        texts = [turn["content"] for turn in row.messages] or [row.prompt, row.completion]
        for text in texts:
            sample.add(text)
        if kind == "encoder-decoder":
            sources.append(len(row.prompt.encode()))
            texts = texts[1:]
        sizes.append(sum(len(text.encode()) for text in texts))
    size, encodes = sum(sizes) + sum(sources), kind == "encoder"
    if config.text.tokenizer:
        tokenizer = open_tokenizer(config.text.tokenizer)
    else:
        vocabulary = _vocabulary_chooser(config, machine)(size)
        log(f"training a tokenizer of {vocabulary} tokens")
        tokenizer = Tokenizer.train(sample, vocabulary - (len(ENCODER_TOKENS) if encodes else 0))
        tokenizer = with_turn_token(tokenizer) if chats else tokenizer
    tokenizer = for_encoder(tokenizer) if encodes else tokenizer
    bytes_per_token = TokenizerReport.measure(tokenizer, islice(sample, _MEASURED)).bytes_per_token
    longest = _fitting_length(sizes, bytes_per_token)
    if kind == "encoder-decoder":
        source = config.objective.source_context or _fitting_length(sources, bytes_per_token)
        return tokenizer, config.model.context or longest, source
    return tokenizer, config.model.context or max(draft_model(config, machine, size).context, longest), 0


def _fitting_length(sizes: array[int], bytes_per_token: float) -> int:
    """Return the length in tokens that nearly all texts of such sizes in bytes fit, with one token more."""
    usual = sorted(sizes)[int(_FITTING * (len(sizes) - 1))] / bytes_per_token + 1
    return int(min(_LONGEST, -(-usual // _MULTIPLE) * _MULTIPLE))


def _chat_template(config: TrainConfig, home: Path, base: Base | None, tokenizer: Tokenizer) -> ChatTemplate:
    """Return the chat template of the base model, or of the tokenizer that is named; else lavra's default template."""
    asked = config.text.tokenizer
    folder = home / BASE if base is not None else tokenizer_place(asked) if asked else None
    found = ChatTemplate.load(folder) if folder is not None and folder.is_dir() else None
    return found or default_chat_template(tokenizer)


def _vocabulary_chooser(config: TrainConfig, machine: Machine) -> Callable[[int], int]:
    """Return a function that chooses the size of the vocabulary from the bytes of the text."""

    def choose(corpus_bytes: int) -> int:
        size = vocabulary_of(config, draft_model(config, machine, corpus_bytes).vocabulary, corpus_bytes)
        if config.text.vocabulary is None and (note := vocabulary_note(size, corpus_bytes)):
            log(f"note: {note}")
        return size

    return choose


def vocabulary_of(config: TrainConfig, drafted: int, corpus_bytes: float) -> int:
    """Return the size of the vocabulary to train: what was asked for, what the preset's name says, or what suits.

    Args:
        config: The request.
        drafted: Vocabulary size of the shape that would be trained.
        corpus_bytes: Bytes of the training text.
    """
    asked = config.text.vocabulary or named_vocabulary(config.model.preset)
    return asked or vocabulary_for(drafted, corpus_bytes)


def measured_machine(config: TrainConfig, device: torch.device) -> Machine:
    """Return this machine with its measured peak, and set the number of processor threads.

    Args:
        config: The request, which may fix precision and threads.
        device: The device that will compute.
    """
    threads = use_threads(config.machine.threads)
    precision = choose_precision(config.machine.precision, device)
    peak = measure_matrix_peak(device, precision)
    efficiency, _ = load_calibration().efficiency_on(device.type, peak, threads)
    return Machine(device, precision, peak, threads, memory_of(device), efficiency)


def opened_base(config: TrainConfig, device: torch.device, home: Path, data: DataDescription) -> Base | None:
    """Open the pretrained model that a request names, and save it in the folder of the run.

    Args:
        config: The request.
        device: The device that will compute.
        data: What is known of the data.
        home: The folder of the run.

    Returns:
        The base model, with the vocabulary that the request asks for; None where the request names no model.

    Raises:
        InputError: If there is no such model, or it cannot be trained as asked.
    """
    if config.base is None:
        return None
    base = with_objective_tokens(config, with_another_vocabulary(config, read_base(config, device, data)))
    assert base.opened is not None
    save_base(home, base.model, base.tokenizer, base.opened.files)
    if base.surgery is not None:
        tell_longest(home / BASE, base.model.context)
    return base


# Tokenising a corpus once, to train on it many times.


def prepare_text(data: Sequence[str], out: str | Path, text: TextConfig, *, force: bool = False) -> dict[str, Any]:
    """Read, split and tokenise text into a folder.

    Args:
        data: The text: files, folders, globs, `-`, `hf:NAME[:SPLIT]` or `installed-docs:`.
        out: The folder to write, with the token stores `train` and `validation` and the tokenizer.
        text: How the text is read, split and tokenised.
        force: Whether an existing folder is replaced.

    Returns:
        The report of what was read, left out and changed, as plain values; it is also in `report.json` in the folder.

    Raises:
        InputError: If the text cannot be used, holds examples instead of documents, or the folder may not be written.
    """
    described = describe_data(TrainConfig(data=tuple(data), text=text))
    task = choose_task("auto", "auto", "decoder", described, "a new model")[0]
    if task.rows != "text":
        kind, alone = "prompts with their answers", "or name a column with --text-column"
        if isinstance(task, LabelledTextTask):
            kind, alone = "texts with their labels", "--task language-modelling there learns the texts alone"
        raise InputError(
            f"{', '.join(data)} holds {kind}, not documents",
            f"give it to `lavra train` itself, which prepares it for its model; {alone}",
        )
    prepared = prepare_as_asked(data, out, text, vocabulary_size=text.vocabulary, force=force)
    log(TextDataset(prepared).summary())
    return read_json(Path(out) / "report.json")

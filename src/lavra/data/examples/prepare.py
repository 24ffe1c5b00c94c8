"""Prepares rows with a part to learn for training: reads them, splits them by their prompts and encodes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lavra.core.disk.building import building_folder
from lavra.core.disk.files import read_json, write_atomically, write_json
from lavra.core.errors import CorruptFile, InputError
from lavra.core.progress import Progress, log
from lavra.core.units import counted
from lavra.data.examples.chats import TEMPLATE_FILE, ChatTemplate
from lavra.data.examples.encoding import ExampleEncoder
from lavra.data.examples.label_leaks import leaks_across
from lavra.data.examples.label_split import validation_rows
from lavra.data.examples.labelled import LabelReader
from lavra.data.examples.rows import (
    ExampleRow,
    PairColumns,
    read_example_cache,
    read_examples,
    write_example_cache,
)
from lavra.data.examples.store import ExampleManifest, ExampleStore, Kind
from lavra.data.examples.writer import ExampleWriter
from lavra.data.readers.compressed import BytesRead
from lavra.data.readers.rows import OVERLAP, UNKNOWN_TOKEN, BadRows, OnBadRow
from lavra.data.split import GivenValidation, Halves, Split, SplitCounter, content_hash
from lavra.data.token_store.prepare import HELD_OUT, REPORT, TOKENIZER, TRAIN, VALIDATION, VALIDATION_LIMIT
from lavra.data.tokenizers.streaming import prefetch
from lavra.data.tokenizers.tokenizer import Tokenizer

_EXAMPLE_CACHE = "examples.zst"
# Share of unknown tokens among the learned ones from which a warning is printed.
_UNWRITABLE = 0.001

_ANY_SHARE = 0.05  # for counting rows of which none is split off

_AT_ONCE = 1 << 20  # characters encoded at once


@dataclass(frozen=True)
class PreparedExamples:
    """Examples that are ready for training: the folder that `prepare_examples` makes.

    Attributes:
        folder: Path of the folder.
        train: Store of the training examples.
        validation: Store of the validation examples; no prompt is in both stores.
    """

    folder: Path
    train: ExampleStore
    validation: ExampleStore

    @classmethod
    def of_one(cls, folder: Path, store: Path) -> PreparedExamples:
        """Return the examples of one store, which are both sides: for rows that are only measured or predicted.

        Args:
            folder: Path of the folder with the tokenizer and the report.
            store: Path of the store.
        """
        opened = ExampleStore.open(store)
        return cls(folder, opened, opened)

    @cached_property
    def held_out(self) -> list[ExampleStore]:
        """The store of the validation examples that were kept apart, if there is one."""
        return [ExampleStore.open(self.folder / HELD_OUT)] if (self.folder / HELD_OUT).is_dir() else []

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of both stores.

        Raises:
            CorruptFile: if the copy in the folder is another tokenizer.
        """
        tokenizer = Tokenizer.load(self.folder / TOKENIZER)
        if tokenizer.fingerprint != self.train.manifest.tokenizer_fingerprint:
            raise CorruptFile(
                f"{self.folder / TOKENIZER} is not the tokenizer that the examples were made with",
                "prepare the examples again",
            )
        return tokenizer

    @cached_property
    def report(self) -> dict[str, Any]:
        """The report on what was read, left out, cut, split and tokenised, as `report.json` holds it."""
        return read_json(self.folder / REPORT)


def holds_examples(folder: str | Path) -> bool:
    """Return whether a folder was made by `prepare_examples`, and not by `prepare`."""
    report = Path(folder) / REPORT
    return report.is_file() and "kind" in read_json(report)


def open_prepared_examples(folder: str | Path) -> PreparedExamples:
    """Return the prepared examples in a folder that `prepare_examples` made.

    Raises:
        InputError: if it is no such folder.
        CorruptFile: if a file is missing or cut short.
    """
    folder = Path(folder)
    if not holds_examples(folder):
        raise InputError(f"{folder} holds no prepared examples", "prepare them again from their rows")
    return PreparedExamples(folder, ExampleStore.open(folder / TRAIN), ExampleStore.open(folder / VALIDATION))


def prepare_examples(
    locations: Sequence[str],
    out: str | Path,
    tokenizer: Tokenizer,
    *,
    kind: Kind = "decoder",
    context: int | None = None,
    source_context: int | None = None,
    columns: PairColumns | LabelReader | None = None,
    chat_template: ChatTemplate | None = None,
    validation_share: float = 0.05,
    validation_limit: int = VALIDATION_LIMIT,
    on_bad_row: OnBadRow = "skip",
    normalize: bool = False,
    encoding: str | None = None,
    validation: Sequence[str] = (),
    held_out: bool = False,
    force: bool = False,
) -> PreparedExamples:
    """Read rows with a part to learn, split them into training and validation data, and write example stores of both.

    Args:
        locations: Files, folders and other locations, see `lavra.data.readers.documents`; formats with columns only.
        out: The folder to make, with `train/`, `validation/`, `tokenizer/` and `report.json`. It appears whole or not
            at all.
        tokenizer: Tokenizer of the model that learns.
        kind: What is made: examples for a "decoder" (the default) or an "encoder-decoder", or "labelled" rows.
        context: Largest number of positions on the decoder's side. A longer prompt loses its beginning, and a longer
            answer is left out. No limit by default.
        source_context: Largest number of positions on the encoder's side; a longer text loses its end. No limit by
            default.
        columns: Columns of prompt and completion, or what reads labelled rows; by default chats and usual names are
            recognised.
        chat_template: Chat template of the tokenizer; it is written beside it where there are chats.
        validation_share: Share of the prompts' bytes that becomes validation data; a hash of the prompt decides, see
            `lavra.data.split`. 0.05 by default. With 0 all labelled rows are training data, and the store of the
            validation data holds a copy of the first one alone, so that it can be opened; `report.json` then says
            `trained_on_all`.
        validation_limit: Largest number of bytes of the validation data's prompts; 10 MB by default.
        on_bad_row: Leave bad rows out ("skip", the default), stop at them ("error"), or also at whatever is left out,
            guessed or cut ("strict").
        normalize: Bring text to Unicode's normal form C.
        encoding: Encoding of the files without a byte order mark; UTF-8, else Windows-1252, by default.
        validation: Locations of the validation data, instead of a share. Without it, files whose names say that they
            are validation data are used as such; test files beside training files are never trained on.
        held_out: Keep half of the validation examples apart in a store `held_out/`, so that what is chosen by the
            others can be measured on them; see `lavra.data.split.Halves`. There is no such store where all validation
            examples have the same prompt.
        force: Replace an existing folder.

    Returns:
        The prepared examples, opened.

    Raises:
        InputError: if the folder exists, if there are no examples or too few prompts to split them, or for a bad row
            under "error".
    """
    bad_rows = BadRows(policy=on_bad_row)
    with building_folder(Path(out), force=force, inputs=locations, kind="prepared examples") as building:
        example_cache = building / _EXAMPLE_CACHE
        all_rows = kind == "labelled" and validation_share == 0 and not validation
        counter = SplitCounter(_ANY_SHARE if all_rows else validation_share, validation_limit)
        given, chats = GivenValidation(), 0
        reading = _reading(locations, bad_rows, columns, normalize, encoding, validation)
        for row in write_example_cache(reading, example_cache):
            (given if row.is_validation else counter).add(row.key.encode())
            chats += bool(row.messages)
        encoder = ExampleEncoder(
            tokenizer,
            kind,
            bad_rows,
            context=context,
            source_context=source_context,
            chat_template=chat_template,
            reader=None if columns is None or isinstance(columns, PairColumns) else columns,
        )
        all_rows = all_rows and not given.documents
        split = counter.train_on_all() if given.documents or all_rows else counter.decide()
        examples = counter.documents + given.documents
        chosen, leaks = None, None
        if encoder.reader is not None and not all_rows:
            chosen, leaks = _divided(example_cache, bad_rows, given, validation_share)
        halves = Halves() if held_out and not all_rows else None
        manifests = _write(building, example_cache, encoder, split, examples, given, chosen, halves, all_rows=all_rows)
        example_cache.unlink()
        tokenizer.save(building / TOKENIZER)
        if chats and chat_template is not None:
            write_atomically(building / TOKENIZER / TEMPLATE_FILE, chat_template.text)
            log(f"chats are written as text by {chat_template.origin}")
        _tell(encoder, manifests, examples, str(out))
        report = {
            "data": list(locations),
            **({} if encoder.reader is None else reader_record(encoder.reader)),
            **_told(encoder, split, manifests, chats),
            "normalize": normalize,
            "encoding": encoding,
            "validation_data": list(validation),
            "validation_given": given.documents > 0,
            "trained_on_all": all_rows,
            **({} if leaks is None else {"leaks": leaks}),
        }
        write_json(building / REPORT, report)
    return open_prepared_examples(out)


def _divided(
    example_cache: Path, bad_rows: BadRows, given: GivenValidation, share: float
) -> tuple[set[int] | None, dict[str, Any] | None]:
    """Return which labelled rows are validation data, or where these were given, which of them are training rows too.

    Args:
        example_cache: File that caches the rows.
        bad_rows: Its policy decides whether a row on both sides is an error.
        given: The prompts of the validation data that the user named.
        share: Share of the rows that is wanted.
    """
    rows = read_example_cache(example_cache)
    return (None, leaks_across(rows, bad_rows)) if given.documents else (validation_rows(rows, share), None)


def _tell(encoder: ExampleEncoder, manifests: dict[str, ExampleManifest], examples: int, out: str) -> None:
    """Say what was left out, cut, and cannot be written by the tokenizer."""
    bad_rows = encoder.bad_rows
    if encoder.unknown:
        bad_rows.change(UNKNOWN_TOKEN, out, f"{encoder.unknown:,} of the tokens to learn")
    learned = sum(manifest.learned for manifest in manifests.values())
    notes = encoder.cut.summary(examples, encoder.context, encoder.source_context)
    for text in (bad_rows.summary(), notes, _unwritable(encoder.unknown, learned), _unwritten(encoder)):
        if text:
            log(text)


def reader_record(reader: LabelReader) -> dict[str, Any]:
    """Return what the report says of the reader of labelled rows, as plain values.

    Args:
        reader: The reader.
    """
    return {"columns_read": reader.to_json(), "texts_apart": reader.apart}


def _told(encoder: ExampleEncoder, split: Split, manifests: dict[str, ExampleManifest], chats: int) -> dict[str, Any]:
    """Return the report on what was left out, cut and split, as plain values."""
    return {
        "kind": encoder.kind,
        "context": encoder.context,
        "source_context": encoder.source_context,
        **encoder.bad_rows.report(),
        "cut": asdict(encoder.cut),
        "unknown": encoder.unknown,
        "unwritten": dict(encoder.unwritten),
        "chats": chats,
        "split": {**split.to_json(), **{side: _sizes(manifest) for side, manifest in manifests.items()}},
    }


def _unwritable(unknown: int, learned: int) -> str:
    """Return the warning that the tokenizer cannot write what is to be learned; empty where it can."""
    if unknown < _UNWRITABLE * learned:
        return ""
    return (
        f"{unknown / learned:.2%} of the tokens to learn stand for what the tokenizer cannot write, and the model will "
        "learn to write its unknown token there: choose a tokenizer made for this language"
    )


def _unwritten(encoder: ExampleEncoder) -> str:
    """Return the warning about parts of chats that the template leaves out; empty where it leaves out none."""
    parts = ", ".join(f"{name} (in {counted(count, 'chat')})" for name, count in encoder.unwritten.most_common())
    return f"the chat template leaves out these parts, which are therefore not learned: {parts}" if parts else ""


def _sizes(manifest: ExampleManifest) -> dict[str, int]:
    names = ("examples", "tokens", "learned", "source_tokens", "learned_bytes")
    return {name: getattr(manifest, name) for name in names}


def _reading(
    locations: Sequence[str],
    bad_rows: BadRows,
    columns: PairColumns | LabelReader | None,
    normalize: bool,
    encoding: str | None,
    validation: Sequence[str],
) -> Iterator[ExampleRow]:
    counter = BytesRead()
    with Progress("reading", None, "bytes") as progress:
        rows = read_examples(
            locations,
            bad_rows,
            columns=columns,
            normalize=normalize,
            encoding=encoding,
            validation=validation,
            counter=counter,
        )
        for row in rows:
            yield row
            progress.update(counter.done)


def _write(
    folder: Path,
    example_cache: Path,
    encoder: ExampleEncoder,
    split: Split,
    examples: int,
    given: GivenValidation,
    chosen: set[int] | None,
    halves: Halves | None,
    *,
    all_rows: bool,
) -> dict[str, ExampleManifest]:
    """Encode the rows while the next ones are read, and write both stores.

    Args:
        folder: The folder in which the stores are made.
        example_cache: File that caches the rows.
        encoder: Turns the rows into ids.
        split: Decides by a row's prompt whether it is validation data.
        examples: Number of rows, for the progress line.
        given: The prompts of the validation data that the user named.
        chosen: The numbers of the labelled rows that are validation data; None where the split decides.
        halves: Divides the validation data, of which one half is kept apart; None where all of it stays together.
        all_rows: Whether all rows are training data, of which the first is copied into the store of the others.

    Returns:
        The manifests of the stores by side, "train", "validation" and, where there is one, "held_out".
    """
    done = 0
    with ExitStack() as stack, Progress("tokenising", examples, "examples") as progress:

        def opened(side: str) -> ExampleWriter:
            return stack.enter_context(ExampleWriter(folder / side, encoder.tokenizer, encoder.kind))

        stores = {side: opened(side) for side in (TRAIN, VALIDATION)}
        train, validation = stores[TRAIN], stores[VALIDATION]
        for batch, encoded in prefetch(_batches(read_example_cache(example_cache)), encoder.encode_parts):
            for number, (row, examples_of_row) in enumerate(zip(batch, encoded, strict=True), start=done):
                if not examples_of_row:
                    continue
                picked = content_hash(row.key.encode()) < split.threshold if chosen is None else number in chosen
                validation_set = row.is_validation or picked
                by_key = encoder.reader is None or row.labels.get("group") is not None  # texts: see `leaks_across`
                if by_key and not row.is_validation and row.key.encode() in given:
                    encoder.bad_rows.change(OVERLAP, row.place)
                texts = [turn["content"] for turn in row.messages] or [row.prompt, row.completion]
                copied = [validation] if all_rows and not validation.examples else []
                held_out = validation_set and halves is not None and halves.is_held_out(row.key.encode(), _kind(row))
                side = HELD_OUT if held_out else VALIDATION if validation_set else TRAIN
                if side not in stores:
                    stores[side] = opened(side)
                for one in examples_of_row:
                    for store in (stores[side], *copied):
                        store.add(row.group, texts, one.tokens, one.learned, one.source, one.learned_bytes, one.labels)
            done += len(batch)
            progress.update(done)
        if not train.examples or not validation.examples:
            raise _too_few(train.examples + validation.examples, encoder.bad_rows)
    return {side: store.manifest for side, store in stores.items()}


def _too_few(examples: int, bad_rows: BadRows) -> InputError:
    """Return the error that there are too few examples, with the reasons for which others were left out."""
    found = "no usable example"
    if examples:
        found = (
            f"{counted(examples, 'usable example')} with too few different prompts to split into training and "
            "validation data"
        )
    reason = bad_rows.summary()
    return InputError(found + (f"\n{reason}" if reason else ""), bad_rows.remedy() or "give more examples")


def _kind(row: ExampleRow) -> str | None:
    """Return the class of a row; None for a row without one, or with a number."""
    return row.stratum if isinstance(row.stratum, str) else None


def _batches(rows: Iterable[ExampleRow]) -> Iterator[list[ExampleRow]]:
    batch: list[ExampleRow] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += len(row.prompt) + len(row.completion) + sum(len(turn["content"]) for turn in row.messages)
        if size >= _AT_ONCE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch

"""One text for every side: lavra's stores, and the same ids as the flat files that the peers read."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

from lavra.data.readers.documents import read_rows
from lavra.data.readers.rows import SourceDocument
from lavra.data.token_store.prepare import TRAIN, VALIDATION, open_prepared, prepare
from lavra.data.token_store.writer import StoreWriter
from lavra.data.tokenizers.report import CorpusSample
from lavra.data.tokenizers.tokenizer import Tokenizer

_BATCH = 2048
"""Documents tokenised at once."""

_HELD_OUT_LIMIT = 1_000_000
"""Most bytes that are held out of one text: scoring them takes half a minute."""


@dataclass(frozen=True)
class Text:
    """What was prepared.

    Attributes:
        name: the locations, in words.
        fingerprint: of the tokens and the tokenizer: equal fingerprints are equal trainings.
        vocabulary: of the tokenizer; fewer than asked for where the text is small.
        end_of_document: the id after every document.
        train_tokens: to train on.
        tokens: of the validation stream.
        documents: held out.
        bytes: of the held-out documents' original text.
    """

    name: str
    fingerprint: str
    vocabulary: int
    end_of_document: int
    train_tokens: int
    tokens: int
    documents: int
    bytes: int


def prepared_text(
    locations: Sequence[str], validation_set: Sequence[str], home: Path, vocabulary: int, share: float
) -> tuple[Text, Path]:
    """Return the text and its folder inside `home`; what was prepared before is taken as it is.

    Args:
        locations: to train on.
        validation_set: for validation; without any, `share` of the documents, at most 1 MB, as `lavra prepare` divides
            them.
        home: where folders of prepared text are kept.
        vocabulary: of the byte-level BPE that is trained on the training text.
        share: of the documents, for validation.
    """
    names = [str(Path(name).resolve()) if Path(name).exists() else name for name in (*locations, "|", *validation_set)]
    key = hashlib.sha256(json.dumps([names, vocabulary, share, [_stamp(name) for name in names]]).encode()).hexdigest()
    folder = home / key[:12]
    if not (folder / "text.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        if validation_set:
            _store_both(locations, validation_set, folder / "stores", vocabulary)
        else:
            prepare(
                locations,
                folder / "stores",
                vocabulary_size=vocabulary,
                validation_share=share,
                validation_limit=_HELD_OUT_LIMIT,
            )
        _write_flat(folder, " ".join([*locations, *(["| held out:", *validation_set] if validation_set else [])]))
    return Text(**json.loads((folder / "text.json").read_text())), folder


def _stamp(name: str) -> tuple[int, int] | None:
    path = Path(name)
    return (path.stat().st_size, path.stat().st_mtime_ns) if path.is_file() else None


def _store_both(locations: Sequence[str], validation_set: Sequence[str], folder: Path, vocabulary: int) -> None:
    sample = CorpusSample(seed=0)
    for row in read_rows(locations):
        sample.add(row.text)
    tokenizer = Tokenizer.train(sample, vocabulary)
    for side, data in ((TRAIN, locations), (VALIDATION, validation_set)):
        with StoreWriter(folder / side, tokenizer, keep_texts=side == VALIDATION) as writer:
            for rows in _batches(read_rows(data)):
                ids = tokenizer.encode_many([row.text for row in rows])
                for row, some in zip(rows, ids, strict=True):
                    writer.add(row.source, row.text, some)
    tokenizer.save(folder / "tokenizer")
    (folder / "report.json").write_text(json.dumps({"data": list(locations), "normalize": False}))


def _batches(rows: Iterator[SourceDocument]) -> Iterator[list[SourceDocument]]:
    while batch := list(islice(rows, _BATCH)):
        yield batch


def _write_flat(folder: Path, name: str) -> None:
    prepared = open_prepared(folder / "stores")
    train, validation = prepared.train.manifest, prepared.validation.manifest
    if train.dtype != "uint16":
        raise ValueError(f"a vocabulary of {train.vocabulary_size} tokens does not fit nanoGPT's uint16 files")
    digest = hashlib.sha256(train.tokenizer_fingerprint.encode())
    for side, store in (("train", prepared.train), ("val", prepared.validation)):
        content = store.tokens.tobytes()
        digest.update(content)
        (folder / f"{side}.bin").write_bytes(content)
    (folder / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": train.vocabulary_size}))
    text = Text(
        name=name,
        fingerprint=digest.hexdigest()[:16],
        vocabulary=train.vocabulary_size,
        end_of_document=train.end_of_document,
        train_tokens=train.tokens,
        tokens=validation.tokens,
        documents=validation.documents,
        bytes=validation.bytes,
    )
    (folder / "text.json").write_text(json.dumps(asdict(text)))

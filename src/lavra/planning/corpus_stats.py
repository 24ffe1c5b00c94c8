"""Statistics of a corpus in the units of training: exact for a prepared folder, estimated from a sample otherwise."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lavra.core.errors import InputError
from lavra.core.progress import Waiting
from lavra.core.seeds import numpy_stream
from lavra.data.readers.compressed import BytesRead
from lavra.data.readers.documents import files_of, is_repeatable, read_rows
from lavra.data.readers.locations import find_files
from lavra.data.readers.rows import BadRows
from lavra.data.token_store.prepare import Prepared
from lavra.data.tokenizers.report import SAMPLE_BYTES
from lavra.data.tokenizers.tokenizer import Tokenizer
from lavra.evaluation.baselines import xz_size
from lavra.planning.scaling_law.law import Interval

_READ_LIMIT = 256_000_000
"""Bytes of text that are read at most; the amount of the rest is extrapolated from the size of the files."""

_READINGS = 2
"""Number of times that preparing a text reads it: once to train the tokenizer, once to encode."""

_SAMPLE_BYTES = 3_000_000
"""Characters of the sample of documents that is tokenised."""

_DRAWS = 400
"""Number of bootstrap samples for the interval of the number of tokens."""

_COMPRESSED_BYTES = 200_000
"""Bytes of text that are compressed to measure how predictable the text is."""


@dataclass(frozen=True)
class CorpusStats:
    """Statistics of a corpus.

    Attributes:
        documents: Number of documents.
        text_bytes: Size of the text in bytes of UTF-8.
        tokens: Number of tokens, with one for the end of each document. An estimate has a 90 % interval; an exact
            number has an interval of width 0.
        bytes_per_token: Mean number of bytes of text per token.
        fertility: Mean number of tokens per word.
        vocabulary: Vocabulary size of the tokenizer.
        tokenizer: Origin of the tokenizer, in words.
        exact: Whether the whole text was counted.
        compressed: Bits per byte of `xz -9` on 200 kB of the text, a measure of how predictable it is; None for less
            than 20 kB.
        preparation_seconds: Estimated seconds to read and tokenise the text on this machine; 0 if that is done.
    """

    documents: float
    text_bytes: float
    tokens: Interval
    bytes_per_token: float
    fertility: float
    vocabulary: int
    tokenizer: str
    exact: bool
    compressed: float | None = None
    preparation_seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the statistics as JSON values."""
        return asdict(self)


def corpus_stats_of_prepared(prepared: Prepared) -> CorpusStats:
    """Return the exact statistics of the training text of a prepared folder."""
    manifest = prepared.train.manifest
    return CorpusStats(
        documents=manifest.documents,
        text_bytes=manifest.bytes,
        tokens=Interval(manifest.tokens, manifest.tokens, manifest.tokens),
        bytes_per_token=manifest.bytes_per_token,
        fertility=manifest.tokens / max(1, manifest.words),
        vocabulary=manifest.vocabulary_size,
        tokenizer=str(prepared.folder),
        exact=True,
        compressed=compressed_bits_per_byte(stretches(prepared)),
    )


def corpus_stats(
    locations: Sequence[str],
    tokenizer: Tokenizer | Callable[[int], int],
    *,
    text_column: str = "text",
    normalize: bool = False,
    encoding: str | None = None,
    validation: Sequence[str] = (),
    seed: int = 0,
) -> CorpusStats:
    """Estimate the statistics of a corpus: read at most 256 MB of it, and tokenise a sample of its documents.

    Args:
        locations: Files, folders or other sources of text, see `lavra.data.readers.documents`.
        tokenizer: Tokenizer to use; or a function that is given the size of the text in bytes and returns a vocabulary
            size, for which a tokenizer is trained on one half of the sample and measured on the other half.
        text_column: Name of the column that contains the text.
        normalize: Whether the text is normalised to Unicode NFC.
        encoding: Character encoding of the files; None detects it, see `lavra.data.readers.documents.read_rows`.
        validation: Locations of validation text, which is not counted.
        seed: Seed of the sample and of the bootstrap.

    Raises:
        InputError: if there is no text, or a location is wrong.
    """
    reading = _Reading(locations, text_column, normalize, encoding, validation)
    sample, times = _Sample(seed), [time.perf_counter()]
    with Waiting("reading the text"):
        for text in reading:
            sample.add(text)
    texts = sample.texts
    times.append(time.perf_counter())
    if isinstance(tokenizer, Tokenizer):
        used, learned, measured, origin = tokenizer, [], texts, "as given"
    else:
        learned, measured = texts[0::2] or texts, texts[1::2] or texts
        with Waiting("training a tokenizer on a sample of the text"):
            used = Tokenizer.train(learned, tokenizer(int(reading.text_bytes)))
        origin = "trained on a sample"
    times.append(time.perf_counter())
    with Waiting("tokenising a sample of the text"):
        tokens = np.array([len(ids) + 1 for ids in used.encode_many(measured)], float)
    times.append(time.perf_counter())
    sizes = np.array([len(text.encode()) for text in measured], float)
    read, trained, encoded = np.diff(times)
    # Preparing reads twice, trains the tokenizer on a larger sample, and encodes all of the text.
    preparing = _READINGS * read * reading.text_bytes / max(1.0, min(reading.text_bytes, _READ_LIMIT))
    preparing += trained * min(reading.text_bytes, SAMPLE_BYTES) / max(1, sum(len(text.encode()) for text in learned))
    preparing += encoded * reading.text_bytes / max(1.0, sizes.sum())
    words = sum(len(text.split()) for text in measured)
    per_byte = _ratio(tokens, sizes, seed)
    return CorpusStats(
        documents=reading.documents,
        text_bytes=reading.text_bytes,
        tokens=per_byte.scaled(reading.text_bytes),
        bytes_per_token=float(sizes.sum() / tokens.sum()),
        fertility=float(tokens.sum() / max(1, words)),
        vocabulary=used.vocabulary_size,
        tokenizer=origin,
        exact=False,
        compressed=compressed_bits_per_byte(texts),
        preparation_seconds=float(preparing),
    )


def stretches(prepared: Prepared, count: int = 12) -> Iterator[str]:
    """Yield excerpts of a prepared training text, evenly spaced, of about 240 kB in total if the text is that long.

    Args:
        prepared: Prepared folder.
        count: Number of excerpts.
    """
    tokens = prepared.train.tokens
    length = int(1.2 * _COMPRESSED_BYTES / count / prepared.train.manifest.bytes_per_token)
    for number in range(count):
        start = number * len(tokens) // count
        end = min(start + length, (number + 1) * len(tokens) // count)
        yield prepared.tokenizer.decode(tokens[start:end])


def compressed_bits_per_byte(texts: Iterable[str]) -> float | None:
    """Return the bits per byte of `xz -9` on the first 200 kB of some texts, or None for less than 20 kB.

    At most 20 kB of each text are used. Compressibility predicts how low the loss of a model can get (arXiv
    2405.16684).

    Examples:
        >>> compressed_bits_per_byte(["abcd" * 10_000]) < 0.5
        True
    """
    pieces, size = [], 0
    for text in texts:
        pieces.append(text.encode()[:20_000])
        size += len(pieces[-1])
        if size >= _COMPRESSED_BYTES:
            break
    data = b"\n".join(pieces)[:_COMPRESSED_BYTES]
    return 8.0 * xz_size([data], len(data)) / len(data) if len(data) >= 20_000 else None


class _Reading:
    """Iterates over the texts of some locations up to a limit, and counts or extrapolates documents and bytes."""

    def __init__(
        self,
        locations: Sequence[str],
        text_column: str,
        normalize: bool,
        encoding: str | None,
        validation: Sequence[str],
    ) -> None:
        self.locations, self.text_column, self.normalize = locations, text_column, normalize
        self.encoding, self.validation = encoding, validation
        self.documents = self.text_bytes = 0.0

    def __iter__(self) -> Iterator[str]:
        counter, bad = BytesRead(), BadRows()
        rows = read_rows(
            self.locations,
            text_column=self.text_column,
            normalize=self.normalize,
            encoding=self.encoding,
            validation=self.validation,
            wanted=(),
            bad_rows=bad,
            counter=counter,
        )
        for row in rows:
            if row.is_validation:
                return  # validation text is read last
            self.documents += 1
            self.text_bytes += len(row.text.encode())
            yield row.text
            if self.text_bytes >= _READ_LIMIT:
                self._reckon(counter)
                return
        if not self.text_bytes:
            raise InputError(f"there is no text in {', '.join(self.locations)}", "give files or folders with text")

    def _reckon(self, counter: BytesRead) -> None:
        """Extrapolate the counts to the files that were not read, by their size on the disk."""
        files = [location for location in self.locations if is_repeatable(location)]
        kept = files_of(find_files(files), self.validation).files if files else []
        total = sum(file.size for file in kept if not file.is_validation)
        if files == list(self.locations) and counter.done:
            factor = max(1.0, total / counter.done)
            self.documents, self.text_bytes = round(self.documents * factor), round(self.text_bytes * factor)


class _Sample:
    """A uniform random sample of whole documents from a stream of unknown length.

    Every document draws a number from 0 to 1 and is kept while it is below `share`, which is halved whenever the sample
    grows too large (adaptive Bernoulli sampling).
    """

    def __init__(self, seed: int) -> None:
        self.random = numpy_stream(seed, "survey")
        self.kept: list[tuple[float, str]] = []
        self.size, self.share = 0, 1.0

    def add(self, text: str) -> None:
        place = float(self.random.random())
        if place >= self.share:
            return
        self.kept.append((place, text))
        self.size += len(text)
        while self.size > _SAMPLE_BYTES and len(self.kept) > 64:
            self.share /= 2
            self.kept = [(place, text) for place, text in self.kept if place < self.share]
            self.size = sum(len(text) for _, text in self.kept)

    @property
    def texts(self) -> list[str]:
        """The sampled documents in the order of reading; very long ones are truncated."""
        limit = max(50_000, _SAMPLE_BYTES // max(1, len(self.kept)))
        return [text[:limit] for _, text in self.kept]


def _ratio(tokens: np.ndarray, sizes: np.ndarray, seed: int) -> Interval:
    """Return the number of tokens per byte with its 90 % interval, by a bootstrap over documents."""
    drawn = numpy_stream(seed, "survey interval").integers(len(tokens), size=(_DRAWS, len(tokens)))
    ratios = tokens[drawn].sum(1) / np.maximum(sizes[drawn].sum(1), 1.0)
    low, high = np.quantile(ratios, (0.05, 0.95))
    return Interval(float(tokens.sum() / sizes.sum()), float(low), float(high))

"""The forecast of an expansion, from expanding a sample of a hundred documents first."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from lavra.core.disk.json_lines import one_line
from lavra.core.seeds import numpy_stream
from lavra.core.units import counted, show_count, show_duration, show_size
from lavra.search.corpora.documents import Document
from lavra.search.expansion.expand import Expander

PROBED = 100
"""Number of documents of the sample."""


@dataclass(frozen=True)
class CorpusSample:
    """The size of a corpus, and a sample of it.

    Attributes:
        documents: Number of documents.
        characters: Characters of all documents.
        sample: Some of the documents, drawn at random.
    """

    documents: int
    characters: int
    sample: list[Document]


@dataclass(frozen=True)
class Forecast:
    """The forecast of an expansion.

    Attributes:
        documents: Number of documents of the corpus.
        chunks: Expected number of chunks.
        seconds: Expected seconds of generating and scoring what is not in the cache yet.
        queries: Expected number of queries in the file.
        bytes: Expected size of the file in bytes.
    """

    documents: int
    chunks: int
    seconds: float
    queries: int
    bytes: int

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    def line(self) -> str:
        """Return the forecast in one line."""
        chunks = "1 chunk" if self.chunks == 1 else f"{show_count(self.chunks)} chunks"
        queries = "1 query" if self.queries == 1 else f"{show_count(self.queries)} queries"
        return (
            f"forecast: {counted(self.documents, 'document')}, {chunks}, {queries}, {show_size(self.bytes)}; about "
            f"{show_duration(self.seconds)} left"
        )


def sample_corpus(documents: Iterable[Document], *, limit: int = PROBED, seed: int = 0) -> CorpusSample:
    """Count the documents of a corpus in one pass, and draw a sample of them.

    The sample is drawn by reservoir sampling (algorithm R, Vitter 1985): document number n replaces a random one of the
    sample with probability `most / n`, so that every document is equally likely to be in the sample at the end.

    Args:
        documents: The documents, which are read once.
        limit: Size of the sample.
        seed: Seed of the sample.
    """
    sample: list[Document] = []
    stream = numpy_stream(seed, "probe")
    count = characters = 0
    for document in documents:
        count += 1
        characters += len(document.contents)
        if len(sample) < limit:
            sample.append(document)
        elif (place := int(stream.random() * count)) < limit:
            sample[place] = document
    return CorpusSample(count, characters, sample)


def probe(expander: Expander, found: CorpusSample) -> Forecast | None:
    """Expand the sample, whose queries stay in the cache, and extrapolate to the whole corpus.

    All documents are assumed to need as many seconds, chunks and bytes per character as those of the sample. After an
    interruption, the share of the sample that is in the cache already shows how much is left to do.

    Args:
        expander: The expander of the whole corpus.
        found: The size of the corpus, and the sample.

    Returns:
        The forecast; None when the expander was asked to stop.
    """
    before = expander.work.seconds
    made = list(expander.expand(found.sample))
    if len(made) < len(found.sample):
        return None
    seconds = expander.work.seconds - before
    characters = sum(one.characters for one in made)
    factor = found.characters / max(1, characters)
    return Forecast(
        documents=found.documents,
        chunks=round(factor * sum(one.chunks for one in made)),
        seconds=max(0.0, (factor - 1) * seconds),
        queries=round(factor * sum(len(one.queries) for one in made)),
        bytes=round(factor * sum(len(one_line(one.to_json()).encode()) + 1 for one in made)),
    )

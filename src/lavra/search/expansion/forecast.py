"""What an expansion will take, from expanding a hundred documents of the corpus before it starts."""

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
"""Documents of a probe."""


@dataclass(frozen=True)
class Survey:
    """A first look at a corpus.

    Attributes:
        documents: number of documents.
        characters: of all of them.
        sample: some of them, drawn at random.
    """

    documents: int
    characters: int
    sample: list[Document]


@dataclass(frozen=True)
class Forecast:
    """What is expected.

    Attributes:
        documents: of the corpus.
        chunks: that they make.
        seconds: of writing (and scoring) what is not in the cache yet.
        queries: that the file will hold.
        bytes: of the file.
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
        """Return the forecast as a sentence."""
        chunks = "1 chunk" if self.chunks == 1 else f"{show_count(self.chunks)} chunks"
        queries = "1 query" if self.queries == 1 else f"{show_count(self.queries)} queries"
        return (
            f"forecast: {counted(self.documents, 'document')}, {chunks}, {queries}, {show_size(self.bytes)}; about "
            f"{show_duration(self.seconds)} left"
        )


def survey(documents: Iterable[Document], *, most: int = PROBED, seed: int = 0) -> Survey:
    """Count the documents of a corpus in one pass, and draw a sample of them (reservoir sampling, algorithm R)."""
    sample: list[Document] = []
    stream = numpy_stream(seed, "probe")
    count = characters = 0
    for document in documents:
        count += 1
        characters += len(document.contents)
        if len(sample) < most:
            sample.append(document)
        elif (place := int(stream.random() * count)) < most:
            sample[place] = document
    return Survey(count, characters, sample)


def probe(expander: Expander, found: Survey) -> Forecast | None:
    """Expand the sample, whose queries stay in the cache, and reckon from it what the whole corpus takes.

    Documents are taken to cost as many seconds, chunks and bytes per character as those of the sample do. After an
    interruption the share of the sample that is in the cache already tells how much is left to do.

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

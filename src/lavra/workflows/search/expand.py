"""Expanding the documents of a collection: generated queries in a file that the index and the experiment read."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from lavra.config.search import ExpandConfig
from lavra.core.disk.files import sync_folder
from lavra.core.disk.json_lines import one_line
from lavra.core.disk.replacing import check_replaceable_file
from lavra.core.errors import InputError, Interrupted
from lavra.core.progress import Progress, log
from lavra.core.units import counted, show_duration
from lavra.data.readers.lines import warning_lines
from lavra.data.readers.rows import BadRows
from lavra.search.corpora.formats import open_collection
from lavra.search.expansion.cache import ExpansionCache
from lavra.search.expansion.compatibility import DeduplicateIds, check_vocabulary, generator_language_warning
from lavra.search.expansion.expand import Expander
from lavra.search.expansion.forecast import Forecast, probe, sample_corpus
from lavra.search.expansion.queries import read_provenance, write_provenance
from lavra.search.expansion.scorers import QueryScorer
from lavra.search.index.build import without_documents
from lavra.training.signals import StopRequest
from lavra.workflows.search.query_generators import OpenQueryGenerator, open_query_generator, open_query_scorer

_SAMPLE = 500
"""Documents on which language and vocabulary of the generator are checked before it starts."""


@dataclass
class ExpansionReport:
    """What `expand` did.

    Attributes:
        out: The file of queries.
        documents: Number of documents of the corpus.
        chunks: Number of chunks into which the documents were split.
        queries: Number of queries in the file.
        written: Number of chunks whose queries were generated now; those of the others were in the cache.
        scored: Number of chunks whose queries were scored now.
        seconds: Seconds of generating and scoring.
        tokens: Tokens of the corpus, by the generator's tokenizer.
        share_read: Share of the text of the corpus that the generator read, from 0 to 1.
        forecast: The forecast made before the work; None where it was not needed.
        warnings: Warnings about the corpus and the generator.
    """

    out: str
    documents: int = 0
    chunks: int = 0
    queries: int = 0
    written: int = 0
    scored: int = 0
    seconds: float = 0.0
    tokens: int = 0
    share_read: float = 1.0
    forecast: Forecast | None = None
    warnings: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {**vars(self), "forecast": self.forecast.to_json() if self.forecast else None}


def expand(config: ExpandConfig) -> ExpansionReport:
    """Generate queries for every document of a collection (document expansion, doc2query).

    It may be interrupted or killed at any time: generated queries are in the cache, and the same request continues.
    After documents have changed, queries are generated for those alone. Long documents are split into chunks, and all
    of the chunks are read.

    Args:
        config: The request.

    Returns:
        What was done.

    Raises:
        InputError: If the collection or the model cannot be used, the generator does not fit the corpus, or `out` was
            generated with another model or other options.
        Interrupted: After a signal to stop; everything that was generated is in the cache.
    """
    out = Path(config.out)
    check_replaceable_file(out, force=True, inputs=[config.collection])
    problems = BadRows()
    collection = DeduplicateIds(open_collection(config.collection, problems), problems)
    sample = [document.contents for document in islice(collection.documents(), _SAMPLE)]
    if not sample:
        raise without_documents(collection.name, problems)
    opened = open_query_generator(config)
    scorer = open_query_scorer(config, opened)
    request = _request(config, opened, scorer)
    _check_out(out, request, config.force)
    report = ExpansionReport(str(out), warnings=_check_compatibility(opened, sample))
    out.parent.mkdir(parents=True, exist_ok=True)
    cache = Path(config.cache) if config.cache else out.with_name(out.name + ".cache")
    with ExpansionCache(cache) as kept, StopRequest() as stop:
        _remove_leftovers(out)
        expander = Expander(
            opened.writer,
            kept,
            scorer,
            count=config.queries,
            seed=config.seed,
            chunk_tokens=config.chunk_tokens,
            overlap=config.overlap,
            stop=lambda: bool(stop.requested),
        )
        total = _forecast(collection, expander, report)
        problems.forget()  # the passes for language and forecast have counted the problems already
        with _beside(out) as handle, Progress("expanding", total, "documents") as progress:
            _write(collection, expander, handle, progress, report)
            if stop.requested:
                raise Interrupted(
                    f"stopped; all that was generated is in {cache}, {counted(len(kept), 'entry', 'entries')}",
                    "give the same command to continue",
                    signal_number=stop.requested,
                )
            found = warning_lines(problems)
            for line in found:
                log(line)
            report.warnings += found
            provenance = {"collection": collection.name, "prompt": opened.prompt.to_json(), **report.to_json()}
            write_provenance(out, {"request": request, **provenance})
    return report


def _check_compatibility(opened: OpenQueryGenerator, sample: list[str]) -> list[str]:
    """Print and return warnings about a generator that does not fit the corpus; refuse one without its letters."""
    found = [
        check_vocabulary(opened.writer.tokenizer, sample),
        generator_language_warning(sample, opened.prompt.language),
    ]
    warnings = [one for one in found if one]
    for warning in warnings:
        log(warning)
    return warnings


def _request(config: ExpandConfig, opened: OpenQueryGenerator, scorer: QueryScorer | None) -> dict[str, Any]:
    """Return everything that the contents of the file depend on, besides the corpus."""
    return {
        "model": config.model,
        "writer": opened.writer.fingerprint,
        "engine": opened.engine,
        "queries": config.queries,
        "chunk_tokens": config.chunk_tokens or opened.writer.room,
        "overlap": config.overlap,
        "seed": config.seed,
        "scored_with": config.score_with,
        "scorer": scorer.fingerprint if scorer else "",
    }


def _check_out(out: Path, request: dict[str, Any], force: bool) -> None:
    """Refuse to replace the file of another request; that of the same request is brought up to date."""
    if not out.exists() or force:
        return
    provenance = read_provenance(out)
    if provenance is None or provenance.get("request") != request:
        raise InputError(
            f"{out} exists and was made with another model or other options",
            "choose another --out, or add --force to replace it",
        )


def _forecast(collection: DeduplicateIds, expander: Expander, report: ExpansionReport) -> int:
    """Print how long the expansion will take, from a sample of the documents; return the number of documents.

    The queries of the sample are part of the result. The sample is the same when the command is given again, so that
    the same chunks are generated together. Its queries are then in the cache, and there is no forecast of the time.
    """
    found = sample_corpus(collection.documents())
    before = expander.work.written
    with Progress("probing", len(found.sample), "documents") as progress:
        expander.restart(progress.update)
        report.forecast = probe(expander, found)
    if report.forecast is not None and found.documents > len(found.sample) and expander.work.written > before:
        log(report.forecast.line())
    return found.documents


def _write(
    collection: DeduplicateIds, expander: Expander, handle: TextIO, progress: Progress, report: ExpansionReport
) -> None:
    """Write the row of every document, and count it in the report."""
    work = expander.work
    already = work.written

    def show(done: float) -> None:
        if work.written == already:  # all from the cache so far, which does not measure the speed
            progress.start_from(done)
        else:
            progress.update(done)

    expander.restart(show)
    read = characters = 0
    for one in expander.expand(collection.documents()):
        handle.write(one_line(one.to_json()) + "\n")
        report.documents += 1
        report.chunks += one.chunks
        report.queries += len(one.queries)
        report.tokens += one.tokens
        read += one.read
        characters += one.characters
    report.written, report.scored, report.seconds = work.written, work.scored, work.seconds
    report.share_read = read / max(1, characters)


def _remove_leftovers(out: Path) -> None:
    """Remove the incomplete file of a killed process; only the process that holds the cache writes such files."""
    for path in out.parent.iterdir():
        if path.name.startswith(f".{out.name}."):
            path.unlink(missing_ok=True)


@contextmanager
def _beside(path: Path) -> Iterator[TextIO]:
    """Yield a file that becomes `path` when the block succeeds, and vanishes when it fails."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf8", errors="surrogatepass") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def summary(report: ExpansionReport) -> str:
    """Return what was done, in one line.

    Args:
        report: What `expand` returned.
    """
    return (
        f"{report.out}: {counted(report.queries, 'query', 'queries')} for {counted(report.documents, 'document')} "
        f"({counted(report.chunks, 'chunk')}, "
        f"{report.written:,} expanded now in {show_duration(report.seconds)}); "
        f"{report.share_read:.0%} of the text was read"
    )

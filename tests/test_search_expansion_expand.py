"""Expanding documents: every chunk read, nothing written twice, killed at any moment, changed documents only."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.query_writers import LengthScorer, NotingWriter

from lavra.core.errors import CorruptFile, InputError
from lavra.data.readers.rows import BadRows
from lavra.search.corpora.documents import Document
from lavra.search.expansion.cache import ExpansionCache, key_of_content
from lavra.search.expansion.compatibility import DeduplicateIds
from lavra.search.expansion.expand import ExpandedDocument, Expander
from lavra.search.expansion.forecast import probe, sample_corpus
from lavra.search.index.update import DUPLICATE_ID

SENTENCES = [f"Sentence{number} tells of topic{number % 7}." for number in range(400)]


def documents(count: int = 40, changed: int = -1) -> list[Document]:
    """Documents of one to five sentences; number `changed` is another text."""
    made = []
    for number in range(count):
        text = " ".join(SENTENCES[5 * number : 5 * number + 1 + number % 5])
        made.append(Document(f"d{number}", "Another text. Of two sentences." if number == changed else text))
    return made


def expanded(
    folder: Path, writer: NotingWriter, given: list[Document], **options: object
) -> tuple[list[ExpandedDocument], Expander]:
    with ExpansionCache(folder / "cache") as cache:
        expander = Expander(writer, cache, **options)  # pyright: ignore[reportArgumentType]
        return list(expander.expand(given)), expander


def test_every_character_is_read_and_every_chunk_has_its_queries(tmp_path: Path) -> None:
    writer = NotingWriter()
    made, expander = expanded(tmp_path, writer, documents(), count=3, seed=5)
    assert [one.id for one in made] == [f"d{number}" for number in range(40)]
    assert all(one.read == one.characters for one in made)
    assert all(len(one.queries) == 3 * one.chunks for one in made)
    assert sum(one.chunks for one in made) == len(writer.passages) == expander.work.written
    assert made[4].chunks > 1
    assert made[4].queries[:3] == tuple(f"Sentence20 5 {number}" for number in range(3))
    together = "".join("".join(writer.passages).split())
    assert all("".join(one.text.split())[:20] in together for one in documents())


@given(st.text(alphabet="ab .\n", max_size=300), st.integers(1, 30))
def test_any_text_is_read_whole(text: str, most: int) -> None:
    writer = NotingWriter(room=most)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        with ExpansionCache(Path(":memory:")) as cache:
            (one,) = Expander(writer, cache, count=1).expand([Document("d", text)])
    assert one.read == one.characters == len(text)
    assert all(passage in text for passage in writer.passages)


def test_a_second_expansion_writes_nothing_and_gives_the_same(tmp_path: Path) -> None:
    first, _ = expanded(tmp_path, NotingWriter(), documents(), count=2)
    again = NotingWriter()
    second, expander = expanded(tmp_path, again, documents(), count=2)
    assert second == first
    assert again.passages == []
    assert expander.work.written == 0
    assert expander.work.found > 0


def test_only_changed_documents_are_written_again(tmp_path: Path) -> None:
    before, _ = expanded(tmp_path, NotingWriter(room=100), documents())
    writer = NotingWriter(room=100)
    after, _ = expanded(tmp_path, writer, documents(changed=7))
    assert writer.passages == ["Another text. Of two sentences."]
    assert [one for one in after if one.id != "d7"] == [one for one in before if one.id != "d7"]


@pytest.mark.parametrize("change", [{"seed": 1}, {"count": 4}, {"writer": "other"}])
def test_other_seed_count_or_model_is_another_request(tmp_path: Path, change: dict[str, object]) -> None:
    given = documents(3)
    expanded(tmp_path, NotingWriter(), given, count=2)
    writer = NotingWriter(name=str(change.pop("writer", "noting")))
    expanded(tmp_path, writer, given, **{"count": 2, **change})
    assert writer.passages


def test_equal_chunks_are_written_once(tmp_path: Path) -> None:
    writer = NotingWriter()
    twins = [Document("a", "The same text."), Document("b", " The same text.\n"), Document("c", "   ")]
    made, _ = expanded(tmp_path, writer, twins, count=2)
    assert writer.passages == ["The same text."]
    assert made[0].queries == made[1].queries
    assert (made[2].queries, made[2].chunks) == ((), 0)


def test_scores_are_kept_apart_from_queries(tmp_path: Path) -> None:
    plain, _ = expanded(tmp_path, NotingWriter(), documents(5), count=2)
    writer, scorer = NotingWriter(), LengthScorer()
    scored, expander = expanded(tmp_path, writer, documents(5), count=2, scorer=scorer)
    assert writer.passages == []
    assert [one.queries for one in scored] == [one.queries for one in plain]
    assert all(len(one.scores) == len(one.queries) for one in scored)
    assert expander.work.scored == len(scorer.chunks) == sum(one.chunks for one in scored)
    again = LengthScorer()
    assert expanded(tmp_path, NotingWriter(), documents(5), count=2, scorer=again)[0] == scored
    assert again.chunks == []


def test_a_stop_keeps_what_was_written(tmp_path: Path) -> None:
    writer = NotingWriter()
    made, _ = expanded(tmp_path, writer, documents(), count=2, stop=lambda: len(writer.passages) > 20)
    assert made == []
    with ExpansionCache(tmp_path / "other") as cache:
        stopped = Expander(NotingWriter(), cache, stop=lambda: True)
        assert probe(stopped, sample_corpus(documents())) is None
    done = len(writer.passages)
    rest = NotingWriter()
    finished, expander = expanded(tmp_path, rest, documents(), count=2)
    assert not set(writer.passages) & set(rest.passages)
    assert done + len(rest.passages) == sum(one.chunks for one in finished)
    assert expander.work.written == len(rest.passages)


def test_the_forecast_of_a_uniform_corpus_is_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = [Document(f"d{number:03d}", f"Alike{number:03d} in every way.") for number in range(300)]
    found = sample_corpus(given, limit=50)
    assert (found.documents, len(found.sample), len({one.id for one in found.sample})) == (300, 50, 50)
    writer = NotingWriter()
    clock = SimpleNamespace(perf_counter=lambda: 2.0 * len(writer.passages))  # two seconds a passage
    monkeypatch.setattr("lavra.search.expansion.expand.time", clock)
    with ExpansionCache(tmp_path / "cache") as cache:
        expander = Expander(writer, cache, count=2)
        forecast = probe(expander, found)
        assert forecast is not None
        assert len(writer.passages) == 50
        made = list(expander.expand(given))
    assert (forecast.documents, forecast.chunks, forecast.queries) == (300, 300, 600)
    assert forecast.seconds == 2.0 * 250
    assert len(writer.passages) == 300  # the probe is part of the work
    assert len(made) == 300
    assert "300 documents" in forecast.line()


def test_wrong_requests_are_refused(tmp_path: Path) -> None:
    with ExpansionCache(tmp_path / "cache") as cache:
        with pytest.raises(InputError, match="--queries is 0"):
            Expander(NotingWriter(), cache, count=0)
        with pytest.raises(InputError, match="--chunk-tokens 60"):
            Expander(NotingWriter(), cache, chunk_tokens=61)
        with pytest.raises(InputError, match="used by another process"):
            ExpansionCache(tmp_path / "cache")
    (tmp_path / "no cache").write_text("something else entirely, and long enough to be no empty file" * 20)
    with pytest.raises(CorruptFile, match="no expansion cache"):
        ExpansionCache(tmp_path / "no cache")


def test_the_cache_keeps_the_first_value_and_names_its_parts_apart(tmp_path: Path) -> None:
    with ExpansionCache(tmp_path / "cache") as cache:
        keys = [key_of_content("a", number) for number in range(1200)]
        cache.put({key: [f"q{number}"] for number, key in enumerate(keys)})
        cache.put({keys[0]: ["other"]})
        assert len(cache) == 1200
        assert cache.get([*keys, key_of_content("b", 1)])[keys[0]] == ["q0"]
    assert key_of_content("a", "b") != key_of_content("ab") != key_of_content("b", "a")


class CompanyWriter(NotingWriter):
    """Writes queries that depend on the passages which it reads together, as some engines do."""

    def write(self, passages: Sequence[str], count: int, seed: int) -> list[list[str]]:
        together = key_of_content(*passages).hex()
        return [[f"{one} {together}" for one in queries] for queries in super().write(passages, count, seed)]


@pytest.mark.parametrize("stopped_after", [0, 1, 2, 3, 5])
def test_queries_are_the_same_after_a_stop_also_when_they_depend_on_their_company(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped_after: int
) -> None:
    monkeypatch.setattr("lavra.search.expansion.expand._GROUP", 8)
    whole, _ = expanded(tmp_path / "whole", CompanyWriter(), documents(), count=2)
    asked = iter([False] * stopped_after)
    expanded(tmp_path / "stopped", CompanyWriter(), documents(), count=2, stop=lambda: next(asked, True))
    again, expander = expanded(tmp_path / "stopped", CompanyWriter(), documents(), count=2)
    assert again == whole
    assert expander.work.found >= 8 * stopped_after


def killed(folder: Path, passages: int) -> int:
    """Expand in a process that kills itself after some passages, and return its exit code."""
    child = os.fork()
    if child == 0:
        with ExpansionCache(folder / "cache") as cache:
            writer = NotingWriter(log=folder / "log", killed_after=passages)
            list(Expander(writer, cache, count=2).expand(documents(80)))
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_killed_processes_lose_at_most_the_group_in_hand_and_write_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lavra.search.expansion.expand._GROUP", 8)
    whole, _ = expanded(tmp_path / "whole", NotingWriter(), documents(80), count=2)
    folder = tmp_path / "killed"
    folder.mkdir()
    for passages in (20, 44):  # in the third group, and in the sixth after it
        assert killed(folder, passages) == -signal.SIGKILL
    with ExpansionCache(folder / "cache") as cache:
        kept = len(cache)
    logged = _lines(folder / "log")
    assert (kept, logged) == (16 + 40, 20 + 44)
    writer = NotingWriter()
    finished, _ = expanded(folder, writer, documents(80), count=2)
    assert finished == whole
    chunks = sum(one.chunks for one in whole)
    assert len(writer.passages) == chunks - kept


def _lines(path: Path) -> int:
    return path.read_text().count("\n") if path.exists() else 0


class Repeating:
    """Documents of which some ids come again, with another text."""

    name, splits = "repeating", ()

    def documents(self) -> Iterator[Document]:
        for number, name in enumerate(["a", "b", "a", "c", "b", "a"]):
            yield Document(name, f"text {number}", place=f"corpus:{number + 1}")


def test_of_documents_with_one_id_the_last_counts() -> None:
    problems = BadRows()
    last = DeduplicateIds(Repeating(), problems)  # pyright: ignore[reportArgumentType]
    assert [one.text for one in islice(last.documents(), 2)] == ["text 0", "text 1"]
    assert len(list(last.documents())) == 6
    assert [one.text for one in last.documents()] == ["text 3", "text 4", "text 5"]
    assert problems.counts == {DUPLICATE_ID: 3}
    assert [place for place, _ in problems.examples[DUPLICATE_ID]] == ["corpus:1", "corpus:2", "corpus:3"]

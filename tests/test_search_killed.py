"""Real `lavra expand` and `lavra index` processes, killed with SIGKILL and given again: as if nothing had happened."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("bm25s")

from bench import kill_search
from bench.kill_search import PROGRAM, SEGMENT, VECTORS, Bench, embedded_texts, finish, killed
from tests.forked_processes import Ended, ForkServer

from lavra.cli.main import main
from lavra.core.errors import NO_SPACE, LavraError
from lavra.search.corpora.documents import Document
from lavra.search.expansion.cache import ExpansionCache, key_of_content
from lavra.search.export import export_documents

_IMPORTS = """
import lavra.cli.main, lavra.cli.expand, lavra.cli.index
import lavra.search.expansion.expand, lavra.search.index.segments, lavra.workflows.search.search
"""


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """The trials, whose processes are forked, which spares each of them its imports."""
    with ForkServer(tmp_path_factory.mktemp("forked"), _IMPORTS) as server, pytest.MonkeyPatch.context() as patch:

        def command(*words: str, root: Path, moment: int = 0) -> Ended:
            return server.run(PROGRAM, [str(moment), str(root), str(SEGMENT), *words, "--quiet", "--json"])

        patch.setattr(kill_search, "command", command)
        yield Bench(tmp_path_factory.mktemp("killed"))


def test_the_commands_come_by_many_moments_to_die_at(bench: Bench) -> None:
    assert bench.accesses["expand"] >= 8
    assert min(bench.accesses[kind] for kind in ("index", "update", *VECTORS)) > 60


@pytest.mark.parametrize(
    ("kind", "share"),
    [
        ("expand", 0.85),
        ("index", 0.4),
        ("index", 0.97),
        ("update", 0.3),
        ("update", 0.9),
        *[(kind, share) for kind in VECTORS for share in (0.5, 0.65, 0.8, 0.99)],
    ],
)
def test_a_killed_command_given_again_ends_as_one_never_stopped(bench: Bench, kind: str, share: float) -> None:
    moment = max(1, round(share * bench.accesses[kind]))
    assert bench.trial(kind, f"{kind}-{share}", moment=moment) == (True, "the same")


def test_what_was_embedded_before_each_kill_is_kept_and_nothing_is_searched_before_all_is(bench: Bench) -> None:
    home = bench.folder / "embedding"
    bench.prepare(VECTORS[0], home)
    words, index = bench.words(VECTORS[0], home), home / "index"
    held = [0]
    for _ in range(4):
        assert killed(kill_search.command(*words, root=home, moment=bench.accesses[VECTORS[0]] // 2))
        held.append(len(embedded_texts(index)))
        assert json.loads((index / "index.json").read_text("utf8"))["dense"] == ""
    report, _ = finish(kill_search.command(*words, root=home))
    assert held == sorted(held)
    assert 0 < held[-1] < report["vectors"]
    assert report["embedded"] == report["vectors"] - held[-1]
    assert bench.fingerprint(VECTORS[0], home) == bench.expected[VECTORS[0]]


@contextmanager
def small_disk(most: int) -> Iterator[None]:
    """Let no file grow beyond `most` bytes: writing more fails as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("most", [1000, 5000, 9000])
def test_an_index_on_a_full_disk_says_so_and_is_finished_later(
    bench: Bench, most: int, capsys: pytest.CaptureFixture[str]
) -> None:
    home = bench.folder / f"full-{most}"
    bench.prepare("index", home)
    words = [*bench.words("index", home), "--quiet"]
    with small_disk(most):
        assert main(words) == 1
    told = capsys.readouterr().err
    assert "DISK FULL" in told
    assert "give the command again" in told
    assert main(words) == 0
    assert bench.fingerprint("index", home) == bench.expected["index"]


def test_a_cache_on_a_full_disk_keeps_what_it_held(tmp_path: Path) -> None:
    with ExpansionCache(tmp_path / "cache") as cache:
        cache.put({key_of_content(1): ["rio"]})
        much = {key_of_content(number): ["monte " * 500] for number in range(2, 200)}
        with small_disk(60_000), pytest.raises(LavraError, match=r"could not be written.*\n.*the same command goes on"):
            cache.put(much)
        assert cache.get([key_of_content(1)]) == {key_of_content(1): ["rio"]}
        held = len(cache)
        cache.put({key_of_content("after"): ["mar"]})
        assert len(cache) == held + 1


@pytest.mark.parametrize("most", [200, 5000])
def test_a_cache_that_finds_no_room_at_all_is_not_called_damaged(tmp_path: Path, most: int) -> None:
    with small_disk(most), pytest.raises(LavraError, match="could not be written") as told:
        ExpansionCache(tmp_path / "cache")
    assert "make room" in str(told.value)
    assert "delete" not in str(told.value)
    with ExpansionCache(tmp_path / "cache") as cache:
        cache.put({key_of_content(1): ["rio"]})
        assert len(cache) == 1


@pytest.mark.parametrize("most", [1000, 6000])
def test_an_update_on_a_full_disk_leaves_the_index_readable(
    bench: Bench, most: int, capsys: pytest.CaptureFixture[str]
) -> None:
    home = bench.folder / f"full-update-{most}"
    bench.prepare("update", home)
    words = bench.words("update", home)
    search = ["search", "rio monte", "--index", words[words.index("--out") + 1], "--json"]
    assert main(search) == 0
    before = json.loads(capsys.readouterr().out)
    with small_disk(most):
        assert main([*words, "--quiet"]) == 1
    assert "DISK FULL" in capsys.readouterr().err
    assert main(search) == 0
    assert json.loads(capsys.readouterr().out) == before
    assert main([*words, "--quiet"]) == 0
    assert bench.fingerprint("update", home) == bench.expected["update"]


def test_an_export_to_sqlite_on_a_full_disk_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    documents = [Document(str(number), "", "rio monte " * 50) for number in range(200)]
    with small_disk(9000), pytest.raises(OSError, match=r"full|I/O") as told:
        export_documents(documents, tmp_path / "out" / "x.db", "sqlite")
    assert told.value.errno in NO_SPACE  # which every command calls a full disk
    assert list((tmp_path / "out").iterdir()) == []
    assert export_documents(documents, tmp_path / "out" / "x.db", "sqlite") == 200

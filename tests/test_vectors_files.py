"""Files of vectors: read as they were written in every form, whole or not at all, and refused when they are damaged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lavra.core.errors import CorruptFile, InputError
from lavra.vectors.cache import VectorCache, key_of
from lavra.vectors.files import Manifest, hash_of, new_vectors, read_manifest, read_vectors, refuse_other_encoder

FORMS = ("folder", "v.npy", "v.parquet")
MANIFEST = Manifest("e" * 32, "runs/encoder", "passage", "passage: ", 3, 0, True, "fp32")


def write(path: Path, rows: int = 5, seed: int = 0, *, force: bool = False) -> np.ndarray:
    matrix = np.random.default_rng(seed).normal(size=(rows, 3)).astype(np.float32)
    with new_vectors(path, 3, force=force) as writer:
        for start in range(0, rows, 2):
            some = range(start, min(start + 2, rows))
            hashes = np.array([hash_of(f"text {number}") for number in some], np.uint64)
            writer.add([f"é{number}\u2028" for number in some], hashes, matrix[start : start + 2])
        writer.finish(MANIFEST)
    return matrix


@pytest.mark.parametrize("name", FORMS)
def test_vectors_are_read_as_they_were_written(tmp_path: Path, name: str) -> None:
    path = tmp_path / "deep" / name
    matrix = write(path)
    found = read_vectors(path)
    assert np.array_equal(found.matrix, matrix)
    assert found.matrix.dtype == np.float32
    assert list(found.ids) == [f"é{number}\u2028" for number in range(5)]
    assert found.hashes.tolist() == [hash_of(f"text {number}") for number in range(5)]
    assert found.manifest == read_manifest(path)
    assert (found.manifest.rows, found.manifest.prompt) == (5, "passage: ")
    assert not [one for one in (tmp_path / "deep").iterdir() if one.name.startswith(".")]


@pytest.mark.parametrize("name", FORMS)
def test_no_vectors_are_a_file_too(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, rows=0)
    assert read_vectors(tmp_path / name).matrix.shape == (0, 3)


@pytest.mark.parametrize("name", FORMS)
def test_equal_vectors_give_equal_bytes(tmp_path: Path, name: str) -> None:
    for folder in ("one", "other"):
        write(tmp_path / folder / name)
    one, other = (
        {file.name: file.read_bytes() for file in sorted((tmp_path / folder).rglob("*")) if file.is_file()}
        for folder in ("one", "other")
    )
    assert one == other


@pytest.mark.parametrize("name", FORMS)
def test_a_file_is_replaced_by_force_alone_and_stays_whole_when_writing_fails(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    before = write(path)
    with pytest.raises(InputError, match="exists already"):
        write(path, seed=1)

    def stopped() -> None:
        with new_vectors(path, 3, force=True) as writer:
            writer.add(["x"], np.array([1], np.uint64), np.ones((1, 3), np.float32))
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        stopped()
    assert np.array_equal(read_vectors(path).matrix, before)
    after = write(path, rows=2, seed=1, force=True)
    assert np.array_equal(read_vectors(path).matrix, after)


def test_the_matrix_stays_on_disk(tmp_path: Path) -> None:
    write(tmp_path / "v.npy")
    assert isinstance(read_vectors(tmp_path / "v.npy").matrix, np.memmap)
    assert np.load(tmp_path / "v.npy").shape == (5, 3)  # without lavra


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there are no vectors at"):
        read_vectors(tmp_path / "none.npy")
    write(tmp_path / "v.npy")
    rows = tmp_path / "v.rows.jsonl"
    rows.write_bytes(b"".join(rows.read_bytes().splitlines(keepends=True)[:4]))
    with pytest.raises(CorruptFile, match="has 4 ids and vectors of shape"):
        read_vectors(tmp_path / "v.npy")
    write(tmp_path / "w.npy")
    content = (tmp_path / "w.npy").read_bytes()
    (tmp_path / "w.npy").write_bytes(content[:-4])
    with pytest.raises(CorruptFile, match=r"w\.npy cannot be read"):
        read_vectors(tmp_path / "w.npy")
    manifest = tmp_path / "v.manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": 99}))
    with pytest.raises(CorruptFile, match="does not say what made its vectors"):
        read_vectors(tmp_path / "v.npy")
    (tmp_path / "x.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(CorruptFile, match=r"x\.parquet cannot be read"):
        read_vectors(tmp_path / "x.parquet")


def test_vectors_of_another_model_or_kind_are_refused_by_name(tmp_path: Path) -> None:
    refuse_other_encoder(tmp_path, MANIFEST, "e" * 32, "m", "passage")
    with pytest.raises(InputError, match=r"holds vectors of runs/encoder .* and runs/other is another encoder"):
        refuse_other_encoder(tmp_path, MANIFEST, "f" * 32, "runs/other", "passage")
    with pytest.raises(InputError, match="read as passage, not as query"):
        refuse_other_encoder(tmp_path, MANIFEST, "e" * 32, "m", "query")


@given(st.lists(st.text(), unique=True, max_size=20), st.sampled_from(["a", "b"]))
def test_a_cache_gives_each_text_its_own_vector(texts: list[str], encoder: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder, VectorCache(Path(folder) / "cache") as cache:
        vectors = {key_of(text, encoder): np.full(2, number, np.float32) for number, text in enumerate(texts)}
        cache.put(vectors)
        cache.put(dict.fromkeys(vectors, np.zeros(2, np.float32)))  # what is there stays
        found = cache.get([key_of(text, encoder) for text in texts])
        assert [found[key_of(text, encoder)][0] for text in texts] == list(range(len(texts)))
        assert len(cache) == len(texts)
        assert not cache.get([key_of(text, encoder + "x") for text in texts])


def test_a_file_that_is_no_cache_is_named(tmp_path: Path) -> None:
    (tmp_path / "c").write_bytes(b"no database, but long enough to be looked at as one" * 100)
    with pytest.raises(CorruptFile, match="is no cache of vectors"):
        VectorCache(tmp_path / "c")

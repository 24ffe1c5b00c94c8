"""Files of vectors: a matrix that is read by memory map, the ids of its rows, and what made it.

Three forms hold the same, and the name chooses: a folder, a `.npy` file with two files beside it, or one `.parquet`
file. All can be read without lavra.

| form | matrix | ids and hashes | what made it |
|---|---|---|---|
| folder | `vectors.npy` | `rows.jsonl` | `manifest.json` |
| `NAME.npy` | `NAME.npy` | `NAME.rows.jsonl` | `NAME.manifest.json` |
| `NAME.parquet` | column `vector` | columns `id` and `hash` | metadata `lavra` of the schema |

The matrix is (rows, dimensions) float32, in the order of the texts. A line of `rows.jsonl` is an object with `id`, the
text's own id or its number, and `hash`, 16 hexadecimal digits of XXH3-64 of the text as UTF-8.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal

import numpy as np
import xxhash
from numpy.typing import NDArray

from lavra.core.disk.building import building_folder
from lavra.core.disk.files import read_json, sync_file, sync_folder, write_json
from lavra.core.disk.json_lines import JsonLines, one_line
from lavra.core.disk.locks import exclusive
from lavra.core.disk.replacing import check_replaceable, check_replaceable_file
from lavra.core.errors import CorruptFile, InputError

FORMAT = 1
"""Version of the format of the manifest."""

Form = Literal["folder", "npy", "parquet"]

_MATRIX, _ROWS, _MANIFEST = "vectors.npy", "rows.jsonl", "manifest.json"
_PARQUET = "vectors.parquet"
_METADATA = b"lavra"
_AGAIN = "make it anew: lavra embed MODEL DATA --out VECTORS --force"


@dataclass(frozen=True)
class Manifest:
    """What made a file of vectors.

    Attributes:
        encoder: Fingerprint of the encoder.
        model: Location of the model as it was given, for people.
        kind: What the texts are: text, query or passage.
        prompt: What was put before each text.
        dimensions: Size of a vector.
        rows: Number of vectors.
        normalised: Whether the vectors have length 1.
        precision: Type of the weights with which they were computed.
        format: Version of the format.
    """

    encoder: str
    model: str
    kind: str
    prompt: str
    dimensions: int
    rows: int
    normalised: bool
    precision: str
    format: int = FORMAT

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Any, place: Path) -> Manifest:
        """Return the manifest that `to_json` wrote.

        Args:
            values: The plain values.
            place: Where they were read, for messages.

        Raises:
            CorruptFile: If they are no manifest, or one of another version.
        """
        known = {field.name for field in fields(cls)}
        if not isinstance(values, dict) or values.get("format") != FORMAT or set(values) != known:
            raise CorruptFile(f"{place} does not say what made its vectors, in format {FORMAT}", "make it anew")
        return cls(**values)


@dataclass(frozen=True)
class Vectors:
    """The vectors of texts with the ids of the texts.

    Attributes:
        matrix: (rows, dimensions) float32, which is read from disk where it is used.
        ids: The id of each row.
        hashes: Hash of each text, (rows,) uint64.
        manifest: What made them.
    """

    matrix: NDArray[np.float32]
    ids: Sequence[str]
    hashes: NDArray[np.uint64]
    manifest: Manifest

    def __len__(self) -> int:
        return len(self.ids)


def hash_of(text: str) -> int:
    """Return the 64-bit hash of a text.

    Args:
        text: The text.

    Examples:
        >>> f"{hash_of('rio'):016x}"
        'e2d9ba9cacbd54d4'
    """
    return xxhash.xxh3_64_intdigest(text.encode("utf8", "surrogatepass"))


def form_of(path: Path) -> Form:
    """Return the form of a file of vectors by its name.

    Args:
        path: The file or the folder.

    Examples:
        >>> form_of(Path("book.npy")), form_of(Path("book.parquet")), form_of(Path("book"))
        ('npy', 'parquet', 'folder')
    """
    return {".npy": "npy", ".parquet": "parquet"}.get(path.suffix, "folder")  # pyright: ignore[reportReturnType]


def files_of(path: Path) -> list[Path]:
    """Return everything that a file of vectors consists of.

    Args:
        path: The file or the folder.
    """
    return [path, *(_beside(path) if form_of(path) == "npy" else ())]


def _beside(path: Path) -> tuple[Path, Path]:
    """Return the files of rows and manifest of a `.npy` file."""
    return path.with_suffix(f".{_ROWS}"), path.with_suffix(f".{_MANIFEST}")


# Writing.


class VectorWriter:
    """Writes vectors into a folder of its own, a block of rows at a time.

    Args:
        folder: The folder, which exists and is empty.
        form: The form of the file of vectors.
        dimensions: Size of a vector.

    Attributes:
        rows: Number of rows so far.
    """

    def __init__(self, folder: Path, form: Form, dimensions: int) -> None:
        self.rows = 0
        self._folder, self._form, self._dimensions = folder, form, dimensions
        if form == "parquet":
            self._parquet = _parquet_writer(folder / _PARQUET, dimensions)
        else:
            self._matrix: BinaryIO = (folder / _MATRIX).open("wb")
            _write_header(self._matrix, 0, dimensions)  # its size does not depend on the number of rows
            self._lines = (folder / _ROWS).open("w", encoding="utf8", errors="surrogatepass")

    def add(self, ids: Sequence[str], hashes: NDArray[np.uint64], matrix: NDArray[np.float32]) -> None:
        """Add rows at the end.

        Args:
            ids: The id of each row.
            hashes: Hash of each text, (rows,).
            matrix: The vectors, (rows, dimensions).
        """
        self.rows += len(ids)
        matrix = np.ascontiguousarray(matrix, np.float32)
        if self._form == "parquet":
            self._parquet.write_table(_table(ids, hashes, matrix))
            return
        self._matrix.write(matrix.tobytes())
        for name, number in zip(ids, hashes, strict=True):
            self._lines.write(one_line({"id": name, "hash": f"{int(number):016x}"}) + "\n")

    def finish(self, manifest: Manifest) -> None:
        """Write what made the vectors, and close the files; the number of rows is filled in.

        Args:
            manifest: What made the vectors.
        """
        values = replace(manifest, rows=self.rows).to_json()
        if self._form == "parquet":
            self._parquet.add_key_value_metadata({_METADATA: one_line(values)})
        else:
            self._matrix.seek(0)
            _write_header(self._matrix, self.rows, self._dimensions)
            write_json(self._folder / _MANIFEST, values)
        self.close()

    def close(self) -> None:
        """Close the files."""
        if self._form == "parquet":
            self._parquet.close()
        else:
            self._matrix.close()
            self._lines.close()

    def __enter__(self) -> VectorWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


@contextmanager
def new_vectors(
    path: Path, dimensions: int, *, force: bool = False, inputs: Iterable[str | Path] = ()
) -> Iterator[VectorWriter]:
    """Yield what writes a file of vectors, which appears whole at the end of the block, or not at all.

    Equal vectors in equal blocks give equal bytes.

    Args:
        path: The file or the folder; its name chooses the form.
        dimensions: Size of a vector.
        force: Whether what is there is replaced.
        inputs: What the command reads, which is never replaced.

    Raises:
        InputError: If something is there that may not be replaced, or another process is making it.
    """
    form, inputs = form_of(path), list(inputs)
    check_new(path, force=force, inputs=inputs)
    if form == "folder":
        with (
            building_folder(path, force=force, inputs=inputs, kind="vectors") as folder,
            VectorWriter(folder, form, dimensions) as writer,
        ):
            yield writer
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(path.with_name(f".{path.name}.lock"), f"{path} is being made", remove=True):
        for remains in path.parent.glob(f".{path.name}.building-*"):
            shutil.rmtree(remains)
        folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.building-"))
        try:
            with VectorWriter(folder, form, dimensions) as writer:
                yield writer
            _put_in_place(folder, path, form)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def check_new(path: Path, *, force: bool = False, inputs: Iterable[str | Path] = ()) -> None:
    """Raise an error unless a command may make a file of vectors.

    Args:
        path: The file or the folder.
        force: Whether what is there is replaced.
        inputs: What the command reads, which is never replaced.

    Raises:
        InputError: If something is there that may not be replaced.
    """
    if form_of(path) == "folder":
        check_replaceable(path, force=force, inputs=inputs)
        return
    for one in files_of(path):
        check_replaceable_file(one, force=force, inputs=inputs)


def _put_in_place(folder: Path, path: Path, form: Form) -> None:
    """Move the finished files to their places; the matrix comes last, so that it is there only when everything is."""
    for file in folder.iterdir():
        sync_file(file)
        os.chmod(file, 0o644)
    if form == "parquet":
        os.replace(folder / _PARQUET, path)
    else:
        rows, manifest = _beside(path)
        path.unlink(missing_ok=True)
        os.replace(folder / _ROWS, rows)
        os.replace(folder / _MANIFEST, manifest)
        os.replace(folder / _MATRIX, path)
    sync_folder(path.parent)


def _write_header(handle: BinaryIO, rows: int, dimensions: int) -> None:
    about = {"descr": "<f4", "fortran_order": False, "shape": (rows, dimensions)}
    np.lib.format.write_array_header_1_0(handle, about)


def _schema(dimensions: int) -> Any:
    import pyarrow as pa

    return pa.schema([("id", pa.string()), ("hash", pa.uint64()), ("vector", pa.list_(pa.float32(), dimensions))])


def _parquet_writer(path: Path, dimensions: int) -> Any:
    import pyarrow.parquet as pq

    # The numbers of vectors hardly repeat, so that neither a dictionary nor compression makes them smaller.
    return pq.ParquetWriter(path, _schema(dimensions), compression="none", use_dictionary=False)


def _table(ids: Sequence[str], hashes: NDArray[np.uint64], matrix: NDArray[np.float32]) -> Any:
    import pyarrow as pa

    size = matrix.shape[1]
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), size)
    columns = [pa.array(list(ids), pa.string()), pa.array(np.asarray(hashes, np.uint64)), vectors]
    return pa.Table.from_arrays(columns, schema=_schema(size))


# Reading.


def read_vectors(path: Path) -> Vectors:
    """Open a file of vectors. The matrix of a folder and of a `.npy` file stays on disk until it is used.

    Args:
        path: The file or the folder.

    Raises:
        InputError: If there is none.
        CorruptFile: If it is damaged, or its parts do not belong together.
    """
    form = form_of(path)
    if not (path / _MATRIX if form == "folder" else path).is_file():
        raise InputError(f"there are no vectors at {path}", "make them: lavra embed MODEL DATA --out VECTORS")
    return _read_parquet(path) if form == "parquet" else _read_matrix(path, form)


def read_manifest(path: Path) -> Manifest:
    """Return what made a file of vectors, without reading the vectors.

    Args:
        path: The file or the folder.

    Raises:
        CorruptFile: If it does not say.
    """
    if form_of(path) == "parquet":
        return _parquet_manifest(path)
    place = path / _MANIFEST if form_of(path) == "folder" else _beside(path)[1]
    return Manifest.from_json(read_json(place), place)


def _read_matrix(path: Path, form: Form) -> Vectors:
    folder = form == "folder"
    place, rows = (path / _MATRIX, path / _ROWS) if folder else (path, _beside(path)[0])
    manifest = read_manifest(path)
    try:
        matrix = np.load(place, mmap_mode="r" if manifest.rows else None, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise CorruptFile(f"{place} cannot be read: {error}", _AGAIN) from error
    lines = JsonLines(rows).read()
    try:
        ids = [line["id"] for line in lines]
        hashes = np.array([int(line["hash"], 16) for line in lines], np.uint64)
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptFile(f"{rows} has a line without id and hash", _AGAIN) from error
    return _checked(Vectors(matrix, ids, hashes, manifest), path)


def _read_parquet(path: Path) -> Vectors:
    import pyarrow as pa
    import pyarrow.parquet as pq

    manifest = _parquet_manifest(path)
    try:
        table = pq.read_table(path, memory_map=True).combine_chunks()
        flat = table["vector"].chunk(0).flatten().to_numpy() if len(table) else np.empty(0, np.float32)
        ids, hashes = table["id"].to_pylist(), table["hash"].to_numpy()
    except (pa.ArrowException, KeyError, OSError) as error:
        raise CorruptFile(f"{path} cannot be read: {error}", _AGAIN) from error
    return _checked(Vectors(flat.reshape(-1, manifest.dimensions), ids, hashes, manifest), path)


def _parquet_manifest(path: Path) -> Manifest:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        found = (pq.read_metadata(path).metadata or {}).get(_METADATA)
    except (pa.ArrowException, OSError) as error:
        raise CorruptFile(f"{path} cannot be read: {error}", _AGAIN) from error
    return Manifest.from_json(None if found is None else json.loads(found), path)


def _checked(vectors: Vectors, path: Path) -> Vectors:
    manifest, rows = vectors.manifest, len(vectors.ids)
    if vectors.matrix.shape != (manifest.rows, manifest.dimensions) or rows != manifest.rows:
        raise CorruptFile(
            f"{path} has {rows:,} ids and vectors of shape {vectors.matrix.shape}, and says that they are "
            f"{manifest.rows:,} of {manifest.dimensions:,} dimensions",
            _AGAIN,
        )
    return vectors


def refuse_other_encoder(path: Path, manifest: Manifest, encoder: str, model: str, kind: str) -> None:
    """Raise an error if vectors cannot stand beside those of a file.

    Args:
        path: The file of vectors.
        manifest: What made it.
        encoder: Fingerprint of the encoder of the other vectors.
        model: Its location.
        kind: What the other texts are.

    Raises:
        InputError: If another encoder made the file, or its texts are of another kind.
    """
    if manifest.encoder != encoder:
        raise InputError(
            f"{path} holds vectors of {manifest.model} (encoder {manifest.encoder[:12]}), and {model} is another "
            f"encoder ({encoder[:12]}): their vectors cannot be compared",
            f"give {manifest.model}, or another --out",
        )
    if manifest.kind != kind:
        raise InputError(
            f"{path} holds vectors of texts read as {manifest.kind}, not as {kind}", f"give --kind {manifest.kind}"
        )

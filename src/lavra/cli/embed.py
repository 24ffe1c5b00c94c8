"""`lavra embed`: vectors of texts."""

from __future__ import annotations

from pathlib import Path

from lavra.cli.options import parse, print_json, say_last, show
from lavra.config.vectors import EmbedConfig
from lavra.core.program import command


def main(arguments: list[str]) -> int:
    """Run `lavra embed …`."""
    request, as_json = parse(
        EmbedConfig,
        arguments,
        prog="lavra embed",
        description="Make vectors of texts with an encoder, for search, clustering and comparing: a row for each text, "
        "in their order. Killed or interrupted, the same command goes on, and no text is read twice.",
        examples=[
            "lavra embed runs/encoder news.jsonl --out news.npy",
            "lavra embed runs/encoder questions.jsonl --kind query --out questions.parquet",
            "lavra embed sentence-transformers/all-MiniLM-L6-v2 docs/ --out vectors/docs",
            "lavra embed runs/encoder more.jsonl --out news.npy --extend",
        ],
    )
    from lavra.workflows.embeddings.embed import embed_files, summary

    report = embed_files(request)
    if as_json:
        print_json(report.to_json())
        return 0
    show(summary(report))
    say_last(
        ("result", report.out),
        ("read it", _reading(Path(report.out))),
        ("add more", command("embed", request.model, "MORE", "--kind", request.kind, "--out", report.out, "--extend")),
        ("cache", f"{report.cache} makes that quick; it may be deleted"),
    )
    return 0


def _reading(path: Path) -> str:
    """Return the line of Python that reads the vectors."""
    if path.suffix == ".parquet":
        return f'pyarrow.parquet.read_table("{path}")["vector"]'
    matrix = path if path.suffix == ".npy" else path / "vectors.npy"
    return f'numpy.load("{matrix}", mmap_mode="r")'

"""`lavra search`: ask an index, and `lavra search evaluate`: measure whether expansion helps."""

from __future__ import annotations

import shutil
import sys
import textwrap
from typing import TYPE_CHECKING

from lavra.cli.options import parse, print_json, say_last, show
from lavra.config.search import SearchConfig, SearchEvaluateConfig
from lavra.core.messages.catalogue import told
from lavra.core.program import command

if TYPE_CHECKING:
    from lavra.search.search import Hit


def main(arguments: list[str]) -> int:
    """Run `lavra search …`."""
    return _evaluate(arguments[1:]) if arguments[:1] == ["evaluate"] else _search(arguments)


def _search(arguments: list[str]) -> int:
    options, as_json = parse(
        SearchConfig,
        arguments,
        prog="lavra search",
        description="Search an index made by `lavra index`, by words and, where it has vectors, by meaning: passages "
        "with the words of the query marked, what each was found by and, where a generated query made the match, that "
        "query. `lavra search evaluate --help` measures an index instead.",
        examples=[
            'lavra search "onde fica a maior cidade"',
            'lavra search "onde fica a maior cidade" --mode lexical',
            "lavra search evaluate beir/scifact --expansions e.jsonl --dense models/e5",
        ],
    )
    from lavra.core.errors import InputError
    from lavra.workflows.search.search import search_index

    query = " ".join(options.query)
    if not query.strip():
        raise InputError("the query is empty", 'write what to look for: lavra search "maior cidade"')
    how = {name: value for name, value in vars(options).items() if name not in ("query", "index")}
    hits = search_index(query, options.index, **how)
    if as_json:
        print_json({"query": query, "hits": [hit.to_json() for hit in hits]})
        return 0
    for hit in hits:
        print("\n".join(_lines(hit, colour=sys.stdout.isatty())))
    if not hits:
        show("nothing found")
    return 0


def _lines(hit: Hit, *, colour: bool) -> list[str]:
    """Return the lines of a result, of at most 80 columns: its title, why it was found, its passage."""
    from lavra.core.progress import printable
    from lavra.search.search import marked

    before, after = ("\ue000", "\ue001") if colour else ("**", "**")  # of one column, until the lines are broken
    score = f"{hit.score:.2f}" if abs(hit.score) >= 1 else f"{hit.score:.4f}"
    title = " ".join(printable(hit.title or hit.id).split())
    lines = textwrap.wrap(f"{hit.rank:>2}. {title}  ({printable(hit.id)}, {score})", _WIDTH, subsequent_indent="    ")
    shown = [printable(told(hit.reason())), marked(printable(hit.passage), hit.marks, before, after)]
    if hit.expansion:
        shown.append(
            f"{told('generated query')}: {marked(printable(hit.expansion), hit.expansion_marks, before, after)}"
        )
    for text in shown:
        words = " ".join(text.split())
        lines += textwrap.wrap(words, _WIDTH, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False)
    return [line.replace("\ue000", "\x1b[1m").replace("\ue001", "\x1b[0m") for line in lines]


_WIDTH = 80
"""Columns of a line."""


def _evaluate(arguments: list[str]) -> int:
    options, as_json = parse(
        SearchEvaluateConfig,
        arguments,
        prog="lavra search evaluate",
        description="Measure BM25 on documents alone, with generated queries, with these alone, with their new terms "
        "only, and filtered; with --dense, search by vectors and its fusion with BM25; with --rerank, the results "
        "ranked anew: nDCG@10, MRR@10, MAP, recall and share judged, with intervals, tests and latency.",
        examples=[
            "lavra search evaluate squad --expansions expanded.jsonl --tune-on train --out runs/squad-search",
            "lavra search evaluate faquad --dense models/e5 --rerank models/cross-encoder",
        ],
    )
    from lavra.search.experiment.files import table
    from lavra.workflows.search.search import evaluate_search

    values = {name: value for name, value in vars(options).items() if name != "collection"}
    result = evaluate_search(options.collection, **values)
    if as_json:
        print_json(result.to_json())
    else:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        print("\n".join(table(result, width, told)))
        say_last(
            ("result", f"{options.out} (experiment.txt, experiment.json, differences.tsv, experiment.svg)"),
            ("search", command("search", "…", "--index", f"{options.out}/index")),
        )
    return 0

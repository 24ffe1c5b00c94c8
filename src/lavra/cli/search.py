"""`lavra search`: ask an index, and `lavra search evaluate`: measure whether expansion helps."""

from __future__ import annotations

import shutil
import sys

from lavra.cli.options import parse, print_json, say_last
from lavra.config.search import SearchConfig, SearchEvaluateConfig
from lavra.core.program import command


def main(arguments: list[str]) -> int:
    """Run `lavra search …`."""
    return _evaluate(arguments[1:]) if arguments[:1] == ["evaluate"] else _search(arguments)


def _search(arguments: list[str]) -> int:
    options, as_json = parse(
        SearchConfig,
        arguments,
        prog="lavra search",
        description="Search an index made by `lavra index`: passages with the words of the query marked and, where a "
        "generated query made the match, that query. `lavra search evaluate --help` measures an index instead.",
        examples=['lavra search "onde fica a maior cidade"', "lavra search evaluate beir/scifact --expansions e.jsonl"],
    )
    from lavra.core.errors import InputError
    from lavra.core.progress import printable
    from lavra.search.search import marked
    from lavra.workflows.search.search import search_index

    query = " ".join(options.query)
    if not query.strip():
        raise InputError("the query is empty", 'write what to look for: lavra search "maior cidade"')
    hits = search_index(query, options.index, top_k=options.top_k)
    if as_json:
        print_json({"query": query, "hits": [hit.to_json() for hit in hits]})
        return 0
    before, after = ("\x1b[1m", "\x1b[0m") if sys.stdout.isatty() else ("**", "**")
    for hit in hits:
        print(printable(f"{hit.rank:>2}. {hit.title or hit.id}  ({hit.id}, {hit.score:.2f})"))
        print(f"    {_on_one_line(marked(printable(hit.passage), hit.marks, before, after))}")
        if hit.expansion:
            shown = marked(printable(hit.expansion), hit.expansion_marks, before, after)
            print(f"    generated query: {_on_one_line(shown)}")
    if not hits:
        print("nothing found")
    return 0


def _on_one_line(text: str) -> str:
    return " ".join(text.split())


def _evaluate(arguments: list[str]) -> int:
    options, as_json = parse(
        SearchEvaluateConfig,
        arguments,
        prog="lavra search evaluate",
        description="Measure BM25 on documents alone, with generated queries, with these alone, with their new terms "
        "only, and filtered: nDCG@10, MRR@10, MAP, recall and share judged, with intervals, tests and latency.",
        examples=["lavra search evaluate squad --expansions expanded.jsonl --tune-on train --out runs/squad-search"],
    )
    from lavra.search.experiment.files import table
    from lavra.workflows.search.search import evaluate_search

    values = {name: value for name, value in vars(options).items() if name != "collection"}
    result = evaluate_search(options.collection, **values)
    if as_json:
        print_json(result.to_json())
    else:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        print("\n".join(table(result, width)))
        say_last(
            ("result", f"{options.out} (experiment.txt, experiment.json, differences.tsv, experiment.svg)"),
            ("search", command("search", "…", "--index", f"{options.out}/index")),
        )
    return 0

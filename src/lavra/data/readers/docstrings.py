"""Reads the docstrings of Python files with `ast`: nothing is imported and nothing is run.

Uses the standard library only, because `installed_docs` runs this file as a program, once per core: paths come in on
standard input, one per line; one JSON array `[path, object name, docstring]` per line goes out. The object of a file
that cannot be parsed has the name null.
"""

from __future__ import annotations

import ast
import gc
import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

_HOLDERS = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_BODIES = ("body", "orelse", "finalbody", "handlers")


def docstrings(path: Path) -> Iterator[tuple[str | None, str]]:
    """Yield (dotted name within the module, docstring) for a Python file, in the order of the file.

    The module itself has the name "". A file that does not parse, or is not UTF-8, gives the name None and the reason.
    The syntax tree is walked with a stack of its own instead of by recursion, because generated files can nest too deep
    for it.
    """
    try:
        source = path.read_bytes()
        if b'"' not in source and b"'" not in source:
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a foreign file's invalid escapes are not the user's concern
            tree = ast.parse(source)
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
        yield None, str(error) or type(error).__name__
        return
    stack: list[tuple[ast.AST, str]] = [(tree, "")]
    while stack:
        node, name = stack.pop()
        if isinstance(node, (ast.Module, *_HOLDERS)):
            text = ast.get_docstring(node)
            if text and text.strip():
                yield name, text
        children = [child for body in _BODIES for child in getattr(node, body, ()) if isinstance(child, ast.AST)]
        for child in reversed(children):
            inner = f"{name}.{child.name}".lstrip(".") if isinstance(child, _HOLDERS) else name
            stack.append((child, inner))


def main() -> None:
    """Read paths from standard input, and write their docstrings to standard output."""
    gc.disable()  # syntax trees have no cycles worth looking for, and looking takes a third of the time
    for line in sys.stdin:
        path = line.rstrip("\n")
        for name, text in docstrings(Path(path)):
            sys.stdout.write(json.dumps([path, name, text]) + "\n")


if __name__ == "__main__":
    main()

"""No two modules of the package import each other, not even for their types; few know the trainer."""

from __future__ import annotations

import ast
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import lavra

HOME = Path(lavra.__file__).parent
ABOVE_THE_TRAINER = {"lavra.training.loop", "lavra.training.updates.table"}


@cache
def imports() -> dict[str, set[str]]:
    """Return which modules of the package each one imports, inside functions and for type checkers included.

    A package's `__init__` imports its modules for convenience, and is left out.
    """
    paths = {"lavra." + ".".join(path.relative_to(HOME).with_suffix("").parts): path for path in HOME.rglob("*.py")}
    paths = {name: path for name, path in paths.items() if not name.endswith("__init__")}
    found: dict[str, set[str]] = {}
    for name, path in paths.items():
        tree = ast.parse(path.read_text(encoding="utf8"))
        nodes = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        named = {f"{node.module}.{alias.name}" for node in nodes for alias in node.names}
        found[name] = (named | {str(node.module) for node in nodes}) & set(paths) - {name}
    return found


def test_no_module_imports_itself_by_way_of_others():
    known = imports()
    assert known["lavra.training.trainer"] >= {"lavra.training.step", "lavra.training.batches"}
    TopologicalSorter(known).prepare()  # raises CycleError, which names the circle


def test_only_what_stands_above_the_trainer_knows_it():
    training = {name: others for name, others in imports().items() if name.startswith("lavra.training.")}
    assert {name for name, others in training.items() if "lavra.training.trainer" in others} == ABOVE_THE_TRAINER

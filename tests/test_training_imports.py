"""No two modules of training import each other, not even for their types, and only those above it know the trainer."""

from __future__ import annotations

import ast
from pathlib import Path

import lavra.training

HOME = Path(lavra.training.__file__).parent
ABOVE_THE_TRAINER = {"lavra.training.loop", "lavra.training.updates.table"}


def imports() -> dict[str, set[str]]:
    """Return which modules of training each one imports, inside functions and for type checkers included."""
    paths = {
        "lavra.training." + ".".join(path.relative_to(HOME).with_suffix("").parts): path for path in HOME.rglob("*.py")
    }
    paths = {name.removesuffix(".__init__"): path for name, path in paths.items()}
    found: dict[str, set[str]] = {}
    for name, path in paths.items():
        nodes = [
            node for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))) if isinstance(node, ast.ImportFrom)
        ]
        named = {f"{node.module}.{alias.name}" for node in nodes for alias in node.names} | {
            str(node.module) for node in nodes
        }
        found[name] = named & set(paths) - {name}
    return found


def reached(name: str, known: dict[str, set[str]]) -> set[str]:
    """Return all modules that a module imports, directly or by way of others."""
    seen: set[str] = set()
    waiting = list(known[name])
    while waiting:
        other = waiting.pop()
        if other not in seen:
            seen.add(other)
            waiting += known[other]
    return seen


def test_no_module_of_training_imports_itself_by_way_of_others():
    known = imports()
    assert known["lavra.training.trainer"] >= {"lavra.training.step", "lavra.training.batches"}
    # A package's `__init__` imports its modules for convenience, and these may import each other's siblings.
    packages = {name for name in known if any(other.startswith(f"{name}.") for other in known)}
    plain = {name: others - packages for name, others in known.items()}
    assert [name for name in plain if name in reached(name, plain)] == []


def test_only_what_stands_above_the_trainer_knows_it():
    assert {name for name, others in imports().items() if "lavra.training.trainer" in others} == ABOVE_THE_TRAINER

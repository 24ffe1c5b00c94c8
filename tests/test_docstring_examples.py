"""The examples in docstrings run and print what they show, so that what a reader copies from them works."""

import doctest
import importlib
import re
from pathlib import Path

import pytest

import lavra

_ROOT = Path(lavra.__file__).parent
_PROMPT = re.compile(r"^\s*>>> ", re.MULTILINE)


def _module_name(path: Path) -> str:
    parts = path.relative_to(_ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _modules_with_examples() -> list[str]:
    paths = sorted(_ROOT.rglob("*.py"))
    return [_module_name(path) for path in paths if _PROMPT.search(path.read_text(encoding="utf8"))]


@pytest.mark.parametrize("name", _modules_with_examples())
def test_the_examples_of_a_module_print_what_they_show(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = importlib.import_module(name)
    tests = doctest.DocTestFinder().find(module)
    assert any(test.examples for test in tests), f"{name} shows an example that is in no docstring"
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for test in tests:
        runner.run(test)
    assert runner.summarize(verbose=False).failed == 0, capsys.readouterr().out


def test_the_rooms_that_people_import_from_have_examples() -> None:
    rooms = {name.split(".")[1] for name in _modules_with_examples() if "." in name}
    assert {"config", "core", "data", "text"} <= rooms

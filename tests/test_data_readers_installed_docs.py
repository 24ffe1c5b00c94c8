"""The documentation of installed packages: read without importing, each text once, in an order that does not change."""

from pathlib import Path

import pytest

from lavra.core.errors import InputError
from lavra.data.readers import installed_docs
from lavra.data.readers.installed_docs import read_installed_docs
from lavra.data.readers.rows import UNPARSED, BadRows

MODULE = '''"""What this module is for."""
raise RuntimeError("imported")

class Thing:
    """A thing."""

    if True:
        async def act(self):
            """Act on
            the thing."""
'''


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    files = {
        "beta/__init__.py": MODULE,
        "alpha.py": '"""Alpha."""\ndef f():\n    """A thing."""\n',
        "beta/broken.py": '"""Never seen."""\ndef (',
        "beta/tests/test_beta.py": '"""A test."""',
        "beta/data.txt": '"""Not Python."""',
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    return tmp_path


def test_docstrings_are_read_in_order_without_importing_and_each_text_once(packages: Path) -> None:
    rows = [row for row in read_installed_docs(packages) if row.source != "python"]
    assert [(row.source, row.text) for row in rows] == [
        ("alpha", "Alpha."),
        ("alpha", "A thing."),
        ("beta", "What this module is for."),
        ("beta", "Act on\nthe thing."),
    ]
    assert rows[-1].place == f"{packages / 'beta/__init__.py'}:Thing.act"


@pytest.mark.parametrize("few", [1, 1000])
def test_a_file_that_does_not_parse_is_told(packages: Path, monkeypatch: pytest.MonkeyPatch, few: int) -> None:
    monkeypatch.setattr(installed_docs, "_FEW", few)
    found = BadRows()
    list(read_installed_docs(packages, bad_rows=found))
    assert found.left_out == {UNPARSED: [str(packages / "beta/broken.py")]}
    with pytest.raises(InputError, match=r"beta/broken\.py is not read"):
        list(read_installed_docs(packages, bad_rows=BadRows(policy="strict")))


def test_readers_on_every_core_give_what_one_process_gives(packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = list(read_installed_docs(packages))
    monkeypatch.setattr(installed_docs, "_FEW", 1)
    assert list(read_installed_docs(packages)) == alone


def test_the_language_reference_is_part_of_it(packages: Path) -> None:
    topics = [row for row in read_installed_docs(packages) if row.source == "python"]
    assert len(topics) > 50
    assert any("assert" in row.text for row in topics)


def test_only_the_packages_that_are_named_are_read(tmp_path: Path) -> None:
    for package in ("one", "two", "three"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "module.py").write_text(f'"""The documentation of package {package}, all of it."""\n')
    rows = list(read_installed_docs(tmp_path, packages=["two", "one"]))
    assert [row.source for row in rows] == ["two", "one"]
    with pytest.raises(InputError, match="four: not installed"):
        list(read_installed_docs(tmp_path, packages=["one", "four"]))

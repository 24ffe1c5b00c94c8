"""Pages of HTML in one file: sections of facts, tables, pictures and texts, with nothing fetched from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from pathlib import Path

from lavra.core.disk.files import write_atomically
from lavra.core.errors import InputError
from lavra.core.progress import printable


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        headers: one title per column.
        rows: the cells, as text.
        words: how many of the first columns hold words, aligned left; the others hold numbers, aligned right.
    """

    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int = 1


@dataclass(frozen=True)
class Text:
    """A text that is shown as it is, with a line above it."""

    title: str
    body: str


@dataclass(frozen=True)
class Section:
    """One section; what is empty is not shown.

    Attributes:
        title: of the section.
        sentence: what one sees here.
        facts: (name, value) lines.
        tables: below them.
        pictures: SVG made by `line_plot` or `bar_plot`, the only part that is not escaped.
        note: what the numbers mean, in small print.
        texts: shown as they are.
        folded: texts that open at a click.
    """

    title: str
    sentence: str = ""
    facts: Sequence[tuple[str, str]] = ()
    tables: Sequence[Table] = ()
    pictures: Sequence[str] = ()
    note: str = ""
    texts: Sequence[Text] = ()
    folded: Sequence[Text] = ()

    @property
    def empty(self) -> bool:
        """Whether there is nothing to show."""
        parts = (self.sentence, self.facts, self.tables, any(self.pictures), self.texts, self.folded)
        return not any(parts)


def write_html(path: Path, page: str) -> None:
    """Write a page, whole or not at all.

    Raises:
        InputError: if the place cannot be written to.
    """
    try:
        write_atomically(path, page)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}", "name a file in another place") from error


def render_page(title: str, lead: str, said: Sequence[str], sections: Sequence[Section]) -> str:
    """Return the page.

    Args:
        title: of the page.
        lead: the outcome in a sentence.
        said: what is missing or went wrong, a line each, in a box at the top.
        sections: in order; empty ones are left out.
    """
    from jinja2 import Environment

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=_clean)
    template = environment.from_string((files("lavra.reports") / "templates" / "page.html").read_text(encoding="utf8"))
    return template.render(
        title=title,
        lead=lead,
        said=said,
        sections=[section for section in sections if not section.empty],
        footer=f"Written by lavra on {datetime.now():%Y-%m-%d %H:%M:%S} from the files of the run folder.",
    )


def _clean(value: object) -> object:
    """Show control characters, which have no place in HTML, as `�`; marked-up text passes as it is."""
    return printable(value) if type(value) is str else value

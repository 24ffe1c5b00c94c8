"""Self-contained HTML pages: sections of facts, tables, plots and texts, in one file."""

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
    """Table of a page.

    Attributes:
        headers: Title of each column.
        rows: Cells of each row, as text.
        words: Number of columns, from the first, that contain words and are aligned left; the others are aligned right.
    """

    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int = 1


@dataclass(frozen=True)
class Text:
    """Text that is shown unchanged, in a monospaced font.

    Attributes:
        title: Line above the text.
        body: Text.
    """

    title: str
    body: str


@dataclass(frozen=True)
class Section:
    """Section of a page; empty parts are not shown.

    Attributes:
        title: Heading.
        sentence: Introduction, above everything else.
        facts: Lines of (name, value).
        tables: Tables below the facts.
        pictures: SVG plots made by `line_plot` or `bar_plot`, the only part that is not escaped.
        note: Explanation of the numbers, in small print.
        texts: Texts that are shown unchanged.
        folded: Texts that unfold at a click.

    Examples:
        >>> Section("Checks").empty
        True
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
        """Whether the section has nothing to show."""
        parts = (self.sentence, self.facts, self.tables, any(self.pictures), self.texts, self.folded)
        return not any(parts)


def write_html(path: Path, page: str) -> None:
    """Write a page to a file, completely or not at all.

    Args:
        path: File to write.
        page: HTML of the page.

    Raises:
        InputError: if the file cannot be written.
    """
    try:
        write_atomically(path, page)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}", "name a file in another place") from error


def render_page(title: str, lead: str, said: Sequence[str], sections: Sequence[Section]) -> str:
    """Return the HTML of a page.

    Args:
        title: Title of the page.
        lead: Result in a sentence, below the title.
        said: Lines about missing data and problems, which are shown in a box at the top.
        sections: Sections in order; empty ones are omitted.
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
    """Return text with control characters, which HTML does not allow, replaced by `�`; safe markup stays unchanged."""
    return printable(value) if type(value) is str else value

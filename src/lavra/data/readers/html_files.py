"""Turns pages of HTML into the text that a reader would see, with each block on a line of its own."""

from __future__ import annotations

import codecs
import re
from html.parser import HTMLParser

# Elements whose content is not shown, those that begin a line, and those that an empty line sets apart.
_UNSEEN = {"script", "style", "template", "noscript", "head", "svg"}
_BLOCKS = {
    *("address", "article", "aside", "blockquote", "body", "br", "caption", "dd", "div", "dl", "dt", "fieldset"),
    *("figcaption", "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "li", "main"),
    *("nav", "ol", "option", "p", "pre", "section", "table", "title", "tr", "ul"),
}
_PARAGRAPHS = {"p", "h1", "h2", "h3", "h4", "h5", "h6", "blockquote", "pre", "table", "ul", "ol"}
_CHARSET = re.compile(rb"""<meta[^>]+charset\s*=\s*["']?\s*([\w-]+)""", re.IGNORECASE)


def html_charset(head: bytes) -> str | None:
    """Return the encoding that the beginning of a page declares, by Python's name, or None where it declares none.

    Latin-1 is read as Windows-1252, as browsers do.
    """
    found = _CHARSET.search(head)
    if found is None:
        return None
    name = found[1].decode("ascii")
    try:
        return codecs.lookup("cp1252" if name.lower() in ("iso-8859-1", "latin1", "latin-1") else name).name
    except LookupError:
        return None


def html_text(page: str) -> str:
    """Return the text of a page, without scripts and styles: the title first, then each block on its own line.

    Examples:
        >>> from lavra.data.readers.html_files import html_text
        >>> html_text("<title>Sea</title><p>The <b>sea</b>.</p><script>run()</script><p>And the hills.</p>")
        'Sea\\n\\nThe sea.\\n\\nAnd the hills.'
    """
    parser = _Text()
    parser.feed(page)
    parser.close()
    return parser.text()


class _Text(HTMLParser):
    """Collects the visible text of a page while the library parses it."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._parts: list[str] = []
        self._hidden: list[str] = []
        self._as_it_is = 0
        self._title = False

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag in _UNSEEN:
            self._hidden.append(tag)
        elif tag == "body":
            self._hidden.clear()  # a head that is never closed ends here
        self._title |= tag == "title"
        self._as_it_is += tag == "pre"
        self._break(tag)
        if tag in ("td", "th") and self._parts and not self._parts[-1].endswith("\n"):
            self._parts.append("\t")

    def handle_endtag(self, tag: str) -> None:
        if tag in self._hidden:
            del self._hidden[self._hidden.index(tag) :]
        if tag == "title":
            self._title = False
        self._as_it_is = max(0, self._as_it_is - (tag == "pre"))
        self._break(tag)

    def handle_data(self, data: str) -> None:
        title = self._title and self._hidden == ["head"]
        if self._hidden and not title:
            return
        if not self._as_it_is:
            data = re.sub(r"\s+", " ", data)
            data = data.lstrip() if not self._parts or self._parts[-1].endswith(("\n", "\t")) else data
        self._parts.append(data)

    def _break(self, tag: str) -> None:
        if tag in _BLOCKS:
            self._parts.append("\n\n" if tag in _PARAGRAPHS else "\n")

    def text(self) -> str:
        text = re.sub(r"[ \t]+\n", "\n", "".join(self._parts))
        return re.sub(r"\n{3,}", "\n\n", text).strip()

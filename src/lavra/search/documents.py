"""What is searched: the document."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a collection.

    Attributes:
        id: its name in runs and judgements; unique in the collection.
        text: its body.
        title: its title, empty when it has none; title and body are indexed together.
        queries: queries generated for it (document expansion).
        place: where it was read, for messages: `corpus.jsonl:17`.
    """

    id: str
    text: str
    title: str = ""
    queries: tuple[str, ...] = ()
    place: str = ""

    @property
    def contents(self) -> str:
        """The title, if any, and the text: what BEIR and Anserini call the flat document."""
        return f"{self.title} {self.text}" if self.title else self.text

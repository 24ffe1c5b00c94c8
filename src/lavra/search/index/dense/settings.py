"""What the dense side of an index holds: whose vectors they are, in which form, and how they are searched."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from lavra.core.errors import InputError

Store = Literal["float16", "int8", "binary"]
"""The forms in which vectors are stored, see `lavra.search.index.dense.stores`."""

Method = Literal["auto", "exact", "hnsw"]
"""How vectors are searched: all of them, or by a graph; `auto` takes the graph beyond `EXACT` texts."""

EXACT = 100_000
"""Most texts that `auto` searches exactly."""


@dataclass(frozen=True)
class DenseSettings:
    """The settings of the dense side of an index.

    Attributes:
        model: The location of the encoder, which is opened again for queries and for an update.
        fingerprint: The fingerprint of the encoder (see `lavra.vectors.protocols.TextEncoder`): vectors of two models
            are never mixed.
        dimensions: Size of a vector.
        store: The form in which vectors are stored.
        method: How they are searched.

    Raises:
        InputError: If a value is not among those that there are.
    """

    model: str
    fingerprint: str
    dimensions: int
    store: Store = "float16"
    method: Method = "auto"

    def __post_init__(self) -> None:
        for value, choices in ((self.store, Store), (self.method, Method)):
            if value not in get_args(choices):
                raise InputError(f"{value!r} is not a choice", f"use one of {', '.join(get_args(choices))}")

    def has_graph(self, texts: int) -> bool:
        """Return whether so many texts are searched by a graph.

        Binary vectors are not, unless it is asked for: comparing a million of them is quick.
        """
        if self.method == "auto":
            return texts > EXACT and self.store != "binary"
        return self.method == "hnsw" and texts > 0

    def check_model(self, fingerprint: str, model: str, place: object) -> None:
        """Refuse another model than that of the vectors.

        Args:
            fingerprint: The fingerprint of the model that is to be used.
            model: Its location.
            place: The index, for the message.

        Raises:
            InputError: If it is another model.
        """
        if fingerprint != self.fingerprint:
            raise InputError(
                f"the vectors of {place} are those of the model {self.model} ({self.fingerprint[:12]}), not of "
                f"{model} ({fingerprint[:12]})",
                f"give that model, or make the index again: lavra index … --dense {model} --force",
            )

    def to_json(self) -> dict[str, Any]:
        """Return the settings as plain values, for the manifest."""
        return asdict(self)

"""What it costs to write a text with one vocabulary rather than another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lavra.data.tokenizer import Tokenizer
from lavra.data.tokenizer_report import TokenizerReport


@dataclass(frozen=True, slots=True)
class VocabularyTax:
    """Two tokenizers on the same text. Losses per token of the two cannot be compared; bits per byte can.

    Attributes:
        old: the tokenizer that the model has.
        new: the one that it could have.
    """

    old: TokenizerReport
    new: TokenizerReport

    @classmethod
    def measure(cls, old: Tokenizer, new: Tokenizer, texts: Sequence[str]) -> VocabularyTax:
        """Encode `texts` with both."""
        return cls(TokenizerReport.measure(old, texts), TokenizerReport.measure(new, texts))

    @property
    def factor(self) -> float:
        """How many times as many tokens the old one takes: so much more is computed, so much less fits a window."""
        return self.old.tokens / max(1, self.new.tokens)

    def summary(self) -> str:
        """Return the comparison in two lines."""
        return (
            f"tokens per word {self.old.fertility:.2f} -> {self.new.fertility:.2f}, "
            f"bytes per token {self.old.bytes_per_token:.2f} -> {self.new.bytes_per_token:.2f}\n"
            f"the old vocabulary takes {self.factor:.2f} times as many tokens for this text: so much more to compute, "
            "so much less text in a window"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the figures as plain values."""
        return {"factor": self.factor, **asdict(self)}

"""How to generate: plain values, imported without torch so that the command line's help is quick."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lavra.core.errors import InputError


@dataclass(frozen=True)
class GenerateOptions:
    """How to continue a prompt. Filters act in the order of the fields; a neutral value turns one off exactly.

    Attributes:
        max_new_tokens: most tokens to add to each prompt.
        min_new_tokens: the text cannot end by itself before this many tokens (stop strings still end it).
        samples: continuations of each prompt.
        seed: same seed, same texts, however the prompts are grouped.
        greedy: always take the likeliest token; temperature and the filters after it then do nothing.
        repetition_penalty: divides the positive and multiplies the negative scores of tokens that the prompt or the
            text holds already (CTRL, arXiv 1909.05858 section 4.1); 1 is off.
        frequency_penalty: taken from a token's score for each time that the new text holds it; 0 is off.
        no_repeat_ngram: no run of this many tokens comes twice; 0 is off.
        temperature: scores are divided by it; 1 is the model's own distribution, near 0 is greedy.
        top_k: keep the k likeliest tokens; 0 is off.
        top_p: keep the fewest likeliest tokens that hold this share (nucleus, arXiv 1904.09751); 1 is off.
        min_p: keep tokens at least this share as likely as the likeliest (arXiv 2407.01082); 0 is off.
        typical_p: keep the fewest tokens of this share whose surprise is nearest to the entropy (arXiv 2202.00666);
            1 is off.
        stop: strings that end the text; they are cut off, wherever the borders between tokens fall.
    """

    max_new_tokens: int = 200
    min_new_tokens: int = 0
    samples: int = 1
    seed: int = 0
    greedy: bool = False
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    no_repeat_ngram: int = 0
    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 0.95
    min_p: float = 0.0
    typical_p: float = 1.0
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, good, range_ in (
            ("max_new_tokens", self.max_new_tokens >= 0, "0 or more"),
            ("min_new_tokens", 0 <= self.min_new_tokens <= self.max_new_tokens, "from 0 to max_new_tokens"),
            ("samples", self.samples >= 1, "1 or more"),
            ("repetition_penalty", 0 < self.repetition_penalty < math.inf, "above 0; 1 is off"),
            ("frequency_penalty", math.isfinite(self.frequency_penalty), "a finite number; 0 is off"),
            ("no_repeat_ngram", self.no_repeat_ngram >= 0, "0 (off) or more"),
            ("temperature", 0 < self.temperature < math.inf, "above 0; for the likeliest token always, say --greedy"),
            ("top_k", self.top_k >= 0, "0 (off) or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and up to 1 (off)"),
            ("min_p", 0 <= self.min_p <= 1, "from 0 (off) to 1"),
            ("typical_p", 0 < self.typical_p <= 1, "above 0 and up to 1 (off)"),
            ("stop", all(self.stop), "strings that are not empty"),
        ):
            if not good:
                flag = "--" + name.replace("_", "-")
                raise InputError(f"{flag} is {getattr(self, name)!r}", f"it must be {range_}")

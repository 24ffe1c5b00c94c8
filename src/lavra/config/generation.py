"""The options of text generation.

They are plain values in a module that does not import torch, so that the command line's help is quick.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from lavra.config.flags import Common, shown
from lavra.core.errors import InputError
from lavra.core.progress import log

FORMAL = ("regex", "json_schema", "grammar")
"""The options whose value may be the name of a file that holds the value, because people keep these in files."""

# Endings by which a value that names a missing file is told from a value given directly. No schema and no grammar ends
# so itself. A regular expression may end in any way, so it has no entry.
_ENDINGS = {"json_schema": (".json",), "grammar": (".lark", ".ebnf", ".gbnf", ".txt")}


@dataclass(frozen=True)
class TokenOptions:
    """How a prompt becomes tokens.

    Examples:
        >>> from lavra.config.generation import TokenOptions
        >>> TokenOptions().bos is None
        True
    """

    bos: bool | None = None
    """Read a beginning-of-text token before the prompt, or none; by default the model's own tokenizer decides, and an
    empty prompt gets one in any case."""


@dataclass(frozen=True)
class PromptOptions(TokenOptions):
    """How a prompt is read.

    Examples:
        >>> from lavra.config.generation import PromptOptions
        >>> PromptOptions().long_prompt
        'refuse'
    """

    long_prompt: Literal["refuse", "window"] = "refuse"
    """Stop at a prompt that is longer than the model's context (refuse), or read its end only (window)."""


@dataclass(frozen=True)
class SamplingOptions(PromptOptions):
    """How the next token is chosen. A neutral value turns a filter off exactly.

    Examples:
        >>> from lavra.config.generation import SamplingOptions
        >>> SamplingOptions(temperature=0.5).top_p
        0.95
    """

    seed: Annotated[int, Common] = 0
    """Seed of the sampling. The same seed gives the same texts, however the prompts are grouped."""
    greedy: Annotated[bool, Common] = False
    """Always take the most likely token; temperature and the filters after it then do nothing."""
    temperature: Annotated[float, Common] = 0.8
    """Scores are divided by it; 1 is the model's own distribution, near 0 is greedy."""
    top_k: Annotated[int, Common] = 0
    """Keep the k most likely tokens; 0 is off."""
    top_p: Annotated[float, Common] = 0.95
    """Keep the fewest most likely tokens that together have this probability (nucleus sampling, arXiv 1904.09751); 1 is
    off."""
    min_p: float = 0.0
    """Keep tokens at least this share as likely as the most likely one (arXiv 2407.01082); 0 is off."""
    typical_p: float = 1.0
    """Keep the fewest tokens that together have this probability and whose surprise is nearest to the entropy (locally
    typical sampling, arXiv 2202.00666); 1 is off."""


@dataclass(frozen=True)
class GenerateOptions(SamplingOptions):
    """How to continue a prompt.

    Penalties come first, then the temperature, then the filters top-k, top-p, min-p and typical-p in this order.

    Raises:
        InputError: if a value is out of its range, or two values contradict each other.

    Examples:
        >>> from lavra.config.generation import GenerateOptions
        >>> options = GenerateOptions(max_new_tokens=50, top_k=40)
        >>> options.temperature, options.top_k, options.constrained
        (0.8, 40, False)
        >>> GenerateOptions(choices=("yes", "no")).constrained
        True
        >>> GenerateOptions(top_p=2.0)
        Traceback (most recent call last):
            ...
        lavra.core.errors.InputError: --top-p is 2.0
          what to do: it must be above 0 and up to 1 (off)
    """

    max_new_tokens: Annotated[int, Common] = 200
    """Largest number of tokens to add to each prompt."""
    min_new_tokens: int = 0
    """The text cannot end by itself before this many tokens; stop strings still end it."""
    samples: Annotated[int, Common] = 1
    """Number of continuations of each prompt."""
    repetition_penalty: float = 1.0
    """Divides the positive and multiplies the negative scores of tokens that the prompt or the text holds already
    (CTRL, arXiv 1909.05858 section 4.1); 1 is off."""
    frequency_penalty: float = 0.0
    """Subtracted from a token's score for each time that the new text holds it; 0 is off."""
    no_repeat_ngram: int = 0
    """No sequence of this many tokens comes twice; 0 is off."""
    stop: tuple[str, ...] = ()
    """Strings that end the text; they are cut off, wherever the borders between tokens fall."""
    beams: int = 1
    """Above 1, search for the most likely texts with this many at a time instead of sampling (beam search); the best of
    them, as many as --samples, are returned. Temperature and the filters after it then do nothing."""
    beam_groups: int = 1
    """Number of groups of beams that avoid each other's tokens (diverse beam search, arXiv 1610.02424); 1 is off."""
    diversity_penalty: float = 0.5
    """Subtracted from a token's score for each beam of an earlier group that has just taken it."""
    length_penalty: float = 1.0
    """A text's score is its log-probability divided by its number of tokens to this power; 0 is the log-probability
    itself, and larger values prefer longer texts."""
    contrastive: float | None = None
    """The alpha of contrastive search (arXiv 2202.06417) among the most likely tokens, as many as --top-k: how much
    being unlike the text so far counts against being likely; 0 is greedy. Off by default."""
    choices: tuple[str, ...] = ()
    """The text must be one of these strings."""
    words: tuple[str, ...] = ()
    """The text must contain all of these words."""
    regex: Annotated[str, shown(metavar="REGEX|FILE")] = ""
    """The text must match this regular expression as a whole; look-around is not supported."""
    json_schema: Annotated[str, shown(metavar="JSON|FILE")] = ""
    """The text must be JSON of this schema. On the command line it may also be the name of a file that holds the
    schema, as for --regex and --grammar."""
    grammar: Annotated[str, shown(metavar="LARK|FILE")] = ""
    """The text must follow this context-free grammar, written for the library Lark."""

    def __post_init__(self) -> None:
        for name, good, range_ in (
            ("max_new_tokens", self.max_new_tokens >= 0, "0 or more"),
            ("min_new_tokens", 0 <= self.min_new_tokens <= self.max_new_tokens, "from 0 to max_new_tokens"),
            ("samples", self.samples >= 1, "1 or more"),
            ("repetition_penalty", 0 < self.repetition_penalty < math.inf, "above 0; 1 is off"),
            ("frequency_penalty", math.isfinite(self.frequency_penalty), "a finite number; 0 is off"),
            ("no_repeat_ngram", self.no_repeat_ngram >= 0, "0 (off) or more"),
            ("temperature", 0 < self.temperature < math.inf, "above 0; --greedy always takes the most likely token"),
            ("top_k", self.top_k >= 0, "0 (off) or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and up to 1 (off)"),
            ("min_p", 0 <= self.min_p <= 1, "from 0 (off) to 1"),
            ("typical_p", 0 < self.typical_p <= 1, "above 0 and up to 1 (off)"),
            ("stop", all(self.stop), "strings that are not empty"),
            ("beams", self.beams >= 1, "1 (off) or more"),
            ("beam_groups", self._groups_fit, f"a divisor of --beams, which is {self.beams}"),
            ("diversity_penalty", 0 <= self.diversity_penalty < math.inf, "0 or more"),
            ("length_penalty", math.isfinite(self.length_penalty), "a finite number"),
            ("contrastive", 0 <= (self.contrastive or 0.0) <= 1, "from 0 (greedy) to 1"),
            ("choices", all(self.choices), "strings that are not empty"),
            ("words", all(self.words), "strings that are not empty"),
        ):
            if not good:
                flag = "--" + name.replace("_", "-")
                raise InputError(f"{flag} is {getattr(self, name)!r}", f"it must be {range_}")
        self._check_together()

    @property
    def constrained(self) -> bool:
        """Whether the options constrain the text: by choices, words, an expression, a schema or a grammar."""
        return bool(self.choices or self.words or any(getattr(self, name) for name in FORMAL))

    def with_files_read(self) -> GenerateOptions:
        """Return the options with the name of each file replaced by its content.

        Returns:
            Equal options where `regex`, `json_schema` and `grammar` name no file.

        Raises:
            InputError: if a file cannot be read.
        """
        read = {name: _content(name, getattr(self, name)) for name in FORMAL}
        return replace(self, **read)

    @property
    def _groups_fit(self) -> bool:
        return self.beam_groups >= 1 and self.beams % self.beam_groups == 0

    def _check_together(self) -> None:
        """Refuse values that contradict each other."""
        if self.beams > 1 and self.samples > self.beams:
            raise InputError(
                f"--samples is {self.samples} and --beams {self.beams}", "search with as many beams as samples, or more"
            )
        if self.contrastive is not None and self.beams > 1:
            raise InputError("--contrastive and --beams are two ways to search", "give one of them")
        if self.contrastive is not None and not self.top_k:
            raise InputError("--contrastive needs candidates to choose from", "set --top-k; 4 to 8 are usual")
        asked = [name for name in ("choices", "words", *FORMAL) if getattr(self, name)]
        if len(asked) > 1:
            flags = " and ".join("--" + name.replace("_", "-") for name in asked)
            raise InputError(f"{flags} cannot be combined", "give one of them; a regular expression can often say both")


def _content(name: str, value: str) -> str:
    """Return the content of the file that is named, or the value itself where there is no such file."""
    flag = "--" + name.replace("_", "-")
    if not _is_file(value):
        if value.endswith(_ENDINGS.get(name, ())) and not value.lstrip().startswith("{"):
            raise InputError(f"{flag} names {value}, and there is no such file", "correct the name")
        return value
    try:
        content = Path(value).read_text(encoding="utf8").strip()
    except UnicodeDecodeError as error:
        raise InputError(f"{value}, which {flag} names, is no text: {error}", "give a text file in UTF-8") from error
    except OSError as error:
        raise InputError(
            f"{value}, which {flag} names, cannot be read: {error.strerror}", "give another file"
        ) from error
    log(f"{flag} is read from the file {value}")
    return content


def _is_file(value: str) -> bool:
    try:
        return bool(value) and Path(value).is_file()
    except (OSError, ValueError):  # the value is too long for a file name, or holds characters that none can have
        return False

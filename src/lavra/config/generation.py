"""How to generate: plain values, imported without torch so that the command line's help is quick."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from lavra.config.quantities import Choice
from lavra.core.errors import InputError
from lavra.core.progress import say

FORMAL = ("regex", "json_schema", "grammar")
"""Options whose value may also be the name of a file that holds it."""

_ENDINGS = {"json_schema": ".json", "grammar": ".lark"}
"""The usual endings of such files. No schema and no grammar ends like that itself, so a value that does is taken for
the name of a file that is missing; a regular expression may end in any way."""


@dataclass(frozen=True)
class GenerateOptions:
    """How to continue a prompt. Filters act in the order of the fields; a neutral value turns one off exactly.

    Attributes:
        max_new_tokens: Most tokens to add to each prompt.
        min_new_tokens: The text cannot end by itself before this many tokens (stop strings still end it).
        samples: Number of continuations of each prompt.
        seed: Seed of the sampling; the same seed gives the same texts, however the prompts are batched.
        greedy: Always take the most probable token; temperature and the filters after it then have no effect.
        repetition_penalty: Divides the positive and multiplies the negative logits of tokens that the prompt or the
            text contains already (CTRL, arXiv 1909.05858 section 4.1); 1 is off.
        frequency_penalty: Subtracted from the logit of a token for each of its occurrences in the new text; 0 is off.
        no_repeat_ngram: No n-gram of this many tokens occurs twice; 0 is off.
        temperature: Logits are divided by the temperature; 1 is the model's own distribution, near 0 is greedy.
        top_k: Keep the k most probable tokens; 0 is off.
        top_p: Keep the fewest most probable tokens whose probabilities sum to this share (nucleus sampling, arXiv
            1904.09751); 1 is off.
        min_p: Keep tokens with at least this share of the highest probability (arXiv 2407.01082); 0 is off.
        typical_p: Keep the fewest tokens of this total probability whose surprisal is nearest to the entropy (locally
            typical sampling, arXiv 2202.00666); 1 is off.
        stop: Strings that end the text; they are cut off, wherever the borders between tokens fall.
        beams: Number of beams of a beam search, instead of sampling; the `samples` best texts are returned.
            Temperature and the filters after it then have no effect. 1 is off.
        beam_groups: Number of groups of beams that avoid each other's tokens (diverse beam search, arXiv 1610.02424);
            1 is off.
        diversity_penalty: Subtracted from the score of a token for each beam of another group that has just taken it.
        length_penalty: The score of a text is its log-probability divided by its number of tokens to this power; 0 is
            the log-probability itself, and larger values prefer longer texts.
        contrastive: The alpha of contrastive search (arXiv 2202.06417) among the `top_k` most probable tokens: how much
            similarity to the text so far counts against probability; 0 is greedy. It is off when not given.
        choices: The text must be one of these strings.
        words: The text must contain all of these strings.
        regex: The text as a whole must match this regular expression (without look-around).
        json_schema: The text must be JSON that is valid under this schema. As for --regex and --grammar, the value may
            be the name of a file that holds it.
        grammar: The text must belong to this context-free grammar, in the notation of the library Lark.
        long_prompt: What to do with a prompt that is longer than the model's context: stop (refuse), or read its end
            only (window).
        bos: Put a beginning-of-text token before the prompt (--bos) or none (--no-bos). By default the model's own
            tokenizer decides; an empty prompt gets one in any case.

    Raises:
        InputError: If a value is out of its range, or two values contradict each other.

    Examples:
        >>> GenerateOptions(max_new_tokens=20, temperature=0.7).top_p
        0.95
        >>> GenerateOptions(choices=("yes", "no")).constrained
        True
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
    beams: int = 1
    beam_groups: int = 1
    diversity_penalty: float = 0.5
    length_penalty: float = 1.0
    contrastive: float | None = None
    choices: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    regex: str = ""
    json_schema: str = ""
    grammar: str = ""
    long_prompt: Literal["refuse", "window"] = "refuse"
    bos: Choice = None

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
        """Whether the options constrain what the text may be: by choices, words, an expression, a schema, a grammar."""
        return bool(self.choices or self.words or any(getattr(self, name) for name in FORMAL))

    def with_files_read(self) -> GenerateOptions:
        """Return the options with the names of files (expression, schema, grammar) replaced by the files' contents.

        Returns:
            The options; unchanged where no file is named.

        Raises:
            InputError: If a file is missing, cannot be read, or is not UTF-8.
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
        if value.endswith(_ENDINGS.get(name, "\n")) and not value.lstrip().startswith("{"):
            raise InputError(f"{flag} names {value}, and there is no such file", "correct the name")
        return value
    try:
        content = Path(value).read_text(encoding="utf8").strip()
    except UnicodeDecodeError as error:
        raise InputError(f"{value}, which {flag} names, is not text: {error}", "give a text file in UTF-8") from error
    except OSError as error:
        raise InputError(
            f"{value}, which {flag} names, cannot be read: {error.strerror}", "give another file"
        ) from error
    say(f"{flag} is read from the file {value}")
    return content


def _is_file(value: str) -> bool:
    try:
        return bool(value) and Path(value).is_file()
    except (OSError, ValueError):  # too long for a name, or with characters that none has
        return False

"""What a text may be: one of some strings, a match of a regular expression, JSON of a schema, one with given words."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from lavra.core.errors import InputError
from lavra.core.progress import say
from lavra.data.tokenizers.prompt_ids import continuing
from lavra.generation.closing import Closing, allowed_of

if TYPE_CHECKING:
    from lavra.config.generation import GenerateOptions
    from lavra.data.tokenizers.tokenizer import Tokenizer

State = TypeVar("State")

CLOSING = 32
"""Of so many last tokens that may be written, only those are allowed after which a text can still be completed."""

STATES_KEPT = 4096
"""States that a constraint remembers; beams and samples go on from those of the step before."""


class Constraint(Protocol):
    """Says which tokens may come next. A pure function of the new tokens, so that any strategy can ask it."""

    def allowed(self, prefix: tuple[int, ...]) -> NDArray[np.bool_]:
        """Return (vocabulary,) bool for the token after `prefix`, the new ids so far; the end of document included."""
        ...

    def whole(self, prefix: tuple[int, ...]) -> bool:
        """Say whether the text may end after `prefix`."""
        ...


class Stepwise(Generic[State]):
    """A constraint made of states, one per prefix, each reached from the state of the prefix without its last token."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.vocabulary, self.end = tokenizer.vocabulary_size, tokenizer.end_of_document
        self._states: dict[tuple[int, ...], State] = {}

    def start(self) -> State:
        """Return the state before the first token."""
        raise NotImplementedError

    def after(self, state: State, token: int) -> State:
        """Return the state that a token leads to; the state given stays as it is."""
        raise NotImplementedError

    def mask(self, state: State) -> NDArray[np.bool_]:
        """Return (vocabulary,) bool: the tokens that may come next; none where there is no way on."""
        raise NotImplementedError

    def allowed(self, prefix: tuple[int, ...]) -> NDArray[np.bool_]:
        """Return (vocabulary,) bool for the token after `prefix`."""
        return self.mask(self.state(prefix))

    def whole(self, prefix: tuple[int, ...]) -> bool:
        """Say whether the text may end after `prefix`."""
        return bool(self.mask(self.state(prefix))[self.end])

    def state(self, prefix: tuple[int, ...]) -> State:
        """Return the state after `prefix`."""
        known = len(prefix)
        while known and prefix[:known] not in self._states:
            known -= 1
        state = self._states[prefix[:known]] if known else self.start()
        for place in range(known, len(prefix)):
            state = self.after(state, prefix[place])
            self._states[prefix[: place + 1]] = state
        while len(self._states) > STATES_KEPT:
            self._states.pop(next(iter(self._states)))
        return state


class OneOf(Stepwise[dict[int, Any]]):
    """Exactly one of some strings, each written with the tokens that the tokenizer gives it.

    Args:
        tokenizer: the model's own.
        choices: the strings; a space at the beginning of one is part of it.
        longest: most new tokens; choices that have more are left out, which is said.

    Raises:
        InputError: if no choice fits.
    """

    def __init__(self, tokenizer: Tokenizer, choices: Sequence[str], longest: int) -> None:
        super().__init__(tokenizer)
        encoded = {choice: continuing(tokenizer, choice) for choice in choices}
        if not encoded:
            raise InputError("--choices is empty", "give the strings that the text may be")
        long = [choice for choice, ids in encoded.items() if len(ids) > longest]
        enough = f"--max-new-tokens {max(map(len, encoded.values()))} lets all of them be written"
        if len(long) == len(encoded):
            shortest = min(map(len, encoded.values()))
            raise InputError(f"every choice has {shortest} tokens or more; {longest} may be written", enough)
        if long:
            shown = ", ".join(map(repr, long[:5])) + (", …" if len(long) > 5 else "")
            say(f"{len(long)} of {len(encoded)} choices have more than {longest} tokens, left out: {shown}; {enough}")
        self._root: dict[int, Any] = {}
        for choice, ids in encoded.items():
            node = self._root
            for token in [*ids, self.end] if choice not in long else []:
                node = node.setdefault(token, {})

    def start(self) -> dict[int, Any]:
        """Return the root of the tree of the choices."""
        return self._root

    def after(self, state: dict[int, Any], token: int) -> dict[int, Any]:
        """Return the branch of a token."""
        return state.get(token, {})

    def mask(self, state: dict[int, Any]) -> NDArray[np.bool_]:
        """Allow the branches."""
        mask = np.zeros(self.vocabulary, dtype=np.bool_)
        mask[list(state)] = True
        return mask


class Words(Stepwise[tuple[tuple[int, ...], tuple[int, ...]]]):
    """A text that has all of some words or phrases in it, wherever the model puts them.

    The text cannot end before it has them; where the room left is just enough to write the missing ones, they are
    written. A word counts wherever its letters stand, so also within a longer word. A state is the new tokens, and
    those that must come next.

    Args:
        tokenizer: the model's own.
        words: what the text must hold; a space is put before each where it has to be forced.
        longest: most new tokens.
    """

    def __init__(self, tokenizer: Tokenizer, words: Sequence[str], longest: int) -> None:
        super().__init__(tokenizer)
        self._tokenizer, self._longest = tokenizer, longest
        self._words = {word: tuple(continuing(tokenizer, " " + word)) for word in words}
        needed = sum(map(len, self._words.values()))
        if needed > longest:
            raise InputError(
                f"--words take {needed} tokens and --max-new-tokens is {longest}", f"set --max-new-tokens {needed}"
            )

    def start(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the state of the empty text."""
        return (), self._forced(())

    def after(
        self, state: tuple[tuple[int, ...], tuple[int, ...]], token: int
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the state of the text with a token more."""
        made, forced = (*state[0], token), state[1][1:]
        return made, forced or self._forced(made)

    def mask(self, state: tuple[tuple[int, ...], tuple[int, ...]]) -> NDArray[np.bool_]:
        """Allow what is forced, or else everything; the end only where nothing is missing."""
        made, forced = state
        mask = np.full(self.vocabulary, not forced)
        if forced:
            mask[forced[0]] = True
        else:
            mask[self.end] = not self._missing(made)
        return mask

    def _missing(self, made: tuple[int, ...]) -> list[str]:
        text = self._tokenizer.decode(made)
        return [word for word in self._words if word not in text]

    def _forced(self, made: tuple[int, ...]) -> tuple[int, ...]:
        """Return the tokens of all missing words where there is no room for anything else, and else none."""
        missing = [token for word in self._missing(made) for token in self._words[word]]
        return tuple(missing) if len(missing) >= self._longest - len(made) else ()


class Grammar(Stepwise[Any]):
    """A text of a formal language, by the library llguidance: any way of writing it in tokens is allowed.

    Args:
        tokenizer: the model's own.
        grammar: as the library compiles it.
        name: of the request, for errors: "--regex '[0-9]+'".
        longest: most new tokens; near them only what can still be completed is allowed, where a way is found.

    Raises:
        InputError: if the grammar is not understood, or no text satisfies it.
    """

    def __init__(self, tokenizer: Tokenizer, grammar: str, name: str, longest: int) -> None:
        from llguidance import LLMatcher

        super().__init__(tokenizer)
        self._closing, self._longest = Closing(tokenizer), longest
        self._first = LLMatcher(_readable(tokenizer), grammar, log_level=0)
        if self._first.is_error():
            reason = self._first.get_error().partition("start:")[0].strip()
            raise InputError(f"{name} cannot be used: {reason}", "correct it; look-around and \\b are not supported")
        begins = self.mask(self._first)
        begins[self.end] = self._first.is_accepting()
        if not begins.any():
            raise InputError(f"{name} matches no text that this tokenizer can write", "give one that some text matches")

    def start(self) -> Any:
        """Return the matcher before the first token."""
        return self._first

    def after(self, state: Any, token: int) -> Any:
        """Return a copy of the matcher that has taken a token."""
        copy = state.deep_copy()
        copy.consume_token(token)
        return copy

    def whole(self, prefix: tuple[int, ...]) -> bool:
        """Say whether the text so far is of the language."""
        return self.state(prefix).is_accepting()

    def allowed(self, prefix: tuple[int, ...]) -> NDArray[np.bool_]:
        """Return (vocabulary,) bool for the token after `prefix`."""
        state = self.state(prefix)
        mask, room = self.mask(state), self._longest - len(prefix)
        return mask if room > CLOSING else self._closing.allowed(state, mask, room)

    def mask(self, state: Any) -> NDArray[np.bool_]:
        """Allow what the matcher allows; the end where the text may be whole."""
        return allowed_of(state, self.vocabulary)


class _Spelling:
    """A tokenizer as llguidance reads any: the bytes of each token, and a way to encode."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.eos_token_id = self.bos_token_id = tokenizer.end_of_document
        self.tokens = [b""] * tokenizer.vocabulary_size
        added = tokenizer.inner.get_added_tokens_decoder()
        self.special_token_ids = [number for number, token in added.items() if token.special]
        for token, number in tokenizer.inner.get_vocab(with_added_tokens=True).items():
            byte = re.fullmatch(r"<0x([0-9A-F]{2})>", token)
            self.tokens[number] = bytes.fromhex(byte[1]) if byte else token.replace("\u2581", " ").encode()
        self._tokenizer = tokenizer

    def __call__(self, text: str | bytes) -> list[int]:
        return continuing(self._tokenizer, text if isinstance(text, str) else text.decode("utf8", "replace"))


def _readable(tokenizer: Tokenizer) -> Any:
    """Return the tokenizer for llguidance, which knows byte-level files itself, and others by how tokens are spelt."""
    from llguidance import LLTokenizer, TokenizerWrapper

    if tokenizer.byte_level:
        return LLTokenizer(tokenizer.serialised, n_vocab=tokenizer.vocabulary_size, eos_token=tokenizer.end_of_document)
    return LLTokenizer(TokenizerWrapper(_Spelling(tokenizer)), n_vocab=tokenizer.vocabulary_size)


def regex(tokenizer: Tokenizer, pattern: str, longest: int) -> Grammar:
    """Return the constraint to match the whole of a regular expression (of Rust's kind, without look-around).

    Raises:
        InputError: if it is not understood, matches nothing, or cannot end within `longest` tokens.
    """
    from llguidance import LLMatcher

    name = f"--regex {pattern!r}"
    constraint = Grammar(tokenizer, LLMatcher.grammar_from_regex(pattern), name, longest)
    shortest, token = _shortest_match(pattern), int(tokenizer.token_lengths().max())
    if shortest > longest * token:
        raise InputError(
            f"{name} cannot end: its shortest match has {shortest} characters, and {longest} tokens have at most "
            f"{longest * token} bytes",
            "raise --max-new-tokens, or give an expression with shorter matches",
        )
    return constraint


def json_schema(tokenizer: Tokenizer, schema: str, longest: int) -> Grammar:
    """Return the constraint to be JSON of a schema, without free white space (a weak model would write it for ever).

    Raises:
        InputError: if the schema is not JSON, not understood, or satisfied by nothing.
    """
    from llguidance import LLMatcher

    try:
        parsed = json.loads(schema)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"--json-schema is not JSON: {error}", "give a JSON schema, or the name of a file that holds one"
        ) from error
    if not isinstance(parsed, dict | bool):
        shown = schema if len(schema) <= 40 else schema[:37] + "..."
        raise InputError(f"--json-schema is {shown}, which is no schema", "a schema is an object, or true for any JSON")
    if parsed is False:
        raise InputError("--json-schema is false, which no JSON satisfies", "give a schema that some JSON satisfies")
    asked = "{}" if parsed is True else schema
    grammar = LLMatcher.grammar_from_json_schema(asked, overrides={"whitespace_flexible": False})
    return Grammar(tokenizer, grammar, "--json-schema", longest)


def lark(tokenizer: Tokenizer, grammar: str, longest: int) -> Grammar:
    """Return the constraint to be a text of a context-free grammar, as the library Lark writes them.

    Raises:
        InputError: if it is not understood, or no text is of its language.
    """
    from llguidance import LLMatcher

    return Grammar(tokenizer, LLMatcher.grammar_from_lark(grammar), "--grammar", longest)


def constraint_of(tokenizer: Tokenizer, options: GenerateOptions) -> Constraint | None:
    """Return the constraint that the options ask for, or None."""
    if options.choices:
        return OneOf(tokenizer, options.choices, options.max_new_tokens)
    if options.words:
        return Words(tokenizer, options.words, options.max_new_tokens)
    if options.regex:
        return regex(tokenizer, options.regex, options.max_new_tokens)
    if options.grammar:
        return lark(tokenizer, options.grammar, options.max_new_tokens)
    return json_schema(tokenizer, options.json_schema, options.max_new_tokens) if options.json_schema else None


def _shortest_match(pattern: str) -> int:
    """Return the number of characters of the shortest match, 0 where Python reads the expression otherwise.

    So it does with classes like `[[:alpha:]]`, of which it warns.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return re._parser.parse(pattern).getwidth()[0]  # pyright: ignore[reportAttributeAccessIssue]
        except (re.error, OverflowError, RecursionError, Warning):
            return 0

"""Constraints on generated text: a choice of strings, given words, a regular expression, a JSON schema, a grammar."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from lavra.core.errors import InputError
from lavra.core.progress import log
from lavra.data.tokenizers.prompt_ids import continuing
from lavra.generation.closing import Closing, allowed_of

if TYPE_CHECKING:
    from lavra.config.generation import GenerateOptions
    from lavra.data.tokenizers.tokenizer import Tokenizer

State = TypeVar("State")
"""Type of the states of a constraint."""

CLOSING = 32
"""Number of last tokens during which only tokens are allowed after which the text can still be completed."""

STATES_KEPT = 4096
"""Number of states that a constraint remembers. Beams and samples go on from the states of the step before."""


class Constraint(Protocol):
    """Says which tokens may come next.

    The answer depends on the new tokens alone, so that every decoding strategy can use the same constraint.
    """

    def allowed(self, prefix: tuple[int, ...]) -> NDArray[np.bool_]:
        """Return whether each token may come next, (vocabulary,) bool; the end-of-document token is one of them.

        Args:
            prefix: Ids of the new tokens so far.
        """
        ...

    def whole(self, prefix: tuple[int, ...]) -> bool:
        """Return whether the text may end after the prefix.

        Args:
            prefix: Ids of the new tokens so far.
        """
        ...


class Stepwise(Generic[State]):
    """A constraint that is an automaton: every prefix has a state, reached from that of the prefix one token shorter.

    A subclass says which state is the first, to which state a token leads, and what a state allows.

    Args:
        tokenizer: Tokenizer of the model.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.vocabulary, self.end = tokenizer.vocabulary_size, tokenizer.end_of_document
        self._states: dict[tuple[int, ...], State] = {}

    def start(self) -> State:
        """Return the state before the first token."""
        raise NotImplementedError

    def after(self, state: State, token: int) -> State:
        """Return the state that a token leads to, without changing the given state.

        Args:
            state: State before the token.
            token: Id of the token.
        """
        raise NotImplementedError

    def mask(self, state: State) -> NDArray[np.bool_]:
        """Return whether each token may come next, (vocabulary,) bool; none may where the text cannot go on.

        Args:
            state: State of the text so far.
        """
        raise NotImplementedError

    def allowed(self, prefix: tuple[int, ...]) -> NDArray[np.bool_]:
        """Return whether each token may come after the prefix, (vocabulary,) bool.

        Args:
            prefix: Ids of the new tokens so far.
        """
        return self.mask(self.state(prefix))

    def whole(self, prefix: tuple[int, ...]) -> bool:
        """Return whether the text may end after the prefix.

        Args:
            prefix: Ids of the new tokens so far.
        """
        return bool(self.mask(self.state(prefix))[self.end])

    def state(self, prefix: tuple[int, ...]) -> State:
        """Return the state after the prefix, from the longest part of it whose state is remembered.

        Args:
            prefix: Ids of the new tokens so far.
        """
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
    """The text is exactly one of some strings, written with the tokens that the tokenizer gives it.

    The choices form a trie of tokens, and a state is a node of it.

    Args:
        tokenizer: Tokenizer of the model.
        choices: Strings to choose from. A space at the beginning of a string is part of it.
        longest: Largest number of new tokens. Choices with more tokens are left out with a message.

    Raises:
        InputError: If there are no choices, or every choice has too many tokens.

    Examples:
        >>> from lavra.data.tokenizers.tokenizer import Tokenizer
        >>> tokenizer = Tokenizer.train(["sim ou não"], 300)
        >>> constraint = OneOf(tokenizer, ["sim", "não"], longest=8)
        >>> bool(constraint.allowed(())[tokenizer.encode("s")[0]]), constraint.whole(())
        (True, False)
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
            log(f"{len(long)} of {len(encoded)} choices have more than {longest} tokens, left out: {shown}; {enough}")
        # A trie as nested dictionaries: a node maps each token that may come next to the node that it leads to.
        self._root: dict[int, Any] = {}
        for choice, ids in encoded.items():
            node = self._root
            for token in [*ids, self.end] if choice not in long else []:
                node = node.setdefault(token, {})

    def start(self) -> dict[int, Any]:
        """Return the root of the trie of choices."""
        return self._root

    def after(self, state: dict[int, Any], token: int) -> dict[int, Any]:
        """Return the node that a token leads to, an empty one where no choice has the token.

        Args:
            state: Node of the text so far.
            token: Id of the next token.
        """
        return state.get(token, {})

    def mask(self, state: dict[int, Any]) -> NDArray[np.bool_]:
        """Return whether a choice goes on with each token, (vocabulary,) bool.

        Args:
            state: Node of the text so far.
        """
        mask = np.zeros(self.vocabulary, dtype=np.bool_)
        mask[list(state)] = True
        return mask


class Words(Stepwise[tuple[tuple[int, ...], tuple[int, ...]]]):
    """The text contains all of some words or phrases, wherever the model puts them.

    The text cannot end before it contains them. Once the tokens left are just enough for the missing words, these are
    forced. A word counts wherever its letters occur, so also within a longer word. A state is the new tokens so far
    and the tokens that are forced next.

    Args:
        tokenizer: Tokenizer of the model.
        words: Words or phrases that the text must contain. A space is put before each where it is forced.
        longest: Largest number of new tokens.

    Raises:
        InputError: If the words alone have more than `longest` tokens.
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
        """Return the state of the text after one more token.

        Args:
            state: State of the text so far.
            token: Id of the next token.
        """
        made, forced = (*state[0], token), state[1][1:]
        return made, forced or self._forced(made)

    def mask(self, state: tuple[tuple[int, ...], tuple[int, ...]]) -> NDArray[np.bool_]:
        """Return whether each token may come next, (vocabulary,) bool.

        That is the forced token, or any token where none is forced. The end is allowed only where no word is missing.

        Args:
            state: State of the text so far.
        """
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
        """Return the tokens of all missing words where there is room for nothing else, and otherwise no tokens."""
        missing = [token for word in self._missing(made) for token in self._words[word]]
        return tuple(missing) if len(missing) >= self._longest - len(made) else ()


class Grammar(Stepwise[Any]):
    """The text belongs to a formal language, in any tokenisation; the library llguidance computes the masks.

    Args:
        tokenizer: Tokenizer of the model.
        grammar: Grammar as `LLMatcher.grammar_from_regex` and its siblings return it.
        name: Option that asked for the grammar, for error messages, such as "--regex '[0-9]+'".
        longest: Largest number of new tokens. Near the limit only tokens are allowed after which the text can still be
            completed, where a completion is found.

    Raises:
        InputError: If the grammar is not understood, or no text that the tokenizer can write satisfies it.
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
        """Return a copy of the matcher that has read one more token.

        Args:
            state: Matcher of the text so far; it is not changed.
            token: Id of the next token.
        """
        copy = state.deep_copy()
        copy.consume_token(token)
        return copy

    def whole(self, prefix: tuple[int, ...]) -> bool:
        """Return whether the text so far belongs to the language.

        Args:
            prefix: Ids of the new tokens so far.
        """
        return self.state(prefix).is_accepting()

    def allowed(self, prefix: tuple[int, ...]) -> NDArray[np.bool_]:
        """Return whether each token may come after the prefix, (vocabulary,) bool.

        Args:
            prefix: Ids of the new tokens so far.
        """
        state = self.state(prefix)
        mask, room = self.mask(state), self._longest - len(prefix)
        return mask if room > CLOSING else self._closing.allowed(state, mask, room)

    def mask(self, state: Any) -> NDArray[np.bool_]:
        """Return whether the matcher allows each token next, (vocabulary,) bool.

        Args:
            state: Matcher of the text so far.
        """
        return allowed_of(state, self.vocabulary)


class _Spelling:
    """The interface through which llguidance reads a tokenizer: the bytes of each token, and a function to encode."""

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
    """Return the tokenizer for llguidance.

    The library reads byte-level tokenizers from their files. For all others it is given the spelling of each token.
    """
    from llguidance import LLTokenizer, TokenizerWrapper

    if tokenizer.byte_level:
        return LLTokenizer(tokenizer.serialised, n_vocab=tokenizer.vocabulary_size, eos_token=tokenizer.end_of_document)
    return LLTokenizer(TokenizerWrapper(_Spelling(tokenizer)), n_vocab=tokenizer.vocabulary_size)


def regex(tokenizer: Tokenizer, pattern: str, longest: int) -> Grammar:
    """Return the constraint that the whole text matches a regular expression.

    Args:
        tokenizer: Tokenizer of the model.
        pattern: Regular expression in the syntax of Rust's `regex`, without look-around.
        longest: Largest number of new tokens.

    Raises:
        InputError: If the expression is not understood, matches nothing, or cannot end within `longest` tokens.
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
    """Return the constraint that the text is JSON that satisfies a schema.

    White space is fixed, because a weak model would write optional white space until its tokens are used up.

    Args:
        tokenizer: Tokenizer of the model.
        schema: JSON schema as text.
        longest: Largest number of new tokens.

    Raises:
        InputError: If the schema is not JSON, is not understood, or is satisfied by nothing.
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
    """Return the constraint that the text belongs to the language of a context-free grammar.

    Args:
        tokenizer: Tokenizer of the model.
        grammar: Grammar in the syntax of the library Lark.
        longest: Largest number of new tokens.

    Raises:
        InputError: If the grammar is not understood, or its language has no text.
    """
    from llguidance import LLMatcher

    return Grammar(tokenizer, LLMatcher.grammar_from_lark(grammar), "--grammar", longest)


def constraint_of(tokenizer: Tokenizer, options: GenerateOptions) -> Constraint | None:
    """Return the constraint that the options ask for, or None where they ask for none.

    Args:
        tokenizer: Tokenizer of the model.
        options: Options of generation, of which at most one asks for a constraint.

    Raises:
        InputError: If the constraint is not understood or cannot be met within `max_new_tokens`.
    """
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
    """Return the number of characters of the shortest match, or 0 where Python reads the expression differently.

    It does so with classes like `[[:alpha:]]`, about which it warns.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return re._parser.parse(pattern).getwidth()[0]  # pyright: ignore[reportAttributeAccessIssue]
        except (re.error, OverflowError, RecursionError, Warning):
            return 0

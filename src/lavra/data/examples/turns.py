"""Reads the turns of a chat in the layouts that data sets use: roles, parts, tool calls, reasoning and weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ASSISTANT = "assistant"

_ROLES = {"human": "user", "gpt": ASSISTANT, "chatgpt": ASSISTANT, "model": ASSISTANT, "bot": ASSISTANT}
# Names of members that a turn of the assistant may have instead of a content.
_INSTEAD = ("tool_calls", "function_call", "reasoning_content", "reasoning", "thinking")

# Names of the member that says whether a turn of the assistant is learned: OpenAI's, and axolotl's.
_WEIGHTS = ("weight", "train")


class UnusableTurn(Exception):
    """Raised for a turn that cannot be used; the message names the turn and the reason."""


@dataclass(frozen=True, slots=True)
class Turns:
    """The turns of a chat.

    Attributes:
        messages: The turns, each with "role", "content" and its other members; a content is always text.
        unlearned: Indices of the assistant's turns that are only read.
    """

    messages: tuple[dict[str, Any], ...]
    unlearned: tuple[int, ...] = ()

    @property
    def first_learned(self) -> int | None:
        """The index of the first turn that is learned; None where none is."""
        answers = (number for number, turn in enumerate(self.messages) if turn["role"] == ASSISTANT)
        return next((number for number in answers if number not in self.unlearned), None)


def read_turns(turns: Sequence[object], first: int = 1) -> Turns:
    """Return the turns of a chat in one layout, whatever the layout of the data.

    Args:
        turns: The turns as the data has them: {role, content} or {from, value}, and whatever else a template may use.
        first: Number of the first turn in messages; 1 by default.

    Raises:
        UnusableTurn: if a turn cannot be used; the message names the turn and the reason.

    Examples:
        >>> from lavra.data.examples.turns import read_turns
        >>> turns = read_turns([{"from": "human", "value": "Olá!"}, {"from": "gpt", "value": "Olá.", "weight": 0}])
        >>> turns.messages[0], turns.unlearned
        ({'role': 'user', 'content': 'Olá!'}, (1,))
    """
    messages, unlearned = [], []
    for number, turn in enumerate(turns):
        message, learned = _turn(turn, f"turn {first + number}")
        messages.append(message)
        if not learned:
            unlearned.append(number)
    return Turns(tuple(messages), tuple(unlearned))


def is_list_of_turns(value: object) -> bool:
    """Return whether a value is a list of turns, and not a text."""
    return isinstance(value, list) and bool(value) and all(isinstance(turn, Mapping) for turn in value)


def read_tools(value: object, name: str) -> list[Any]:
    """Return the tools that a chat offers.

    Args:
        value: A list, or the JSON of one.
        name: Name of the column, for messages.

    Raises:
        UnusableTurn: if the value is neither.
    """
    found = _parsed(value) if isinstance(value, str) else value
    if not isinstance(found, list):
        raise UnusableTurn(f"{name!r} holds a {type(found).__name__}, not a list")
    return [without_nothing(each) for each in found]


def _turn(turn: object, place: str) -> tuple[dict[str, Any], bool]:
    if not isinstance(turn, Mapping):
        raise UnusableTurn(f"{place} is a {type(turn).__name__}, not an object with a role and a content")
    rest: dict[str, Any] = without_nothing(turn)
    role = rest.pop("role", None) or rest.pop("from", None)
    rest.pop("from", None)
    if not isinstance(role, str):
        raise UnusableTurn(f"{place} has no role")
    role = _ROLES.get(role, role)
    content = _content(rest.pop("content", rest.pop("value", None)), role, rest, place)
    rest.pop("value", None)
    learned = [_learned(rest.pop(name), name, place) for name in _WEIGHTS if name in rest]
    if isinstance(rest.get("tool_calls"), list):
        rest["tool_calls"] = [_call(call) for call in rest["tool_calls"]]
    return {"role": role, "content": content, **rest}, role != ASSISTANT or all(learned)


def _content(content: object, role: str, rest: Mapping[str, Any], place: str) -> str:
    if content is None:
        if role == ASSISTANT and any(rest.get(name) for name in _INSTEAD):
            return ""
        raise UnusableTurn(f"{place} ({role}) has no content")
    if isinstance(content, list):
        return "".join(_part(part, place) for part in content)
    if not isinstance(content, str):
        raise UnusableTurn(f"the content of {place} is a {type(content).__name__}, not text")
    return content


def _part(part: object, place: str) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, Mapping) and isinstance(part.get("text"), str) and part.get("type", "text") == "text":
        return part["text"]
    kind = part.get("type", "part without a type") if isinstance(part, Mapping) else type(part).__name__
    raise UnusableTurn(f"{place} holds a part that is no text ({kind})")


def _learned(weight: object, name: str, place: str) -> bool:
    if weight in (0, 1) and isinstance(weight, int | float):  # also true and false
        return bool(weight)
    raise UnusableTurn(f"{place} has {name} = {weight!r}; a turn is learned (1) or only read (0)")


def _call(call: Any) -> Any:
    """Return a tool call with its arguments as an object, because templates write them as JSON themselves."""
    function = call.get("function") if isinstance(call, dict) else None
    holder = function if isinstance(function, dict) else call
    if not isinstance(holder, dict) or not isinstance(holder.get("arguments"), str):
        return call
    found = _parsed(holder["arguments"])
    changed = {**holder, "arguments": found if isinstance(found, dict) else holder["arguments"]}
    return {**call, "function": changed} if holder is function else changed


def _parsed(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def without_nothing(value: Any) -> Any:
    """Return a value without the members that are null, which columnar files have where other rows have a value."""
    if isinstance(value, Mapping):
        return {name: without_nothing(member) for name, member in value.items() if member is not None}
    if isinstance(value, list | tuple):
        return [without_nothing(member) for member in value]
    return value


def texts_in(value: Any) -> list[str]:
    """Return every string inside a value, the names of members included."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return [text for name, member in value.items() for text in (str(name), *texts_in(member))]
    if isinstance(value, list | tuple):
        return [text for member in value for text in texts_in(member)]
    return []

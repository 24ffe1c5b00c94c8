"""Renders chats as text by a tokenizer's own template, and finds the parts of the text that the assistant wrote."""

from __future__ import annotations

import re
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lavra.core.disk.files import read_json
from lavra.core.errors import InputError
from lavra.data.examples.turns import ASSISTANT

TEMPLATE_FILE = "chat_template.jinja"

Span = tuple[int, int]  # (start, end) of a part of a text, in characters
Turn = Mapping[str, Any]  # a turn, with "role" and "content"

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
_SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token")
# Names of the reasoning before an answer. They mean the same, so a template that mentions one of them counts as writing
# the reasoning, whatever its name is in the data.
_REASONING = ("reasoning_content", "reasoning", "thinking")

_WITH_TOOLS = "tool_use"  # name of the template for chats that offer tools
# Text of private characters that takes the place of an answer, to see which part of a rendered chat the answer is.
_PLACEHOLDER = "\ue000\ue001\ue000"


class RefusedChat(Exception):
    """Raised where a template does not accept a chat; the message is the template's reason."""


class FailingTemplate(Exception):
    """Raised where a template fails on a chat; the message names the line of the template."""


@dataclass(frozen=True)
class ChatTemplate:
    """A Jinja template that turns a chat into text; it runs in a sandbox.

    Attributes:
        text: The template.
        special_tokens: Special tokens by the names that templates use for them, such as `eos_token`.
        origin: File that the template is from, for messages.
        text_with_tools: The template for chats that offer tools; by default it is the same.

    Examples:
        >>> from lavra.data.examples.chats import ChatTemplate
        >>> template = ChatTemplate("{% for m in messages %}{{ m['role'] }}: {{ m['content'] }};{% endfor %}")
        >>> chat = [{"role": "user", "content": "Olá!"}, {"role": "assistant", "content": "Olá."}]
        >>> text, spans = template.render(chat)
        >>> text
        'user: Olá!;assistant: Olá.;'
        >>> [text[start:end] for start, end in spans]
        ['assistant: Olá.;']
    """

    text: str
    special_tokens: Mapping[str, str] = field(default_factory=dict)
    origin: str = "the chat template"
    text_with_tools: str | None = None

    @classmethod
    def load(cls, folder: str | Path) -> ChatTemplate | None:
        """Return the template in a tokenizer's or a model's folder, or None where it has none.

        The template is a file of its own or part of `tokenizer_config.json`. Of several named templates, "default" is
        used, and "tool_use" for chats that offer tools.
        """
        folder = Path(folder)
        config: dict[str, Any] = {}
        for name in ("special_tokens_map.json", "tokenizer_config.json"):
            if (folder / name).is_file():
                config |= read_json(folder / name)
        template, origin = config.get("chat_template"), folder / "tokenizer_config.json"
        named: dict[str, str] = {}
        if isinstance(template, list):
            named = {str(one.get("name")): one["template"] for one in template if isinstance(one.get("template"), str)}
            template = named.get("default")
        if (folder / TEMPLATE_FILE).is_file():
            origin = folder / TEMPLATE_FILE
            template = origin.read_text(encoding="utf8")
        apart = folder / "additional_chat_templates" / f"{_WITH_TOOLS}.jinja"
        if apart.is_file():
            named[_WITH_TOOLS] = apart.read_text(encoding="utf8")
        if not isinstance(template, str):
            return None
        tokens = {name: config[name] for name in _SPECIAL if config.get(name)}
        spelled = {name: token["content"] if isinstance(token, dict) else token for name, token in tokens.items()}
        return cls(template, spelled, str(origin), named.get(_WITH_TOOLS))

    def unwritten(self, names: Sequence[str], *, tools: bool = False) -> list[str]:
        """Return the parts of a chat that the template leaves out, because it never mentions their names.

        Args:
            names: Names of the members of turns, and of other variables.
            tools: Whether the chat offers tools; false by default.
        """
        text = self._text(tools)

        def mentioned(name: str) -> bool:
            aliases = _REASONING if name in _REASONING else (name,)
            return any(re.search(rf"(?<!\w){re.escape(each)}(?!\w)", text) for each in aliases)

        return [name for name in names if not mentioned(name)]

    def render(self, messages: Sequence[Turn], given: Mapping[str, Any] | None = None) -> tuple[str, list[Span | None]]:
        """Return the text of a chat, and the parts of it that are the assistant's turns.

        The template's own `{% generation %}` spans are used where it has them. Otherwise a turn is what lies between
        the text of the chat before it, with the prompt for an answer, and the text of the chat that includes it. A
        template can write earlier turns in another way once the chat goes on (without the reasoning, for example);
        then a turn is what changes in the text when the turn has another content.

        Args:
            messages: The turns, with all of their members.
            given: Further variables of the template: `tools`, `documents`, and variables of its own.

        Returns:
            The text, and for each of the assistant's turns its (start, end) in characters, or None where the template
            does not write the turn.

        Raises:
            RefusedChat: if the template does not accept the chat.
            FailingTemplate: if the template fails on the chat.
            InputError: if the template is wrong, or the sandbox stops it.
        """
        given = dict(given or {})
        answers = [number for number, message in enumerate(messages) if message["role"] == ASSISTANT]
        if _GENERATION.search(self._text("tools" in given)):
            text, spans = self._rendered(messages, given, spans=True)
            if len(spans) == len(answers):
                return text, [span if span[1] > span[0] else None for span in spans]
        whole, _ = self._rendered(messages, given)
        found = self._by_beginnings(messages, given, answers, whole)
        return whole, self._by_changes(messages, given, answers, whole) if found is None else found

    def _by_beginnings(
        self, messages: Sequence[Turn], given: dict[str, Any], answers: Sequence[int], whole: str
    ) -> list[Span | None] | None:
        """Return the spans by the texts of the beginnings of a chat.

        Returns:
            The spans, or None where the text of a beginning is not the beginning of the whole text.
        """
        spans: list[Span | None] = []
        for number in answers:
            try:
                before, _ = self._rendered(messages[:number], given, asks=True)
                including, _ = self._rendered(messages[: number + 1], given)
            except (RefusedChat, FailingTemplate):  # the template does not accept the beginning alone
                return None
            if not including.startswith(before) or not whole.startswith(including):
                return None
            spans.append((len(before), len(including)))
        return spans

    def _by_changes(
        self, messages: Sequence[Turn], given: dict[str, Any], answers: Sequence[int], whole: str
    ) -> list[Span | None]:
        """Return the spans as the parts of the whole text that change when a turn has another content."""
        spans: list[Span | None] = []
        reached = 0
        for number in answers:
            other = {"role": ASSISTANT, "content": _PLACEHOLDER}
            changed, _ = self._rendered([*messages[:number], other, *messages[number + 1 :]], given)
            if _PLACEHOLDER not in changed:
                spans.append(None)
                continue
            start, end = _difference(whole, changed)
            start, end = self._with_borders(messages, given, number, whole, (max(start, reached), end), other)
            spans.append((start, end) if end > start else None)
            reached = max(reached, end)
        return spans

    def _with_borders(
        self, messages: Sequence[Turn], given: dict[str, Any], number: int, whole: str, span: Span, other: Turn
    ) -> Span:
        """Return a span widened to what follows the prompt for an answer, and to the end of the turn."""
        start, end = span
        try:
            silent, _ = self._rendered(messages[:number], given)
            asking, _ = self._rendered(messages[:number], given, asks=True)
            prompt = asking.removeprefix(silent)
            place = whole.rfind(prompt, 0, start) if prompt else -1
            start = place + len(prompt) if place >= 0 else start
            including, _ = self._rendered(messages[: number + 1], given)
            instead, _ = self._rendered([*messages[:number], other], given)
        except (RefusedChat, FailingTemplate):
            return start, end
        tail = including[_difference(including, instead)[1] :]
        return start, end + len(tail) if whole.startswith(tail, end) else end

    def _text(self, tools: bool) -> str:
        return self.text_with_tools if tools and self.text_with_tools is not None else self.text

    def text_of(self, messages: Sequence[Mapping[str, str]], *, asks: bool = False) -> str:
        """Return the text of a chat.

        Args:
            messages: The turns.
            asks: Whether the prompt for an answer of the assistant comes after them; false by default.

        Raises:
            RefusedChat: if the template does not accept the chat.
            FailingTemplate: if the template fails on the chat.
            InputError: if the template is wrong, or the sandbox stops it.
        """
        return self._rendered(messages, {}, asks=asks)[0]

    def _rendered(
        self, messages: Sequence[Turn], given: Mapping[str, Any], *, asks: bool = False, spans: bool = False
    ) -> tuple[str, list[Span]]:
        import jinja2
        import jinja2.sandbox
        from transformers.utils import chat_template_utils

        render: Any = chat_template_utils.render_jinja_template  # its annotations are not what it returns
        try:
            texts, found = render(
                [[dict(message) for message in messages]],
                chat_template=self._text("tools" in given),
                return_assistant_tokens_mask=spans,
                add_generation_prompt=asks,
                **{**self.special_tokens, **given},
            )
        except jinja2.TemplateSyntaxError as error:
            raise InputError(
                f"{self.origin}, line {error.lineno}, is not right: {error.message}", "correct the template"
            ) from error
        except (jinja2.sandbox.SecurityError, OverflowError, RecursionError, MemoryError) as error:
            raise InputError(
                f"{self.origin}{_line(error)}, was stopped: {_short(error)}",
                "templates run in a sandbox, without Python's internals and without endless loops; correct the "
                "template, or choose another one",
            ) from error
        except Exception as error:
            if type(error) is jinja2.TemplateError:  # what `raise_exception` in the template raises
                raise RefusedChat(str(error)) from error
            raise FailingTemplate(f"{self.origin}{_line(error)}: {_short(error)}") from error
        return texts[0], found[0] if spans else []


def _difference(one: str, other: str) -> Span:
    """Return the (start, end) of the part of `one` between the beginning and the end that it shares with `other`."""
    start = _equal(one, other)
    return start, len(one) - _equal(one[start:][::-1], other[start:][::-1])


def _equal(one: str, other: str) -> int:
    """Return the number of characters with which two texts begin alike."""
    shorter = min(len(one), len(other))
    return next((place for place in range(shorter) if one[place] != other[place]), shorter)


def _line(error: BaseException) -> str:
    """Return the line of the template in which an error arose as a phrase; empty where it is unknown."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == "<template>"]
    return f", line {lines[-1]}" if lines else ""


def _short(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]

"""Chats as text: a tokenizer's own template, and which part of the text the assistant wrote."""

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

Span = tuple[int, int]
Turn = Mapping[str, Any]

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
_SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token")
_REASONING = ("reasoning_content", "reasoning", "thinking")
"""Names of what was thought before an answer; a template that reads one of them is given it whatever its name is."""

_WITH_TOOLS = "tool_use"
_PLACEHOLDER = "\ue000\ue001\ue000"
"""Text of private characters that stands in for an answer, to see which part of a rendered chat it makes up."""


class RefusedChat(Exception):
    """The template does not take this chat, and says why."""


class FailingTemplate(Exception):
    """The template fails on this chat; the message names its line."""


@dataclass(frozen=True)
class ChatTemplate:
    """A Jinja template that turns a chat into text; it is run in a sandbox.

    Attributes:
        text: of the template.
        special_tokens: by name (`eos_token`), as templates use them.
        origin: where it was found, for messages.
        text_with_tools: of the template for chats that offer tools, where there is one of its own.
    """

    text: str
    special_tokens: Mapping[str, str] = field(default_factory=dict)
    origin: str = "the chat template"
    text_with_tools: str | None = None

    @classmethod
    def load(cls, folder: str | Path) -> ChatTemplate | None:
        """Return the template in a tokenizer's or a model's folder, or None when it has none.

        It is a file of its own or part of `tokenizer_config.json`; of several named ones the default is taken, and the
        one named `tool_use` for chats that offer tools.
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
        """Return which of the names of a chat's parts the template never mentions, and so leaves out."""
        text = self._text(tools)

        def mentioned(name: str) -> bool:
            aliases = _REASONING if name in _REASONING else (name,)
            return any(re.search(rf"(?<!\w){re.escape(each)}(?!\w)", text) for each in aliases)

        return [name for name in names if not mentioned(name)]

    def render(self, messages: Sequence[Turn], given: Mapping[str, Any] | None = None) -> tuple[str, list[Span | None]]:
        """Return the text of a chat, and where each of the assistant's turns lies in it, as (start, end) of characters.

        The template's own `{% generation %}` spans are taken where it has them. Otherwise a turn lies between the text
        of what comes before it, with the prompt for an answer, and the text that includes it. A template that writes
        the past in another way once the chat goes on (without what was thought, say) is asked what changes when the
        turn has another content. A turn that the template does not write has no span.

        Args:
            messages: the turns, with all that they carry.
            given: what the template may use besides: `tools`, `documents`, and switches of its own.

        Raises:
            RefusedChat: if the template does not take the chat.
            FailingTemplate: if it fails on it.
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
        """Return the spans where the text of each beginning of a chat begins the whole; None where it does not."""
        spans: list[Span | None] = []
        for number in answers:
            try:
                before, _ = self._rendered(messages[:number], given, asks=True)
                including, _ = self._rendered(messages[: number + 1], given)
            except (RefusedChat, FailingTemplate):  # the beginning alone is no chat for it
                return None
            if not including.startswith(before) or not whole.startswith(including):
                return None
            spans.append((len(before), len(including)))
        return spans

    def _by_changes(
        self, messages: Sequence[Turn], given: dict[str, Any], answers: Sequence[int], whole: str
    ) -> list[Span | None]:
        """Return the spans as what changes in the whole text when a turn says something else."""
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
        """Widen a span to what follows the prompt for an answer, and to the end of the turn."""
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
        """Return the text of a chat, with the prompt for an answer after it where it `asks` for one.

        Raises:
            RefusedChat: if the template does not take the chat.
            FailingTemplate: if it fails on it.
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
                "templates run in a sandbox, without Python's inner parts and without endless loops; correct the "
                "template, or take another one",
            ) from error
        except Exception as error:
            if type(error) is jinja2.TemplateError:  # what `raise_exception` in the template raises
                raise RefusedChat(str(error)) from error
            raise FailingTemplate(f"{self.origin}{_line(error)}: {_short(error)}") from error
        return texts[0], found[0] if spans else []


def _difference(one: str, other: str) -> Span:
    """Return (start, end) of the part of `one` that is not the same at both ends of `other`."""
    start = _equal(one, other)
    return start, len(one) - _equal(one[start:][::-1], other[start:][::-1])


def _equal(one: str, other: str) -> int:
    """Return how many characters two texts begin with alike."""
    shorter = min(len(one), len(other))
    return next((place for place in range(shorter) if one[place] != other[place]), shorter)


def _line(error: BaseException) -> str:
    """Return where in the template an error arose, as text."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == "<template>"]
    return f", line {lines[-1]}" if lines else ""


def _short(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]

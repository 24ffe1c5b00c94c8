"""Chats as text: a tokenizer's own template, and which part of the text the assistant wrote."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lavra.core.errors import InputError
from lavra.core.files import read_json
from lavra.data.example_rows import ASSISTANT

TEMPLATE_FILE = "chat_template.jinja"

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
_SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token")


class RefusedChat(Exception):
    """The template does not take this chat, and says why."""


@dataclass(frozen=True)
class ChatTemplate:
    """A Jinja template that turns a chat into text; it is run in a sandbox.

    Attributes:
        text: of the template.
        special_tokens: by name (`eos_token`), as templates use them.
        origin: where it was found, for messages.
    """

    text: str
    special_tokens: Mapping[str, str] = field(default_factory=dict)
    origin: str = "the chat template"

    @classmethod
    def load(cls, folder: str | Path) -> ChatTemplate | None:
        """Return the template in a tokenizer's or a model's folder, or None when it has none.

        It is a file of its own or part of `tokenizer_config.json`; of several named ones the default is taken.
        """
        folder = Path(folder)
        config: dict[str, Any] = {}
        for name in ("special_tokens_map.json", "tokenizer_config.json"):
            if (folder / name).is_file():
                config |= read_json(folder / name)
        template, origin = config.get("chat_template"), folder / "tokenizer_config.json"
        if (folder / TEMPLATE_FILE).is_file():
            origin = folder / TEMPLATE_FILE
            template = origin.read_text(encoding="utf8")
        if isinstance(template, list):
            template = next((one["template"] for one in template if one.get("name") == "default"), None)
        if not isinstance(template, str):
            return None
        tokens = {name: config[name] for name in _SPECIAL if config.get(name)}
        named = {name: token["content"] if isinstance(token, dict) else token for name, token in tokens.items()}
        return cls(template, named, str(origin))

    def render(self, messages: Sequence[Mapping[str, str]]) -> tuple[str, list[tuple[int, int]]]:
        """Return the text of a chat, and where the assistant's turns lie in it, as (start, end) of characters.

        The template's own `{% generation %}` spans are taken where it has them. Otherwise a turn lies between the text
        of what comes before it, with the prompt for an answer, and the text that includes it.

        Raises:
            RefusedChat: if the template does not take the chat.
            InputError: if what the template writes of a chat's beginning changes when the chat goes on, so that turns
                cannot be told apart.
        """
        if _GENERATION.search(self.text):
            text, spans = self._rendered(messages, spans=True)
            return text, [(start, end) for start, end in spans if end > start]
        whole, _ = self._rendered(messages)
        spans = []
        for number, message in enumerate(messages):
            if message["role"] == ASSISTANT:
                before, _ = self._rendered(messages[:number], asks=True)
                including, _ = self._rendered(messages[: number + 1])
                if not including.startswith(before) or not whole.startswith(including):
                    raise InputError(
                        f"{self.origin} writes the beginning of a chat in another way once the chat goes on, "
                        f"so the assistant's turns cannot be found (turn {number + 1}: {message['content'][:40]!r})",
                        "mark them in the template with {% generation %} … {% endgeneration %}",
                    )
                spans.append((len(before), len(including)))
        return whole, spans

    def text_of(self, messages: Sequence[Mapping[str, str]], *, asks: bool = False) -> str:
        """Return the text of a chat, with the prompt for an answer after it where it `asks` for one.

        Raises:
            RefusedChat: if the template does not take the chat.
        """
        return self._rendered(messages, asks=asks)[0]

    def _rendered(
        self, messages: Sequence[Mapping[str, str]], *, asks: bool = False, spans: bool = False
    ) -> tuple[str, list[tuple[int, int]]]:
        import jinja2
        from transformers.utils import chat_template_utils

        render: Any = chat_template_utils.render_jinja_template  # its annotations are not what it returns
        try:
            texts, found = render(
                [[dict(message) for message in messages]],
                chat_template=self.text,
                return_assistant_tokens_mask=spans,
                add_generation_prompt=asks,
                **self.special_tokens,
            )
        except jinja2.TemplateSyntaxError as error:
            raise InputError(f"{self.origin} is not right: {error}", "correct the template") from error
        except (jinja2.TemplateError, TypeError, KeyError) as error:
            raise RefusedChat(str(error)) from error
        return texts[0], found[0] if spans else []

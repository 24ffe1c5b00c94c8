"""A conversation with a chat model: the chat template writes the turns as text, and the model writes the answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from lavra.config.generation import GenerateOptions
from lavra.core.errors import InputError
from lavra.core.progress import log
from lavra.core.seeds import numpy_stream
from lavra.data.examples.chats import ChatTemplate, FailingTemplate, RefusedChat
from lavra.generation.decoding import Decoding
from lavra.generation.prompts import decoder_prompt, writes_from_source
from lavra.generation.rows import Continuation
from lavra.models.protocols import eval_mode

if TYPE_CHECKING:
    import tokenizers

    from lavra.data.tokenizers.tokenizer import Tokenizer
    from lavra.generation.reader import CachedModel

Message = dict[str, str]
"""A turn of a conversation: its `role` ("system", "user" or "assistant") and its `content`."""

_QUESTION = "aQuestionThatIsAsked"
"""Contents of a conversation that is rendered to find out what a chat template writes after an answer."""
_ANSWER = "anAnswerThatIsGiven"


@dataclass
class Conversation:
    """The turns of a conversation so far, and the model that answers.

    Attributes:
        model: Decoder with a key-value cache.
        tokenizer: Tokenizer of the model.
        template: Chat template of the model.
        options: Options of generation; `max_new_tokens` limits each answer.
        system: System message that the model reads before the first turn; "" gives it none.
        turns: Turns of the user and the model, without the system message.
        cut: Whether the last answer ended because it reached `max_new_tokens`.

    Raises:
        InputError: If the model is an encoder-decoder.
    """

    model: CachedModel
    tokenizer: Tokenizer
    template: ChatTemplate
    options: GenerateOptions = field(default_factory=GenerateOptions)
    system: str = ""
    turns: list[Message] = field(default_factory=list)
    cut: bool = False

    def __post_init__(self) -> None:
        if writes_from_source(self.model):
            raise InputError("an encoder-decoder keeps no conversation", "give a decoder that was trained on chats")
        added = self.tokenizer.inner.get_added_tokens_decoder()
        self._marks = {token.content: number for number, token in added.items() if token.content.strip()}
        self._library = _spelling_marks(self.tokenizer)
        self._ends, stop = self._how_answers_end()
        self.options = replace(self.options, stop=(*self.options.stop, *stop))

    @property
    def messages(self) -> list[Message]:
        """All turns, the system message included."""
        return [*([{"role": "system", "content": self.system}] if self.system else []), *self.turns]

    def reset(self) -> None:
        """Forget all turns; the system message stays."""
        self.turns.clear()

    def answer(self, text: str) -> Iterator[str]:
        """Yield the answer to a message in pieces, each as soon as it is certain, and then record both turns.

        An answer that the caller does not read to its end, because the caller closes the iterator, is recorded as far
        as it was written.

        Args:
            text: Message of the user.

        Raises:
            InputError: If the text spells a special token, the message does not fit into the context, or the template
                refuses the conversation.
        """
        spelled = next((name for name in self._marks if name in text), None)
        if spelled is not None:
            raise InputError(f"the text spells the special token {spelled!r}", "write it without")
        asked = [*self.turns, {"role": "user", "content": text}]
        ids = self._fitting(asked)
        pieces: list[str] = []
        self.cut = False
        try:
            for piece in self._written(ids, len(asked)):
                pieces.append(piece)
                yield piece
        finally:
            self.turns = [*asked, {"role": "assistant", "content": "".join(pieces).strip()}]

    def _written(self, ids: list[int], turn: int) -> Iterator[str]:
        bos = False if ids[0] in self._marks.values() else self.options.bos
        read = decoder_prompt(self.tokenizer, ids, bos)
        draws = numpy_stream(self.options.seed, "chat", turn).random(self.options.max_new_tokens)
        row = Continuation.start(self.tokenizer, read, draws, self.options)
        with eval_mode(self.model), torch.no_grad():
            decoding = Decoding(self.model, self.tokenizer, [row], self.options)
            while decoding.rows:
                piece = "".join(decoding.advance())
                ended = bool(row.new) and row.new[-1] in self._ends
                if ended and row.reason is None:
                    piece += row.assembler.finish()
                if piece:
                    yield piece
                if ended:
                    return
        self.cut = row.reason == "length"

    def _fitting(self, turns: list[Message]) -> list[int]:
        """Return the ids of the conversation, without its first turns where it is too long for the context.

        Turns are dropped in pairs, so that the conversation still begins with a message of the user, as templates want.
        """
        room = self.model.context - self.options.max_new_tokens
        for first in range(0, len(turns), 2):
            ids = self._ids(turns[first:])
            if len(ids) < room:
                if first:
                    log(f"the conversation is longer than the model's context; its first {first} turns are left out")
                return ids
        raise InputError(
            f"this turn leaves no room for an answer of {self.options.max_new_tokens} tokens in the model's context of "
            f"{self.model.context}",
            "write less, lower --max-new-tokens, or use a model with a longer context",
        )

    def _ids(self, turns: list[Message]) -> list[int]:
        system = [{"role": "system", "content": self.system}] if self.system else []
        return self._encoded(self._rendered([*system, *turns], asks=True))

    def _rendered(self, messages: list[Message], *, asks: bool = False) -> str:
        try:
            return self.template.text_of(messages, asks=asks)
        except (RefusedChat, FailingTemplate) as error:
            raise InputError(
                f"{self.template.origin} refuses the conversation: {error}",
                "leave --system out if it takes no system turn",
            ) from error

    def _encoded(self, text: str) -> list[int]:
        return self._library.encode(text, add_special_tokens=False).ids

    def _how_answers_end(self) -> tuple[set[int], tuple[str, ...]]:
        """Return the ids that end an answer and, where the template has no token for that, the text that ends one.

        Both are found in what the template writes between an answer and the question after it.
        """
        question = {"role": "user", "content": _QUESTION}
        turns = [question, {"role": "assistant", "content": _ANSWER}, question]
        text = self._rendered(turns)
        after = text[text.find(_ANSWER) + len(_ANSWER) : text.rfind(_QUESTION)]
        marks = [number for number in self._encoded(after) if number in self._marks.values()]
        ends = {*self.tokenizer.end_ids, *marks[:1]}
        return ends, (after.rstrip(),) if not marks and after.strip() else ()


def _spelling_marks(tokenizer: Tokenizer) -> tokenizers.Tokenizer:
    """Return the tokenizer of the library itself, which reads the spelling of a special token as that token.

    Chat templates write special tokens by their spelling.
    """
    from tokenizers import Tokenizer as Library

    return Library.from_str(tokenizer.serialised)

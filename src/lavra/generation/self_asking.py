"""Self-ask (Press et al. 2022, arXiv 2210.03350): the model asks, a retriever answers, until the model concludes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lavra.text.templates import Template

FOLLOW_UP, INTERMEDIATE, FINAL = "Follow up:", "Intermediate answer:", "So the final answer is:"
"""The words that the template's examples teach the model to use."""


@dataclass(frozen=True, slots=True)
class SelfAsked:
    """How a question was answered.

    Attributes:
        answer: the final answer; empty if the model came to none.
        follow_ups: the questions that it asked itself, and what the retriever said.
        text: all that was written after the prompt.
    """

    answer: str
    follow_ups: tuple[tuple[str, str], ...]
    text: str


def self_ask(
    question: str,
    template: Template,
    write: Callable[[str, tuple[str, ...]], str],
    retrieve: Callable[[str], str],
    *,
    most: int = 5,
) -> SelfAsked:
    """Answer a question by asking for its parts.

    Args:
        question: what is to be answered.
        template: a prompt with `question` that ends before the model is to write.
        write: continues a prompt until one of the given stop strings, which is left out.
        retrieve: answers a follow-up question, for instance with the best passage of a search; nothing found is "".
        most: follow-up questions at most; after them the model is made to conclude.
    """
    prompt, text = template.fill({"question": question}), ""
    follow_ups: list[tuple[str, str]] = []
    while FINAL not in text:
        written = write(prompt + text, (INTERMEDIATE, "\n\n", "Question:"))
        text += written
        if FINAL in written:
            break
        asked = written.partition(FOLLOW_UP)[2].strip()
        if not asked or len(follow_ups) == most:
            text = text.rstrip() + f"\n{FINAL}"
            text += write(prompt + text, ("\n",))
            break
        follow_ups.append((asked, retrieve(asked).strip()))
        text = text.rstrip() + f"\n{INTERMEDIATE} {follow_ups[-1][1]}\n"
    answer = text.partition(FINAL)[2].strip().partition("\n")[0]
    return SelfAsked(answer, tuple(follow_ups), text)

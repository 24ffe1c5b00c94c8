"""Self-ask prompting (Press et al. 2022, arXiv 2210.03350): a model asks, a retriever answers, the model concludes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lavra.text.templates import Template

FOLLOW_UP = "Follow up:"
"""Phrases that the examples of the template teach the model to use for a question, its answer and the conclusion."""
INTERMEDIATE = "Intermediate answer:"
FINAL = "So the final answer is:"


@dataclass(frozen=True, slots=True)
class SelfAsked:
    """How a question was answered.

    Attributes:
        answer: Final answer; empty where the model came to none.
        follow_ups: Questions that the model asked, each with the answer of the retriever.
        text: Everything that was written after the prompt.
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
    limit: int = 5,
) -> SelfAsked:
    """Answer a question by asking for its parts.

    Args:
        question: Question to answer.
        template: Template with the variable `question`, which ends where the model begins to write.
        write: Function from a prompt and stop strings to the continuation of the prompt, without the stop string.
        retrieve: Function from a follow-up question to its answer, for instance the best passage of a search. It
            returns "" where it finds nothing.
        limit: Largest number of follow-up questions. After them the model is made to conclude.

    Examples:
        A model that concludes at once:

        >>> template = Template("direct", "Question: {{ question }} ")
        >>> found = self_ask("Is 2 even?", template, lambda prompt, stop: "So the final answer is: yes", str.upper)
        >>> found.answer, found.follow_ups
        ('yes', ())
    """
    prompt, text = template.fill({"question": question}), ""
    follow_ups: list[tuple[str, str]] = []
    while FINAL not in text:
        written = write(prompt + text, (INTERMEDIATE, "\n\n", "Question:"))
        text += written
        if FINAL in written:
            break
        asked = written.partition(FOLLOW_UP)[2].strip()
        if not asked or len(follow_ups) == limit:
            text = text.rstrip() + f"\n{FINAL}"
            text += write(prompt + text, ("\n",))
            break
        follow_ups.append((asked, retrieve(asked).strip()))
        text = text.rstrip() + f"\n{INTERMEDIATE} {follow_ups[-1][1]}\n"
    answer = text.partition(FINAL)[2].strip().partition("\n")[0]
    return SelfAsked(answer, tuple(follow_ups), text)

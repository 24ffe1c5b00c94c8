"""Self-ask alternates between the model's questions and the retriever's answers, and always comes to an end."""

from __future__ import annotations

from lavra.generation.self_asking import self_ask
from lavra.text.templates import Template, read_templates

TEMPLATE = Template("plain", "Question: {{ question }}\nAre follow up questions needed here:")


class Script:
    """A model that writes what it is told, and notes what it has read."""

    def __init__(self, *texts: str) -> None:
        self.texts, self.read = list(texts), list[str]()

    def __call__(self, prompt: str, stop: tuple[str, ...]) -> str:
        self.read.append(prompt)
        text = self.texts.pop(0)
        return text[: min([text.find(one) for one in stop if one in text], default=len(text))]


def test_questions_are_retrieved_and_the_answer_is_the_last() -> None:
    script = Script(
        " Yes.\nFollow up: Where is Lisbon?\nIntermediate answer: made up",
        "Follow up: Where is Porto?\nIntermediate answer: made up",
        "So the final answer is: Yes\n\nQuestion: another",
    )
    found = self_ask("Same country?", TEMPLATE, script, {"Where is Lisbon?": "Portugal.", "Where is Porto?": "P"}.get)
    assert found.answer == "Yes"
    assert found.follow_ups == (("Where is Lisbon?", "Portugal."), ("Where is Porto?", "P"))
    assert "made up" not in found.text
    assert script.read[1].endswith("Follow up: Where is Lisbon?\nIntermediate answer: Portugal.\n")


def test_it_concludes_without_questions_and_after_too_many() -> None:
    script = Script(" No.\n", " 42\nmore")
    assert self_ask("What?", TEMPLATE, script, str).answer == "42"
    assert script.read[1].endswith(" No.\nSo the final answer is:")
    endless = Script(*["Follow up: why?\nIntermediate answer:"] * 3, " because")
    found = self_ask("What?", TEMPLATE, endless, lambda _: "", limit=2)
    assert (found.answer, len(found.follow_ups)) == ("because", 2)


def test_the_built_in_template_ends_where_the_model_begins() -> None:
    (template,) = read_templates("self-ask")
    assert template.fill({"question": "Why?"}).endswith("Question: Why?\nAre follow up questions needed here:")

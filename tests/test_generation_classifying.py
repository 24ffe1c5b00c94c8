"""Labels: only those given, calibrated, by several phrasings and levels, with the examples that were asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from byte_level import ByteTokenizer, lively_decoder
from lavra.core.errors import InputError
from lavra.generation.classifying import Classifier, check_labels, combined
from lavra.generation.few_shot import Example, ExampleChooser, vote_k
from lavra.generation.scoring import score, shares
from lavra.text.templates import Template, read_templates

TOKENIZER: Any = ByteTokenizer()
PLAIN = Template("plain", "{{ text }} is")
EXAMPLES = [
    Example("the cat sleeps", "animal"),
    Example("a dog barks", "animal"),
    Example("rain and wind", "weather"),
    Example("the cat and the dog", "animal"),
    Example("snow again", "weather"),
]


@pytest.mark.parametrize("calibrate", [False, True])
@pytest.mark.parametrize("combine", ["average", "vote"])
def test_nothing_but_the_labels_is_answered(combine: Any, calibrate: bool) -> None:
    labels = ["good", "bad", "neither of the two"]
    model = lively_decoder(2, context=256)
    classifier = Classifier(model, TOKENIZER, labels, read_templates("classify"), combine=combine, calibrate=calibrate)
    for one in classifier.classify(["a fine day", "", "xyz", "não presta"]):
        assert one.label in labels
        assert list(one.probabilities) == labels
        assert sum(one.probabilities.values()) == pytest.approx(1.0)
        assert one.probabilities[one.label] == max(one.probabilities.values())


def test_one_phrasing_without_calibration_is_the_score_of_the_labels() -> None:
    model = lively_decoder(2, context=64)
    (one,) = Classifier(model, TOKENIZER, ["a", "bb"], [PLAIN], calibrate=False).classify(["it"])
    (scores,) = score(model, TOKENIZER, ["it is"], [[" a", " bb"]])
    expected = shares(np.array([one.log_probability for one in scores]))
    assert list(one.probabilities.values()) == pytest.approx(expected)


def test_calibration_leaves_no_preference_after_content_free_input() -> None:
    model = lively_decoder(2, context=64)
    constant = Template("constant", "always the same")
    (one,) = Classifier(model, TOKENIZER, ["a", "bb", "c"], [constant]).classify(["whatever"])
    assert list(one.probabilities.values()) == pytest.approx([1 / 3] * 3)


def test_levels_multiply() -> None:
    model = lively_decoder(2, context=64)
    labels = ["x/one", "x/two", "y", "z/three/deep", "z/four"]
    (one,) = Classifier(model, TOKENIZER, labels, [PLAIN], calibrate=False).classify(["it"])

    def parts(prompt: str, options: list[str]) -> dict[str, float]:
        (scores,) = score(model, TOKENIZER, [prompt], [options])
        values = shares(np.array([each.log_probability for each in scores])).tolist()
        return dict(zip(options, values, strict=True))

    top = parts("it is", [" x", " y", " z"])
    x, z = parts("it is x/", ["one", "two"]), parts("it is z/", ["three", "four"])
    expected = {
        "x/one": top[" x"] * x["one"],
        "x/two": top[" x"] * x["two"],
        "y": top[" y"],
        "z/three/deep": top[" z"] * z["three"],
        "z/four": top[" z"] * z["four"],
    }
    assert one.probabilities == pytest.approx(expected)
    assert one.label in labels
    many = [f"{top}/{low}" for top in "abcdefg" for low in "123"]
    (wide,) = Classifier(model, TOKENIZER, many, [PLAIN]).classify(["it"])
    assert wide.label in many
    assert sum(share > 0 for share in wide.probabilities.values()) == 9
    assert sum(wide.probabilities.values()) == pytest.approx(1.0)


def test_combining_phrasings() -> None:
    found = np.array([[[0.6, 0.4]], [[0.6, 0.4]], [[0.0, 1.0]]])
    assert combined(found, "average").argmax() == 1
    assert combined(found, "vote").argmax() == 0
    draw = np.array([[[0.9, 0.1]], [[0.4, 0.6]]])
    assert combined(draw, "vote").argmax() == 0


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["one"], "no labels to choose from"),
        (["a", " a "], "no labels to choose from"),
        (["a", "b/"], "no labels to choose from"),
        (["a", "a/b"], "'a' is also a level of 'a/b'"),
    ],
)
def test_bad_labels_are_explained(labels: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_labels(labels)


def test_examples_at_random_are_balanced_and_by_seed() -> None:
    first = ExampleChooser(EXAMPLES, 4, "random", 0).for_text("x")
    assert first == ExampleChooser(EXAMPLES, 4, "random", 0).for_text("y")
    assert sorted(one.label for one in first) == ["animal", "animal", "weather", "weather"]
    assert len({tuple(ExampleChooser(EXAMPLES, 2, "random", seed).for_text("x")) for seed in range(9)}) > 1
    assert len(ExampleChooser(EXAMPLES, 99, "random").for_text("x")) == 5


def test_similar_examples_end_with_the_nearest() -> None:
    found = ExampleChooser(EXAMPLES, 2, "similar").for_text("My cat sleeps")
    assert found[-1].text == "the cat sleeps"
    assert found[0].text == "the cat and the dog"
    assert len(ExampleChooser(EXAMPLES, 3, "similar").for_text("unheard of")) == 3


def test_vote_k_takes_one_of_each_cluster() -> None:
    points = np.array([[1.0, 0.0]] * 6 + [[0.0, 1.0]] * 4)
    points[:, 0] += np.linspace(0, 0.1, 10)
    likeness = points @ points.T
    import lavra.generation.few_shot as module

    before, module.NEIGHBOURS = module.NEIGHBOURS, 3
    try:
        chosen = vote_k(likeness, 2)
    finally:
        module.NEIGHBOURS = before
    assert {place < 6 for place in chosen} == {True, False}
    assert len(set(vote_k(likeness, 10))) == 10
    assert len(ExampleChooser(EXAMPLES, 2, "vote-k").for_text("x")) == 2


def test_built_in_templates_show_text_labels_and_examples() -> None:
    for name in ("classify", "classify-pt"):
        for template in read_templates(name):
            prompt = template.fill({"text": "TEXT", "labels": ["one", "two"], "examples": EXAMPLES[:1]})
            assert prompt.index("the cat sleeps") < prompt.index("animal") < prompt.index("TEXT")
            assert not prompt.endswith((" ", "\n"))
            assert not template.fill({"text": "TEXT", "labels": ["a", "b"], "examples": []}).startswith("\n")


def test_bad_templates_are_explained(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_templates("nowhere.toml")
    file = tmp_path / "mine.toml"
    file.write_text("")
    with pytest.raises(InputError, match="holds no"):
        read_templates(str(file))
    file.write_text('[[template]]\nname = "one"\n')
    with pytest.raises(InputError, match="cannot be read"):
        read_templates(str(file))
    with pytest.raises(InputError, match="the template wrong is not right"):
        Template("wrong", "{{ text").fill({"text": ""})
    with pytest.raises(InputError, match=r"'txt' is undefined\n.*it may use text"):
        Template("wrong", "{{ txt }}").fill({"text": ""})
    with pytest.raises(InputError, match="unsafe"):
        Template("wrong", "{{ text.__class__.__mro__ }}").fill({"text": ""})

"""`lavra.TextClassifier`: an estimator of scikit-learn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import estimator_checks
from tests.labelled_reviews import TINY, reviews

from lavra import TextClassifier
from lavra.core.errors import InputError

ROWS = reviews(120)
TEXTS, NAMES = [row["text"] for row in ROWS], [row["label"] for row in ROWS]
NEW = [row["text"] for row in reviews(20, seed=9)]
RIGHT = [row["label"] for row in reviews(20, seed=9)]


@pytest.fixture(scope="module")
def fitted() -> TextClassifier:
    return TextClassifier().fit(TEXTS, NAMES)


def test_a_tiny_network_learns_a_rule() -> None:
    options = {**TINY, "optimization": {"learning_rate": 0.01}, "deliver": "last"}
    model = TextClassifier(epochs=12, options=options).fit(TEXTS, NAMES)
    assert model.run_ is not None
    assert model.run_.plan["model"]["depth"] == 1
    report = json.loads((model.run_.path / "data" / "report.json").read_text())
    assert report["split"]["train"]["examples"] == 120  # no row is kept back
    assert model.score(NEW, RIGHT) >= 0.9


def test_probabilities_are_in_the_order_of_the_classes(fitted: TextClassifier) -> None:
    shares = fitted.predict_proba(NEW)
    assert fitted.classes_.tolist() == ["bad", "good"]
    assert shares.shape == (20, 2)
    np.testing.assert_allclose(shares.sum(axis=1), 1.0)
    assert fitted.predict(NEW).tolist() == [fitted.classes_[place] for place in shares.argmax(axis=1)]
    assert fitted.score(NEW, RIGHT) >= 0.9


def test_classes_come_back_as_they_were_given() -> None:
    numbers = [{"bad": -1, "good": 5}[name] for name in NAMES]
    found = TextClassifier().fit(np.array(TEXTS), np.array(numbers))
    assert found.classes_.tolist() == [-1, 5]
    assert found.predict(NEW[:2]).dtype == np.array(numbers).dtype
    spaced = [f" {name}" if name == "good" else name for name in NAMES]
    assert set(TextClassifier().fit(TEXTS, spaced).predict(NEW).tolist()) == {"bad", " good"}


def test_weights_of_zero_take_rows_away() -> None:
    wrong = [*NAMES, *("good" if name == "bad" else "bad" for name in NAMES)]
    texts = [*TEXTS, *(f"{text} again" for text in TEXTS)]
    weights = np.r_[np.ones(len(NAMES)), np.zeros(len(NAMES))]
    assert TextClassifier().fit(texts, wrong, sample_weight=weights).score(NEW, RIGHT) >= 0.9


def test_pairs_and_several_labels() -> None:
    pairs = [(text, "is it good?") for text in TEXTS]
    found = TextClassifier().fit(pairs, NAMES)
    assert found.predict([(NEW[0], "is it good?")]).shape == (1,)
    with pytest.raises(InputError, match="learned 2 texts of each row, and is given 1"):
        found.predict(NEW)
    both = np.array([[name == "bad", name == "good", True] for name in NAMES[:-1]] + [[0, 0, 0]], dtype=int)
    several = TextClassifier().fit(TEXTS, both)
    assert several.classes_.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(several.predict(NEW)[:, 1], [name == "good" for name in RIGHT])


def test_it_is_cloned_searched_and_part_of_pipelines() -> None:
    lower = FunctionTransformer(lambda texts: [text.lower() for text in texts])
    model = Pipeline([("lower", lower), ("classifier", TextClassifier())])
    assert cross_val_score(model, np.array(TEXTS), NAMES, cv=2).min() > 0.8
    found = GridSearchCV(TextClassifier(), {"seed": [0, 1]}, cv=2).fit(TEXTS, NAMES)
    assert found.best_estimator_.predict(NEW).shape == (20,)
    copy = clone(TextClassifier("base", epochs=2, options={"seeds": 1}))
    assert (copy.base, copy.epochs, copy.options) == ("base", 2, {"seeds": 1})


def test_it_is_saved_and_loaded(fitted: TextClassifier, tmp_path: Path) -> None:
    fitted.save(tmp_path / "saved")
    again = TextClassifier.load(tmp_path / "saved")
    np.testing.assert_array_equal(again.predict_proba(NEW), fitted.predict_proba(NEW))
    assert again.get_params() == fitted.get_params()
    assert again.classes_.tolist() == fitted.classes_.tolist()
    with pytest.raises(InputError, match="exists already"):
        fitted.save(tmp_path / "saved")


def test_it_is_quiet_by_default(capfd: pytest.CaptureFixture[str]) -> None:
    TextClassifier().fit(TEXTS, NAMES).predict(NEW)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("texts", "labels", "said"),
    [
        (TEXTS[:3], NAMES[:2], "3 texts have 2 labels"),
        ("one text", NAMES, "X is one text"),
        ([1.5, 2.5], ["a", "b"], "row 1 of X is no text"),
        ([*TEXTS, ("a", "pair")], [*NAMES, "good"], "some rows of X are texts and others pairs"),
        (TEXTS, ["good"] * len(TEXTS), "at least two classes"),
    ],
)
def test_what_cannot_be_learned_is_said(texts: Any, labels: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        TextClassifier().fit(texts, labels)


# The checks of scikit-learn that feed an estimator with tables of numbers say nothing about one that reads text: all of
# `check_estimator` beyond these would give it no text. Those that look at parameters, clones and tags hold.
@pytest.mark.parametrize(
    "name",
    [
        "check_estimator_cloneable",
        "check_estimator_tags_renamed",
        "check_valid_tag_types",
        "check_estimator_repr",
        "check_no_attributes_set_in_init",
        "check_get_params_invariance",
        "check_set_params",
        "check_parameters_default_constructible",
        "check_mixin_order",
    ],
)
def test_the_checks_of_scikit_learn_that_need_no_numbers(name: str) -> None:
    check = getattr(estimator_checks, name)
    check("TextClassifier", TextClassifier())

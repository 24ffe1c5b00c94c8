"""Linear models learn what there is to learn, from weights and soft targets too, and come back from disk to the bit."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from lavra.core.errors import CorruptFile, InputError
from lavra.models.linear import fitting
from lavra.models.linear.files import is_linear, load_linear, save_linear
from lavra.models.linear.fitting import fit_linear
from lavra.models.linear.model import from_scores

pytest.importorskip("sklearn")

GOOD, BAD, REST = ["fine", "superb", "lovely"], ["awful", "boring", "bad"], ["film", "plot", "actor", "scene", "music"]


def reviews(rows: int = 120, seed: int = 0, sides: int = 2) -> tuple[list[str], np.ndarray]:
    """Texts of which one word tells the class, and their class numbers."""
    random = np.random.default_rng(seed)
    kinds = [GOOD, BAD, ["long", "slow", "late"]][:sides]
    labels = random.integers(0, sides, rows)
    texts = [" ".join([*random.choice(REST, 4), random.choice(kinds[label])]) for label in labels]
    return texts, labels


def hot(labels: np.ndarray, size: int) -> np.ndarray:
    return np.eye(size)[labels]


@pytest.mark.parametrize("sides", [2, 3])
def test_classes_are_learned_and_the_words_are_named(sides: int) -> None:
    texts, labels = reviews(sides=sides)
    names = ["good", "bad", "slow"][:sides]
    model = fit_linear(texts, hot(labels, sides), names)
    new, truth = reviews(seed=1, sides=sides)
    found = model.predict_proba(new)
    assert (found.argmax(axis=1) == truth).all()
    np.testing.assert_allclose(found.sum(axis=1), 1)
    words = model.deciding_words(3)
    assert {word for word, _ in words["good"]} == set(GOOD)
    assert {word for word, _ in words["bad"]} == set(BAD)
    assert all(weight > 0 for weight in dict(words["good"]).values())
    assert len(model.chosen_from) >= 2


def test_labels_that_hold_together() -> None:
    random = np.random.default_rng(0)
    targets = (random.random((150, 3)) < 0.4).astype(float)
    targets[:, 2] = 0  # nobody has it
    words = [GOOD[0], BAD[0]]
    texts = [" ".join(["film", *(word for word, there in zip(words, row, strict=False) if there)]) for row in targets]
    model = fit_linear(texts, targets, ["good", "bad", "never"], "labels")
    found = model.predict_proba(["film fine awful", "film", "film awful"])
    assert (found[:, :2] > 0.5).tolist() == [[True, True], [False, False], [False, True]]
    assert (found[:, 2] < 0.02).all()
    assert (found[:, 2] > 0).all()


def test_values_and_orders() -> None:
    texts, labels = reviews(200)
    values = np.where(labels == 0, 4.0, 1.0)[:, None]
    model = fit_linear(texts, values, ["stars"], "values")
    assert np.abs(model.predict_proba(texts) - values).max() < 0.6
    assert {word for word, _ in model.deciding_words(3)[">"]} == set(GOOD)
    names = [str(number) for number in range(1, 6)]
    order = fit_linear(texts, hot(np.where(labels == 0, 3, 0), 5), names, "ordinal")
    found = order.predict_proba(texts)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    medians = (found.cumsum(axis=1) >= 0.5).argmax(axis=1)
    assert (medians == np.where(labels == 0, 3, 0)).mean() > 0.95
    assert 0 < order.spread < 1


def test_the_median_of_an_order_is_the_nearest_class() -> None:
    numbers = np.array([[-3.0], [0.4], [0.6], [2.2], [9.0]])
    found = from_scores(numbers, "ordinal", "abcd", 0.7)
    assert (found.cumsum(axis=1) >= 0.5).argmax(axis=1).tolist() == [0, 0, 1, 2, 3]


@pytest.mark.parametrize("kind", ["classes", "labels", "values", "ordinal"])
@pytest.mark.parametrize("paired", [False, True])
def test_a_model_comes_back_to_the_bit(kind, paired: bool, tmp_path: Path) -> None:
    texts, labels = reviews(60, sides=3)
    rows = [(text, "film fine") for text in texts] if paired else texts
    targets = hot(labels, 3) if kind != "values" else labels[:, None].astype(float)
    names = ["a", "ção", "c d"] if kind != "values" else ["x"]
    model = fit_linear(rows, targets, names, kind)
    save_linear(tmp_path / "model", model)
    assert is_linear(tmp_path / "model")
    again = load_linear(tmp_path / "model")
    new = [("film awful", "superb") if paired else "film awful superb"]
    for given in (rows, new):
        np.testing.assert_array_equal(again.predict_proba(given), model.predict_proba(given))
    assert again.deciding_words() == model.deciding_words()
    assert (again.strength, again.chosen_from, again.notes) == (model.strength, model.chosen_from, model.notes)
    assert sorted(file.name for file in (tmp_path / "model").iterdir()) == ["linear.json", "linear.safetensors"]


def test_damaged_and_mixed_files_are_refused(tmp_path: Path) -> None:
    texts, labels = reviews(40)
    for name, seed in (("one", 0), ("two", 1)):
        texts, labels = reviews(40, seed)
        save_linear(tmp_path / name, fit_linear(texts, hot(labels, 2), ["good", "bad"]))
    one = tmp_path / "one"
    numbers, told = (one / "linear.safetensors").read_bytes(), json.loads((one / "linear.json").read_text())
    (one / "linear.safetensors").write_bytes((tmp_path / "two" / "linear.safetensors").read_bytes())
    with pytest.raises(CorruptFile, match=r"linear\.safetensors is damaged, or belongs to another"):
        load_linear(one)
    (one / "linear.safetensors").write_bytes(numbers)
    for changed in ({"words": told["words"][1:]}, {"classes": None}, {"spread": "x"}, {"hash": None}):
        (one / "linear.json").write_text(json.dumps(told | changed))
        with pytest.raises(CorruptFile):
            load_linear(one)
    (one / "linear.json").write_text(json.dumps(told | {"format": 9}))
    with pytest.raises(InputError, match="layout 9"):
        load_linear(one)
    with pytest.raises(CorruptFile, match="is missing"):
        load_linear(tmp_path)
    (one / "linear.json").write_text(json.dumps(told))
    (one / "linear.safetensors").unlink()
    with pytest.raises(CorruptFile, match="cannot be read"):
        load_linear(one)


def test_a_weight_of_two_is_a_row_given_twice_and_soft_targets_are_weighted_rows() -> None:
    texts, labels = reviews(40)
    targets = hot(labels, 2)
    weights = np.where(np.arange(40) < 10, 2.0, 1.0)
    options = {"classes": ["good", "bad"], "strength": 10.0}
    one = fit_linear(texts, targets, weights=weights, **options)
    two = fit_linear(texts + texts[:10], np.concatenate([targets, targets[:10]]), **options)
    # The features differ a little, because twice the rows count twice in the document frequencies.
    np.testing.assert_allclose(one.predict_proba(texts), two.predict_proba(texts), atol=0.05)

    soft = targets.copy()
    soft[0] = [0.7, 0.3]
    copies = np.concatenate([targets, [[1, 0]]])
    copies[0] = [0, 1]
    shares = np.ones(41)
    shares[0], shares[40] = 0.3, 0.7
    by_copies = fit_linear([*texts, texts[0]], copies, weights=shares, **options)
    by_soft = fit_linear(texts, soft, **options)
    np.testing.assert_allclose(by_soft.predict_proba(texts), by_copies.predict_proba(texts), atol=0.03)
    assert by_soft.predict_proba(texts[:1])[0, 0] != pytest.approx(
        fit_linear(texts, targets, **options).predict_proba(texts[:1])[0, 0], abs=1e-3
    )


def test_soft_targets_without_information_give_one_half() -> None:
    texts, _ = reviews(40)
    model = fit_linear(texts, np.full((40, 2), 0.5), ["a", "b"], strength=1.0)
    np.testing.assert_allclose(model.predict_proba(texts), 0.5, atol=0.01)


def test_balanced_classes_find_the_rare_one() -> None:
    random = np.random.default_rng(0)
    labels = (random.random(300) < 0.08).astype(int)
    texts = [f"film {random.choice(GOOD)} {'odd' if label or random.random() < 0.08 else 'even'}" for label in labels]
    plain = fit_linear(texts, hot(labels, 2), ["a", "b"], strength=1.0)
    balanced = fit_linear(texts, hot(labels, 2), ["a", "b"], strength=1.0, class_weights="balanced")
    rare = labels == 1
    assert balanced.predict_proba(texts)[rare, 1].mean() > plain.predict_proba(texts)[rare, 1].mean() + 0.2
    named = fit_linear(texts, hot(labels, 2), ["a", "b"], strength=1.0, class_weights={"b": 12.0})
    assert named.predict_proba(texts)[rare, 1].mean() > plain.predict_proba(texts)[rare, 1].mean() + 0.2


def test_pairs_are_compared_and_not_only_read() -> None:
    random = np.random.default_rng(0)
    words = [f"w{number}" for number in range(60)]
    pairs, labels = [], random.integers(0, 2, 300)
    for label in labels:
        first = list(random.choice(words, 6, replace=False))
        second = [*random.permutation(first)[:5], "new"] if label else list(random.choice(words, 6, replace=False))
        pairs.append((" ".join(first), " ".join(second)))
    model = fit_linear(pairs[:200], hot(labels[:200], 2), ["other", "same"])
    assert (model.predict_proba(pairs[200:]).argmax(axis=1) == labels[200:]).mean() > 0.95
    assert "new (only in the second)" in dict(model.deciding_words()["same"])
    with pytest.raises(InputError, match="trained on rows of two texts, and these have one"):
        model.predict_proba(["one text"])
    with pytest.raises(InputError, match="some rows have one text and others two"):
        fit_linear(["a", ("b", "c")], hot(np.array([0, 1]), 2), ["x", "y"])


def test_rows_without_label_are_left_out_and_told() -> None:
    texts, labels = reviews(60)
    targets = hot(labels, 2)
    targets[:7] = np.nan
    model = fit_linear(texts, targets, ["good", "bad"])
    assert model.notes[0] == "7 rows without label were left out"
    same = fit_linear(texts[7:], targets[7:], ["good", "bad"])
    np.testing.assert_array_equal(model.predict_proba(texts), same.predict_proba(texts))


def test_fits_are_deterministic() -> None:
    texts, labels = reviews(sides=3)
    one, two = (fit_linear(texts, hot(labels, 3), ["a", "b", "c"]) for _ in range(2))
    np.testing.assert_array_equal(one.weights, two.weights)


def test_the_time_limit_cuts_the_choice_short_but_never_the_model() -> None:
    texts, labels = reviews()
    now = [0.0]

    def clock() -> float:
        now[0] += 1.0  # every look at the clock takes a second
        return now[0]

    hurried = fit_linear(texts, hot(labels, 2), ["good", "bad"], seconds=0.0, clock=clock)
    assert hurried.chosen_from == {}
    assert hurried.strength == 10.0
    assert "0 penalties were tried; for more there was no time" in hurried.notes
    assert (hurried.predict_proba(texts).argmax(axis=1) == labels).all()
    some = fit_linear(texts, hot(labels, 2), ["good", "bad"], seconds=4.0, clock=clock)
    assert len(some.chosen_from) == 1
    called = fit_linear(texts, hot(labels, 2), ["good", "bad"], seconds=lambda: -1.0)
    assert called.chosen_from == {}


def test_many_classes_are_timed_by_one_of_them(monkeypatch) -> None:
    monkeypatch.setattr(fitting, "usable_cores", lambda: 2)
    labels = np.arange(80) % 10
    texts, now = [f"film w{label}" for label in labels], [0.0]

    def clock() -> float:
        now[0] += 1.0
        return now[0]

    names = [f"c{number}" for number in range(10)]
    # One column takes a second, so that a fit takes five, and a round of three folds with the final fit thirty.
    short = fit_linear(texts, hot(labels, 10), names, seconds=28.0, clock=clock)
    assert short.chosen_from == {}
    assert fit_linear(texts, hot(labels, 10), names, seconds=34.0, clock=clock).chosen_from.keys() == {10.0}


def test_bad_input_is_refused() -> None:
    texts, labels = reviews(20)
    with pytest.raises(InputError, match="'good' is the only class"):
        fit_linear(texts, np.tile([1.0, 0.0], (20, 1)), ["good", "bad"])
    with pytest.raises(InputError, match="no row has a label to learn from"):
        fit_linear(texts, np.full((20, 2), np.nan), ["good", "bad"])
    with pytest.raises(InputError, match="20 texts have targets of the shape"):
        fit_linear(texts, hot(labels, 2)[:5], ["good", "bad"])
    with pytest.raises(InputError, match="weight was given for 'ugly', which is no class"):
        fit_linear(texts, hot(labels, 2), ["good", "bad"], class_weights={"ugly": 2})
    with pytest.raises(InputError, match="cannot be 'even'"):
        fit_linear(texts, hot(labels, 2), ["good", "bad"], class_weights="even")


def test_without_scikit_learn_the_remedy_is_told(monkeypatch) -> None:
    texts, labels = reviews(20)
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(InputError, match=r"pip install 'lavra\[classify\]'"):
        fit_linear(texts, hot(labels, 2), ["good", "bad"])


def test_few_rows_take_the_default_and_say_so() -> None:
    texts, labels = ["fine film", "bad film", "superb plot", "awful plot"], np.array([0, 1, 0, 1])
    model = fit_linear(texts, hot(labels, 2), ["good", "bad"])
    assert model.strength == 10.0
    assert model.notes == ("4 rows are too few to choose the penalty by",)
    assert (model.predict_proba(texts).argmax(axis=1) == labels).all()


def test_the_text_of_a_model_needs_no_torch() -> None:
    import subprocess

    code = (
        "import sys; import lavra.models.linear.files, lavra.models.linear.fitting, lavra.evaluation.labels.nested; "
        "import lavra.data.folds; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

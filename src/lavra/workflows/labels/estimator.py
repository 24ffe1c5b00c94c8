"""`lavra.TextClassifier`: what `lavra train` does, as an estimator of scikit-learn."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lavra.config.training import TrainConfig
from lavra.core.configuration import from_table
from lavra.core.disk.files import read_json, write_json
from lavra.core.disk.json_lines import one_line
from lavra.core.errors import InputError
from lavra.core.progress import quiet
from lavra.core.units import counted
from lavra.tasks.linear_baseline import LINEAR
from lavra.workflows.classify import labeller_at
from lavra.workflows.labels.labeller import DELIVERS
from lavra.workflows.labels.predict import predict_texts
from lavra.workflows.run import Run
from lavra.workflows.train import train

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.utils.validation import check_is_fitted
except ImportError as error:
    raise InputError(f"TextClassifier needs scikit-learn ({error})", "pip install 'lavra[classify]'") from error

if TYPE_CHECKING:
    from lavra.workflows.labels.labeller import Labeller

_TASKS = ("auto", "classification", "multi-label")
_FILE = "estimator.json"
_MODEL = "model"


class TextClassifier(ClassifierMixin, BaseEstimator):
    """A classifier of texts, or of pairs of texts, that is trained by `lavra.train`.

    All rows that `fit` is given are learned; what the model is worth is measured by `cross_val_score` or on other rows.

    Args:
        base: The pretrained model to fine-tune, as `lavra.train` takes it; without one a linear model on TF-IDF
            features is trained.
        budget: Time for `fit`, in seconds or as text with a unit ("10m"); 10 minutes where no length is given.
        epochs: Passes over the rows, instead of a time.
        task: "classification", "multi-label", or "auto": by the shape of `y`.
        seed: Seed of everything that is random.
        out: The folder of the run; a temporary one that is removed with the estimator if None.
        options: Further fields of `TrainConfig` by name, as `lavra.train` takes them, such as `{"folds": 5}`.
        verbose: Whether progress is printed.

    Attributes:
        classes_: The classes as they are in `y`, sorted, (classes,); for several labels the numbers of the columns of
            `y`.
        run_: The run of the training; None after `load`.

    Examples:
        >>> from lavra import TextClassifier
        >>> texts = ["a fine film", "a bad film", "fine and good", "bad and poor"] * 30
        >>> model = TextClassifier().fit(texts, ["good", "bad", "good", "bad"] * 30)
        >>> model.predict(["a fine story"]).tolist(), model.classes_.tolist()
        (['good'], ['bad', 'good'])
    """

    def __init__(
        self,
        base: str | None = None,
        *,
        budget: float | str | None = None,
        epochs: float | None = None,
        task: str = "auto",
        seed: int = 0,
        out: str | None = None,
        options: Mapping[str, Any] | None = None,
        verbose: bool = False,
    ) -> None:
        self.base = base
        self.budget = budget
        self.epochs = epochs
        self.task = task
        self.seed = seed
        self.out = out
        self.options = options
        self.verbose = verbose

    def __sklearn_tags__(self) -> Any:
        """Return the tags of scikit-learn: the input is text, and several labels are allowed."""
        tags = super().__sklearn_tags__()
        tags.input_tags.string, tags.input_tags.two_d_array, tags.input_tags.one_d_array = True, False, True
        tags.classifier_tags.multi_label = True
        tags.non_deterministic = False
        tags.no_validation = True
        return tags

    def fit(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:  # noqa: N803
        """Train a model.

        Args:
            X: Texts, (n,); or pairs of texts, (n, 2). Lists, arrays, Series and DataFrames of one or two columns.
            y: The class of each text, (n,); or which labels hold, (n, labels) of 0 and 1.
            sample_weight: Weight of each text in the loss, (n,), 0 or more.

        Returns:
            The estimator itself.

        Raises:
            InputError: If the lengths differ, there is one class only, or the texts cannot be used.
        """
        rows, columns = _rows(X)
        labels = np.asarray(y)
        if len(labels) != len(rows):
            raise InputError(f"{len(rows)} texts have {len(labels)} labels", "give one label for each text")
        task = self._task(labels)
        self.classes_, self.names_ = _classes(labels, several=task == "multi-label")
        for row, label in zip(rows, self._written(labels, task), strict=True):
            row["label"] = label
        if sample_weight is not None:
            for row, weight in zip(rows, np.asarray(sample_weight, dtype=np.float64).tolist(), strict=True):
                row["weight"] = weight
        self._home = None if self.out is not None else tempfile.TemporaryDirectory(prefix="lavra-classifier-")
        folder = Path(self.out) if self.out is not None else Path(self._home.name) / "run"
        with self._silence(), tempfile.TemporaryDirectory() as scratch:
            data = Path(scratch) / "rows.jsonl"
            data.write_text("".join(one_line(row) + "\n" for row in rows), encoding="utf8")
            self.run_ = Run(train(self._request(data, folder, task)).path)
        self._columns = columns
        linear = self.run_.result.get(DELIVERS) == LINEAR
        self._folder = self.run_.path / (LINEAR if linear else _MODEL)
        self._labeller = labeller_at(str(self.run_.path), self._device)
        return self

    def predict_proba(self, X: Any) -> NDArray[np.float64]:  # noqa: N803
        """Return the probability of each class, (n, classes), in the order of `classes_`.

        Args:
            X: Texts or pairs of texts, as for `fit`.
        """
        check_is_fitted(self, "classes_")
        rows, columns = _rows(X)
        if columns != self._columns:
            raise InputError(
                f"the model learned {counted(self._columns, 'text')} of each row, and is given {columns}",
                "give texts as for fit",
            )
        with self._silence():
            found = predict_texts(self._labeller, rows) if rows else []
        numbers = [[one.probabilities.get(name, 0.0) for name in self.names_] for one in found]
        return np.array(numbers, dtype=np.float64).reshape(len(rows), len(self.names_))

    def predict(self, X: Any) -> NDArray[Any]:  # noqa: N803
        """Return the likeliest class of each text, (n,); of several labels which of them hold, (n, labels) of 0 and 1.

        Args:
            X: Texts or pairs of texts, as for `fit`.
        """
        shares = self.predict_proba(X)
        if getattr(self._labeller.task, "kind", "classes") != "labels":
            return self.classes_[shares.argmax(axis=1)]
        known = self._labeller.facts
        thresholds = dict(zip(known["classes"], known.get("thresholds", [0.5] * len(known["classes"])), strict=True))
        return (shares >= np.array([thresholds.get(name, 0.5) for name in self.names_])).astype(np.int64)

    def save(self, folder: str | Path) -> None:
        """Write the model and the parameters into a new folder, from which `load` reads them.

        Args:
            folder: The folder, which must not exist.

        Raises:
            InputError: If the folder exists.
        """
        check_is_fitted(self, "classes_")
        folder = Path(folder)
        if folder.exists():
            raise InputError(f"{folder} exists already", "choose another folder")
        folder.mkdir(parents=True)
        shutil.copytree(self._folder, folder / _MODEL)
        record = {
            "parameters": {**self.get_params(), "options": None if self.options is None else dict(self.options)},
            "classes": self.classes_.tolist(),
            "names": self.names_,
            "columns": self._columns,
        }
        write_json(folder / _FILE, record)

    @classmethod
    def load(cls, folder: str | Path) -> TextClassifier:
        """Return the estimator that `save` wrote.

        Args:
            folder: The folder.

        Raises:
            CorruptFile: If a file is missing or damaged.
        """
        folder = Path(folder)
        record: Any = read_json(folder / _FILE)
        found = cls(**record["parameters"])
        found.classes_, found.names_ = np.array(record["classes"]), record["names"]
        found.run_, found._home, found._columns = None, None, record["columns"]
        found._folder = folder / _MODEL
        found._labeller = labeller_at(str(found._folder), found._device)
        return found

    _labeller: Labeller
    _folder: Path
    _columns: int
    _home: Any
    run_: Run | None
    names_: list[str]
    classes_: NDArray[Any]

    @property
    def _device(self) -> str:
        return ((self.options or {}).get("machine") or {}).get("device", "auto")

    @contextmanager
    def _silence(self) -> Iterator[None]:
        with quiet(not self.verbose):
            yield

    def _task(self, labels: NDArray[Any]) -> str:
        if self.task not in _TASKS:
            raise InputError(f"there is no task {self.task!r} of a classifier", f"choose one of {', '.join(_TASKS)}")
        by_shape = "multi-label" if labels.ndim == 2 and labels.shape[1] > 1 else "classification"
        if self.task not in ("auto", by_shape):
            raise InputError(
                f"the task is {self.task}, and y has the shape {labels.shape}",
                "give (n, labels) of 0 and 1 for several labels, and (n,) for classes",
            )
        return by_shape

    def _written(self, labels: NDArray[Any], task: str) -> list[Any]:
        """Return the label of each row as it is written into its file."""
        if task == "multi-label":
            return [[self.names_[place] for place in np.flatnonzero(row).tolist()] for row in labels]
        place = {one: number for number, one in enumerate(self.classes_.tolist())}
        return [self.names_[place[one]] for one in labels.reshape(len(labels)).tolist()]

    def _request(self, data: Path, folder: Path, task: str) -> TrainConfig:
        own = {"base": self.base, "budget": self.budget, "epochs": self.epochs, "seed": self.seed, "task": task}
        own |= {"data": [str(data)], "out": str(folder), "force": True, "samples": 0}
        asked = {name: value for name, value in own.items() if value is not None}
        options = dict(self.options or {})
        if "folds" not in options:  # all rows are learned; folds measure, and then learn all rows too
            options["text"] = {"validation_share": 0.0, **options.get("text", {})}
        return from_table(TrainConfig, {**options, **asked}, "TextClassifier")


def _rows(texts: Any) -> tuple[list[dict[str, Any]], int]:
    """Return texts as rows with the columns `text`, or `text1` and `text2`, and the number of these columns."""
    if isinstance(texts, str):
        raise InputError("X is one text", "give a list of texts")
    if hasattr(texts, "to_numpy"):  # a Series or a DataFrame
        texts = texts.to_numpy()
    found: list[tuple[str, ...]] = []
    for number, one in enumerate(texts):
        parts = (one,) if isinstance(one, str) else _parts(one)
        if not all(isinstance(part, str) for part in parts) or not 1 <= len(parts) <= 2:
            raise InputError(f"row {number + 1} of X is no text, and no pair of texts: {one!r:.60}", "give texts")
        found.append(tuple(str(part) for part in parts))
    columns = len(found[0]) if found else 1
    if any(len(parts) != columns for parts in found):
        raise InputError("some rows of X are texts and others pairs", "give the same of each")
    names = ("text",) if columns == 1 else ("text1", "text2")
    return [dict(zip(names, parts, strict=True)) for parts in found], columns


def _parts(one: Any) -> tuple[Any, ...]:
    return tuple(one) if isinstance(one, Sequence | np.ndarray) and not isinstance(one, bytes) else (one,)


def _classes(labels: NDArray[Any], *, several: bool) -> tuple[NDArray[Any], list[str]]:
    """Return the classes as they are, and the name that each has in the files: its own where that is unmistakable."""
    classes = np.arange(labels.shape[1]) if several else np.unique(labels)
    names = [str(one).strip() for one in classes.tolist()]
    if len(set(names)) < len(names) or not all(names) or several:
        names = [f"class {number}" if not several else f"label {number}" for number in range(len(classes))]
    return classes, names

"""A run in Python: what the commands of the command line do, as methods."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lavra.core.disk.run_folder import RunFolder

if TYPE_CHECKING:
    from lavra.generation.classifying import Classification
    from lavra.generation.generate import Generation
    from lavra.workflows.evaluate import Evaluation, TaskEvaluation


class Run:
    """One training run on disk.

    Args:
        folder: The folder of the run.

    Attributes:
        path: The folder of the run.

    Raises:
        InputError: If the folder is not a run.

    Examples:
        >>> import lavra
        >>> run = lavra.Run("runs/book")                     # doctest: +SKIP
        >>> run.status, run.result["bits_per_byte"]          # doctest: +SKIP
        >>> run.generate("Era uma vez", samples=2)[1].text   # doctest: +SKIP
    """

    def __init__(self, folder: Path | str) -> None:
        self._folder = RunFolder.open(folder)
        self.path = self._folder.path

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @property
    def status(self) -> str:
        """`running`, `finished` or `interrupted`."""
        return self._folder.status

    @property
    def plan(self) -> dict[str, Any]:
        """The plan: everything that was decided before the first step, as plain values."""
        return self._folder.plan

    @property
    def result(self) -> dict[str, Any]:
        """The final figures, as plain values; empty while the run is not finished."""
        return self._folder.result

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl` in their order: training steps and validations."""
        return self._folder.metrics.read()

    def generate(self, prompt: str | Sequence[str] = "", **options: Any) -> list[Generation]:
        """Continue one or several prompts with the model of the run.

        Args:
            prompt: A prompt or several; an empty one starts a new document.
            options: Fields of `lavra.config.generation.GenerateOptions` by name, such as `temperature=0.7`.

        Returns:
            The generated texts: `samples` of them for each prompt, in the order of the prompts.

        Raises:
            InputError: If the run has no model yet, an option is wrong, or a prompt does not fit the model's context.

        Examples:
            >>> run.generate("Era uma vez", max_new_tokens=20)[0].text   # doctest: +SKIP
        """
        from lavra.config.generation import GenerateOptions
        from lavra.workflows.generation.generate import generate

        return generate(str(self.path), [prompt] if isinstance(prompt, str) else prompt, GenerateOptions(**options))

    def classify(self, texts: str | Sequence[Any], labels: Sequence[str] = (), **options: Any) -> list[Classification]:
        """Label texts with the model of the run.

        Args:
            texts: A text or several; pairs of texts for a model that reads two.
            labels: The labels to choose from, for a language model; a model that was trained for labels has its own.
            options: The other arguments of `lavra.classify`, by name.

        Returns:
            The predicted label and the probability of every label for each text, in the order of the texts.

        Raises:
            InputError: If the run has no model yet, or a text cannot be read.

        Examples:
            >>> run.classify(["A fine film."])[0].label   # doctest: +SKIP
            'good'
        """
        from lavra.workflows.classify import classify

        return classify(str(self.path), [texts] if isinstance(texts, str) else texts, labels, **options)

    def evaluate(self, data: str | Sequence[str] = (), **options: Any) -> Evaluation | TaskEvaluation:
        """Measure the model of the run on text: perplexity and bits per byte, with intervals.

        Args:
            data: A location of text or several; the validation text of the run if empty.
            options: The other arguments of `lavra.evaluate`, by name.

        Returns:
            The figures, in total and by source, beside baselines on the same text.

        Raises:
            InputError: If the run has no model yet, or the text cannot be used.

        Examples:
            >>> run.evaluate("news.jsonl").result.total.bits_per_byte   # doctest: +SKIP
        """
        from lavra.workflows.evaluate import evaluate

        return evaluate(str(self.path), [data] if isinstance(data, str) else data, **options)

    def report(self, out: Path | str | None = None) -> Path:
        """Write the page of the run: one HTML file with outcome, curves, checks, samples and events.

        Args:
            out: The file to write; `report.html` in the run's folder if None.

        Returns:
            The path of the file.

        Examples:
            >>> run.report()   # doctest: +SKIP
        """
        from lavra.reports.run_page import PAGE, write_page

        path = self.path / PAGE if out is None else Path(out)
        write_page(self._folder, path)
        return path

    def resume(self) -> Run:
        """Continue the run from its last checkpoint to its end, if it was interrupted.

        Returns:
            The finished run.

        Raises:
            InputError: If another process trains the run, or its text is gone.

        Examples:
            >>> run.resume().status   # doctest: +SKIP
        """
        from lavra.workflows.train import resume

        return Run(resume(self.path).path)

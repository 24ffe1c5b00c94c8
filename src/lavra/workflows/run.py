"""The handle of a run in Python: what the commands do, as methods."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lavra.core.disk.run_folder import RunFolder

if TYPE_CHECKING:
    from lavra.generation.generate import Generation
    from lavra.workflows.evaluate import Evaluation


class Run:
    """One training run on disk.

    Args:
        folder: of the run.

    Attributes:
        path: the folder.
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
        """What was decided before the first step."""
        return self._folder.plan

    @property
    def result(self) -> dict[str, Any]:
        """The final figures; empty while the run is not finished."""
        return self._folder.result

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl`."""
        return self._folder.metrics.read()

    def generate(self, prompt: str | Sequence[str] = "", **options: Any) -> list[Generation]:
        """Continue one or several prompts; options are those of `GenerateOptions`."""
        from lavra.config.generation import GenerateOptions
        from lavra.workflows.generation.generate import generate

        return generate(str(self.path), [prompt] if isinstance(prompt, str) else prompt, GenerateOptions(**options))

    def evaluate(self, data: str | Sequence[str] = (), **options: Any) -> Evaluation:
        """Measure the likelihood of text (the run's held-out text by default) under the model."""
        from lavra.workflows.evaluate import evaluate

        return evaluate(str(self.path), [data] if isinstance(data, str) else data, **options)

    def report(self, out: Path | str | None = None) -> Path:
        """Write the page of the run, `report.html` in its folder by default, and return its path."""
        from lavra.reports.run_page import PAGE, write_page

        path = self.path / PAGE if out is None else Path(out)
        write_page(self._folder, path)
        return path

    def resume(self) -> Run:
        """Go on with the run, if it was interrupted."""
        from lavra.workflows.training.resume import resume

        return Run(resume(self.path).path)

"""The options of the commands around training: check, prepare, resume, and those that look at finished runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from lavra.config.flags import Common, shown
from lavra.config.quantities import Duration
from lavra.config.training import SetupConfig, TextConfig, TrainConfig


@dataclass(frozen=True)
class CheckConfig(SetupConfig):
    """A set-up to prove right, or the run whose set-up it is.

    Examples:
        >>> from lavra.config.runs import CheckConfig
        >>> CheckConfig(("mytext/",)).training.data
        ('mytext/',)
    """

    data: Annotated[tyro.conf.Positional[tuple[str, ...]], shown(metavar="RUN|DATA…")] = field()
    """The folder of a run, or text as for training."""
    time_limit: Annotated[Duration | None, Common] = None
    """Time for the checks; those that do not fit into it are left out and counted. A minute on a GPU by default, and no
    limit on a processor."""

    @property
    def training(self) -> TrainConfig:
        """The training run that the set-up is for."""
        return TrainConfig(**{name: value for name, value in vars(self).items() if name != "time_limit"})


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """A corpus to tokenise.

    Examples:
        >>> from lavra.config.runs import PrepareConfig
        >>> PrepareConfig(data=("mytext/",), out="prepared/mine").text.vocabulary is None
        True
    """

    data: Annotated[tyro.conf.Positional[tuple[str, ...]], shown(metavar="DATA…")]
    """The text: files, folders, globs, - (standard input), hf:NAME[:SPLIT] or installed-docs:."""
    out: Annotated[str, Common, shown(metavar="FOLDER")]
    """The folder to write the tokens and the tokenizer into."""
    force: Annotated[bool, Common] = False
    """Replace an existing folder."""
    text: TextConfig = field(default_factory=TextConfig)


@dataclass(frozen=True)
class ResumeConfig:
    """An interrupted run or sweep to continue, or a finished run to train for longer.

    Examples:
        >>> from lavra.config.runs import ResumeConfig
        >>> ResumeConfig("runs/book", micro_batch_size=4).run
        'runs/book'
    """

    run: Annotated[tyro.conf.Positional[str], shown(metavar="RUN")]
    """The folder of the run or of the sweep."""
    steps: Annotated[int | None, Common] = None
    """Train a finished run for so many further steps; its learning rates are then those of a run of the whole
    length."""
    budget: Annotated[Duration | None, Common] = None
    """Train a finished run for this much longer, at the speed that it had, instead of a number of steps."""
    micro_batch_size: int | None = None
    """Sequences of a micro-batch, where memory is less than before; the tokens of an update and the order of the data
    stay the same."""


@dataclass(frozen=True)
class RunsConfig:
    """A folder whose runs are listed.

    Examples:
        >>> from lavra.config.runs import RunsConfig
        >>> str(RunsConfig().root)
        'runs'
    """

    root: Annotated[tyro.conf.Positional[Path], shown(metavar="[ROOT]")] = Path("runs")
    """The folder that holds the runs, directly or up to two levels below."""


@dataclass(frozen=True)
class ShowRunConfig:
    """A run to show.

    Examples:
        >>> from pathlib import Path
        >>> from lavra.config.runs import ShowRunConfig
        >>> ShowRunConfig(Path("runs/book")).all
        False
    """

    run: Annotated[tyro.conf.Positional[Path], shown(metavar="RUN")]
    """The folder of the run."""
    all: bool = False
    """Show every setting and figure, under the names that the files give them."""


@dataclass(frozen=True)
class RemoveRunsConfig:
    """Runs to remove.

    Examples:
        >>> from pathlib import Path
        >>> from lavra.config.runs import RemoveRunsConfig
        >>> RemoveRunsConfig((Path("runs/first"),)).force
        False
    """

    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], shown(metavar="RUN…")]
    """The folders of the runs to remove."""
    force: bool = False
    """Also remove runs that hold a trained model."""


@dataclass(frozen=True)
class ReportConfig:
    """A run whose page is written.

    Examples:
        >>> from pathlib import Path
        >>> from lavra.config.runs import ReportConfig
        >>> ReportConfig(Path("runs/book")).out is None
        True
    """

    run: Annotated[tyro.conf.Positional[Path], shown(metavar="RUN")]
    """The folder of the run, which may still be training or have crashed."""
    out: Annotated[Path | None, shown(metavar="FILE")] = None
    """The HTML file to write; report.html in the run's folder by default."""
    force: bool = False
    """Replace the file of --out."""


@dataclass(frozen=True)
class CompareConfig:
    """Runs to set side by side.

    Examples:
        >>> from pathlib import Path
        >>> from lavra.config.runs import CompareConfig
        >>> CompareConfig((Path("runs/first"), Path("runs/second"))).html is None
        True
    """

    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], shown(metavar="RUN RUN…")]
    """The folders of two or more runs; the first is the baseline."""
    html: Annotated[Path | None, shown(metavar="FILE")] = None
    """Also write the comparison as an HTML page, with the curves in one plot, into this file."""
    force: bool = False
    """Replace the file of --html."""

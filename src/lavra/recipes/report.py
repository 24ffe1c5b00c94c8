"""The page of a run, written by itself at the end of a training, however that ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lavra.core.progress import say
from lavra.core.run_folder import RunFolder


@contextmanager
def page_at_the_end(run: RunFolder) -> Iterator[None]:
    """Write the run's `report.html` when the block ends, also when it ends in an error.

    A page that cannot be written is a warning: it can be made again at any time, and never costs a run.
    """
    try:
        yield
    finally:
        _write(run)


def _write(run: RunFolder) -> None:
    try:
        from lavra.reports.run_page import write_page

        write_page(run)
    except Exception as error:
        text = f"warning: the report could not be written: {type(error).__name__}: {error}"
        say(f"{text}; `lavra report {run.path}` tries again")
        try:
            run.log(text)
        except OSError:
            return  # a full disk, which has been told

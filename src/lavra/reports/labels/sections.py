"""The sections of the page of a run about the labels that it predicted, in their order."""

from __future__ import annotations

from lavra.reports.labels.classes import classes_section
from lavra.reports.labels.confusion import confusion_section
from lavra.reports.labels.errors import errors_section
from lavra.reports.labels.learning_curve import learning_curve_section
from lavra.reports.labels.regression import regression_section
from lavra.reports.labels.reliability import reliability_section
from lavra.reports.labels.words import words_section
from lavra.reports.page import Section
from lavra.reports.run_files import RunFiles


def label_sections(run: RunFiles) -> list[Section]:
    """Return the sections about the labels that a run predicted; none for a run that predicts no labels.

    Args:
        run: Record of the run.
    """
    record = run.labels
    about = [learning_curve_section(run.result), words_section(run.words, record)]
    if record is None:
        return about
    made = (confusion_section, classes_section, regression_section, reliability_section, errors_section)
    sections = [make(record) for make in made]
    return [*sections, about[1], about[0]]

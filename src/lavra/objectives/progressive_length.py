"""Progressive length: texts are cut short at the beginning of a run, and grow to their whole length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from lavra.core.errors import InputError
from lavra.objectives.base import MEASURED
from lavra.objectives.random_crop import cropped, from_the_beginning
from lavra.objectives.wrapping import Wrapper

if TYPE_CHECKING:
    from lavra.core.seeds import Streams
    from lavra.models.protocols import Batch

_STEP = 8
"""Lengths are multiples of this many tokens, so that few different shapes occur."""

_FIRST_SHARE = 1 / 8
"""Length at the beginning, as a share of the whole."""


@dataclass(frozen=True, eq=False)
class ProgressiveLength(Wrapper):
    """Reads the beginning of each long text while a run is young (sequence length warm-up, Li et al. 2021, 2108.06084).

    The length grows linearly from an eighth of the longest text to the whole of it. The rows of a step stay the same,
    so that a step has the same number of texts and fewer tokens, and the schedule goes on by texts. Special tokens at
    both ends are kept; pairs of texts, and texts with special tokens in their middle, are left whole.

    Attributes:
        special: (vocabulary,) bool; the tokens that are no text.
        whole: Tokens of the longest text.
        over: Share of the run after which texts are whole, from 0 to below 1; 0 is the objective inside, to the bit.

    Raises:
        InputError: If the share is out of range.
    """

    special: np.ndarray = field(repr=False)
    whole: int
    over: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.over < 1:
            raise InputError(f"texts that grow over {self.over:g} of a run are not possible", "choose 0 to below 1")

    def length_at(self, progress: float) -> int:
        """Return the longest text in tokens at a moment of the run.

        Args:
            progress: Share of the run that is done, from 0 to 1.

        Examples:
            >>> objective = ProgressiveLength(None, None, whole=512, over=0.5)
            >>> [objective.length_at(progress) for progress in (0.0, 0.25, 0.499, 0.5)]
            [64, 288, 504, 512]
        """
        if progress >= self.over:
            return self.whole
        share = _FIRST_SHARE + (1.0 - _FIRST_SHARE) * progress / self.over
        return max(_STEP, int(share * self.whole) // _STEP * _STEP)

    def encode(self, rows: Sequence[Any], streams: Streams, progress: float) -> Batch:
        """Return the batch of the texts, cut to the length of this moment.

        Args:
            rows: Rows of texts with `tokens`: sequences of them, or rows with `examples`.
            streams: Passed on.
            progress: Share of the run that is done.
        """
        if progress < min(self.over, MEASURED):
            length = self.length_at(progress)
            rows = [cropped(row, length, self.special, from_the_beginning) for row in rows]
        return self.inner.encode(rows, streams, progress)

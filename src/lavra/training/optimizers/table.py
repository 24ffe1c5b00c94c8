"""The table of optimisers: which weights each one takes, its defaults, and its learning rate relative to AdamW's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from lavra.config.choices import OptimizerName
from lavra.training.optimizers.adafactor import Adafactor
from lavra.training.optimizers.adamw import AdamW, WeightGroups
from lavra.training.optimizers.adamw8bit import AdamW8bit
from lavra.training.optimizers.lion import Lion
from lavra.training.optimizers.muon import Muon
from lavra.training.optimizers.schedule_free import ScheduleFreeAdamW
from lavra.training.optimizers.shampoo import Shampoo
from lavra.training.optimizers.soap import SOAP

Role = Literal["block", "decayed", "plain", "embedding"]
"""What a weight is in a run: `block` is a matrix inside the blocks, `decayed` any other matrix, such as the head,
`plain` a norm, a bias or a gain, and `embedding` a table."""

_ALL: frozenset[Role] = frozenset({"block", "decayed", "plain", "embedding"})
_BLOCKS: frozenset[Role] = frozenset({"block"})

Groups = list[dict[str, Any]]


class Settings(Protocol):
    """What an optimiser is made of, as far as the table reads it; see `OptimizerOptions`, which has more."""

    @property
    def name(self) -> OptimizerName:
        """Name of the optimiser."""
        ...

    @property
    def betas(self) -> tuple[float, float] | None:
        """Decay rates that were asked for; None takes those of the optimiser."""
        ...

    @property
    def eps(self) -> float | None:
        """Constant in the denominator that was asked for; None takes that of the optimiser."""
        ...

    @property
    def momentum(self) -> float:
        """Decay rate of Muon's moving average."""
        ...


@dataclass(frozen=True)
class Method:
    """One optimiser of the table.

    Attributes:
        make: Function from parameter groups and the options of the run to the optimiser.
        takes: Roles of the weights that it updates; AdamW updates the others.
        lr_factor: Its learning rate as a multiple of the rate that AdamW would have in the same run.
        embedding_factor: The same for the rate of embeddings that have one of their own; None is `lr_factor`.
        betas: Its decay rates; None for an optimiser without such ones.
        eps: Its constant against division by zero; None for an optimiser without one.
        smallest: Fewest elements of a weight that it updates; AdamW updates smaller ones.
        averages: Whether the weights that are measured and exported are not those that learn.
    """

    make: Callable[[Groups, Settings], WeightGroups]
    takes: frozenset[Role] = _ALL
    lr_factor: float = 1.0
    embedding_factor: float | None = None
    betas: tuple[float, float] | None = (0.9, 0.95)
    eps: float | None = 1e-10
    smallest: int = 0
    averages: bool = False


_REST = ((0.9, 0.95), 1e-10)
"""Betas and eps of AdamW for the weights that another optimiser leaves."""


def betas_of(options: Settings) -> tuple[float, float]:
    """Return the betas that the options give, or those of the optimiser.

    Args:
        options: Options of the run.
    """
    return options.betas or METHODS[options.name].betas or _REST[0]


def _eps(options: Settings) -> float:
    """Return the eps that the options give, or that of the optimiser."""
    eps = METHODS[options.name].eps if options.eps is None else options.eps
    return _REST[1] if eps is None else eps


METHODS: dict[OptimizerName, Method] = {
    "muon": Method(lambda groups, options: Muon(groups, momentum=options.momentum), takes=_BLOCKS),
    "adamw": Method(lambda groups, options: AdamW(groups, betas=betas_of(options), eps=_eps(options))),
    # "A suitable learning rate for Lion is typically 3-10x smaller than that for AdamW" (arXiv 2302.06675, section 5).
    "lion": Method(
        lambda groups, options: Lion(groups, betas=betas_of(options)), lr_factor=0.2, betas=(0.9, 0.99), eps=None
    ),
    # The rate is relative to the size of the weights, of at least 0.1, so that most weights move as with AdamW; 1e-3 in
    # fine-tuning, where AdamW's rate is 1e-4 here, is that of T5 (arXiv 1910.10683, section 3.1.2). Embeddings of unit
    # variance, which have a rate of their own, have relative steps with AdamW already.
    "adafactor": Method(
        lambda groups, options: Adafactor(groups, eps=_eps(options)),
        lr_factor=10.0,
        embedding_factor=1.0,
        betas=None,
        eps=1e-15,
    ),
    # The best rate of a grid was the same for SOAP and for AdamW (arXiv 2409.11321, section 5).
    "soap": Method(
        lambda groups, options: SOAP(groups, betas=betas_of(options), eps=_eps(options)),
        takes=_BLOCKS,
        betas=(0.95, 0.95),
        eps=1e-8,
    ),
    # A step is as long as Adam's, so that Adam's rates are used again (arXiv 2309.06497, section 2.4).
    "shampoo": Method(
        lambda groups, options: Shampoo(groups, betas=betas_of(options), eps=_eps(options)), takes=_BLOCKS
    ),
    # "Learning rates in the range 1x-10x of schedule based approaches" (the authors' README).
    "schedule-free-adamw": Method(
        lambda groups, options: ScheduleFreeAdamW(groups, betas=betas_of(options), eps=_eps(options)), averages=True
    ),
    # A replacement with the same hyperparameters (arXiv 2110.02861).
    "adamw-8bit": Method(
        lambda groups, options: AdamW8bit(groups, betas=betas_of(options), eps=_eps(options)),
        takes=frozenset({"block", "decayed"}),
        eps=1e-8,
        smallest=4096,
    ),
}
"""The optimisers by name."""


def rest_of(groups: Groups, options: Settings) -> WeightGroups:
    """Return AdamW for the weights that an optimiser of the table leaves.

    Args:
        groups: Parameter groups.
        options: Options of the run. Betas and eps that they give are those of both optimisers.
    """
    betas, eps = _REST
    return AdamW(groups, betas=options.betas or betas, eps=eps if options.eps is None else options.eps)

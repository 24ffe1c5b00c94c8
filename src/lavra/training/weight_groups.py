"""What optimisers have in common: groups of weights with settings, and a state for each weight."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch


class WeightGroups(ABC):
    """The interface of `torch.optim.Optimizer`, without the compiler that its first use imports, which takes a second.

    Args:
        groups: mappings with `params` and what differs from the defaults, or weights that share the defaults.
        defaults: settings of all groups, such as `lr`.

    Attributes:
        param_groups: the groups, each with its weights as `params` and all its settings.
        state: tensors by name, by weight.
    """

    def __init__(self, groups: Iterable[Any], **defaults: Any) -> None:
        given = list(groups)
        if given and isinstance(given[0], torch.Tensor):
            given = [{"params": given}]
        self.param_groups: list[dict[str, Any]] = [
            {**defaults, **group, "params": list(group["params"])} for group in given
        ]
        self.state: defaultdict[torch.Tensor, dict[str, torch.Tensor]] = defaultdict(dict)

    @abstractmethod
    def step(self) -> None:
        """Update every weight that has a gradient."""

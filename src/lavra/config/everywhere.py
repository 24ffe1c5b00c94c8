"""The options that every command has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from lavra.config.flags import shown


@dataclass(frozen=True)
class EverywhereConfig:
    """The options that every command has.

    Examples:
        >>> from lavra.config.everywhere import EverywhereConfig
        >>> EverywhereConfig(json=True).quiet
        False
    """

    recipe: Annotated[Path | None, shown(metavar="FILE.toml")] = None
    """Read the values of the options from this TOML file; flags override them."""
    json: bool = False
    """Print the result as one JSON object on standard output."""
    quiet: bool = False
    """Print no progress, notes or next steps."""

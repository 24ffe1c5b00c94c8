"""Keeping `transformers` from writing on the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quietly() -> Iterator[None]:
    """Let `transformers` show neither bars nor warnings during the block; errors are still raised.

    Nor does `torchao`, which `transformers` imports where it is installed, and which tells of others' kernels.
    """
    import logging as standard

    standard.getLogger("torchao").setLevel(standard.ERROR)
    standard.getLogger("torch.utils._pytree").setLevel(standard.ERROR)
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()

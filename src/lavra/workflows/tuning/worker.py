"""The process that trains a part of one trial: it reads what to do from standard input, and writes the outcome."""

from __future__ import annotations

import json
import sys

from lavra.config.training import TrainConfig
from lavra.core.configuration import from_table
from lavra.core.disk.json_lines import one_line
from lavra.core.errors import Interrupted, LavraError
from lavra.core.machine import is_out_of_memory
from lavra.core.progress import set_quiet


def main() -> int:
    """Train what standard input asks for; the exit code is 0 also for a trial that failed."""
    from lavra.workflows.tuning.trial import advance

    set_quiet(True)
    asked = json.load(sys.stdin)
    config = from_table(TrainConfig, asked.pop("config"), "the request of the trial")
    try:
        found = advance(config, asked.pop("share"), **asked).to_json()
    except Interrupted as stop:
        return stop.exit_code
    except LavraError as error:
        found = {"failed": error.message}
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        found = {"failed": "out of memory"}
    print(one_line(found), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

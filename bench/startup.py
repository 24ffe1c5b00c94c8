"""How long the command line takes to answer, as a ratio to `python -c pass` on the same machine.

Usage: python bench/startup.py [--json]; prints medians of seven runs, and exits 1 when a limit is passed.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time

LIMITS = {"lavra --help": 0.3, "lavra train --help": 1.0, "lavra runs --help": 1.0}
RUNS = 7


def seconds(command: list[str]) -> float:
    """Return the median wall-clock time of a command, after one run that fills the caches."""
    times = []
    for _ in range(RUNS + 1):
        start = time.perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, check=True)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def main() -> int:
    commands = {"python -c pass": [sys.executable, "-c", "pass"]}
    commands |= {name: [sys.executable, "-m", *name.split()] for name in LIMITS}
    measured = {name: seconds(command) for name, command in commands.items()}
    base = measured["python -c pass"]
    rows = [
        {"command": name, "seconds": round(value, 4), "ratio": round(value / base, 1), "limit": LIMITS.get(name)}
        for name, value in measured.items()
    ]
    if "--json" in sys.argv:
        print(json.dumps({"runs": RUNS, "startup": rows}))
    else:
        print(f"{'command':<20}  {'seconds':>8}  {'ratio':>6}  {'limit':>6}   (medians of {RUNS})")
        for row in rows:
            print(f"{row['command']:<20}  {row['seconds']:>8.3f}  {row['ratio']:>6.1f}  {row['limit'] or '':>6}")
    return int(any(row["limit"] is not None and row["seconds"] > row["limit"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())

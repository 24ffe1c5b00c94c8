"""`python -m lavra` is `lavra`."""

import sys

from lavra.cli.main import main

if __name__ == "__main__":
    sys.exit(main())

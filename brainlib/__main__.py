"""`python -m brainlib`: the commands of `cli`."""

import sys

from brainlib.cli import main

if __name__ == "__main__":
    sys.exit(main())

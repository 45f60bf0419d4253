"""`python -m scripts.release`."""

import sys

from scripts import command, release

sys.exit(command.run(release.main))

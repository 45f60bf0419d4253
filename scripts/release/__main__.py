"""`python -m scripts.release`."""

from scripts import command, release

command.run(release.main)

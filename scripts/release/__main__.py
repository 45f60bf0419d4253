"""`python -m scripts.release`: the released files of the trainings in model/, measured."""

import json
import sys

from scripts import command, release


def main() -> None:
    """Make the release and print what it measured of the files and the maps."""
    parser = command.project_parser(__doc__)
    parser.add_argument("--pictures", type=int, default=200, help="to be spoilt, for robustness")
    parser.add_argument("--healthy-scan", default="", help="a scan without tumour, file or folder")
    settings = release.ReleaseSettings(**command.settings(parser.parse_args()))
    document = release.make_release(settings)
    print(json.dumps({name: document[name] for name in ("release", "maps")}, indent=2))


if __name__ == "__main__":
    sys.exit(command.run(main))

"""`python -m scripts.ablation recipe` and `unknown`: short trainings, into model/."""

import argparse
import json
import os
import sys

from scripts import ablation, command


def main() -> None:
    """Study the parts of the recipe, or a kind of tumour that was never trained on."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    recipe = commands.add_parser("recipe", help="what each part of the recipe brings")
    unknown = commands.add_parser("unknown", help="a kind of tumour that was never trained on")
    for one in (recipe, unknown):
        command.add_place(one)
        one.add_argument("--epochs", type=int, default=0, help="0: as the short recipe says")
    recipe.add_argument("--seeds", type=int, default=3, help="trainings of each variant")
    recipe.add_argument("--variants", default="", help="names with commas between; empty: all")
    recipe.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    chosen = parser.parse_args()
    if chosen.command == "recipe":
        ablation.study(ablation.AblationSettings(**command.settings(chosen)))
    else:
        settings = ablation.UnknownSettings(**command.settings(chosen))
        print(json.dumps(ablation.study_unknown(settings)))


if __name__ == "__main__":
    sys.exit(command.run(main))

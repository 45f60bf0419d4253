"""The house: rooms and their arrows, the lock, the released results, what git holds."""

import ast
import re
import subprocess
from graphlib import TopologicalSorter
from importlib import metadata

import pytest

from brainlib import evaluation, paths
from brainlib.notebook import runs

ROOT = paths.project_root()

ARROWS = {
    "data": (),
    "imaging": ("data",),
    "audit": ("data", "imaging"),
    "models": (),
    "training": ("models", "imaging"),
    "evaluation": ("data",),
    "explain": ("models", "imaging"),
    "inference": ("models", "imaging", "evaluation"),
    "report": ("inference", "explain"),
    "plots": (),
    "notebook": ("audit", "training", "report", "plots"),
    "cli": ("notebook",),
    "__main__": ("cli",),
}
"""The rooms, lower ones first, and what each takes from: those, and what these take from."""

MAY_TAKE = {"": set()}
for _room, _below in ARROWS.items():
    MAY_TAKE[_room] = {"", *_below}.union(*(MAY_TAKE[other] for other in _below))


def test_arrows_between_rooms_go_down():
    """Every room takes from those below, no module from itself by a circle, none from `scripts`."""
    rooms = {path.stem for path in (ROOT / "brainlib").glob("[a-z]*") if path.suffix in ("", ".py")}
    assert rooms == {*ARROWS, "paths"} - {"__main__"}
    modules = TopologicalSorter()
    for file in (ROOT / "brainlib").rglob("*.py"):
        parts = file.relative_to(ROOT).with_suffix("").parts
        room = room_of(parts[1:])
        for name in imported_modules(file):
            modules.add(".".join(parts), name, name.rpartition(".")[0])
            first, *rest = name.split(".")
            assert first != "scripts", f"{file} imports {name}"
            if first == "brainlib":
                other = room_of(rest)
                assert other in (room, *MAY_TAKE[room]), f"{file} imports {name}"
    modules.prepare()  # raises where they import each other in a circle, and names it


def room_of(parts):
    """Return the room of a module, `""` for the package itself and for `paths`."""
    return parts[0] if parts and parts[0] in ARROWS else ""


def imported_modules(file):
    """Return the full names of what a file imports, inside functions too."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_the_lock_is_exact_names_no_index_and_holds_every_dependency():
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    assert all(re.match(r"[a-z0-9._-]+==[^\s;]+( ; .+)?$", line) for line in lines)
    names = {re.match(r"[a-z0-9-]+", line.lower())[0] for line in metadata.requires("brainlib")}
    assert names - {"brainlib", "jax"} <= {line.partition("==")[0] for line in lines}


def test_the_released_results_are_of_the_real_data():
    metrics = evaluation.read_metrics(ROOT)
    released = next(iter(metrics["results"]))
    assert metrics["source"] == "kaggle version 1" and not metrics["synthetic"]
    record = runs.read_record(ROOT / "model" / f"{released}_patient0.run.json")
    assert record["source"]["version"] == "1"


def test_make_help_lists_the_targets():
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    for target in ("run", "test", "lab", "reproduce", "pages", "verify", "audit"):
        assert f"make {target} " in shown.stdout


def test_no_file_in_git_is_large_or_an_image_of_the_data_set():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in filter(lambda name: (ROOT / name).is_file(), listed.stdout.splitlines()):
        assert (ROOT / name).stat().st_size < 30_000_000, name
        is_image = re.search(r"\.(png|jpe?g|gif|bmp|tiff?|dcm|nii(\.gz)?|mat)$", name.lower())
        is_known = name == "brainlib/training/colin27.nii.gz"  # under a licence of its own: NOTICE
        assert not is_image or is_known or name.startswith(("figures/", "docs/images/")), name

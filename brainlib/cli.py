"""The commands `brainlib classify`, `app`, `run` and `sweep`.

What a command needs is imported when it runs: `classify` answers in about a second. Relative paths
are taken from the working directory.
"""

import ast
import json
import logging
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from brainlib import __version__
from brainlib.data.sources import describe_sources
from brainlib.paths import BrainlibError, given, needs_extra

if TYPE_CHECKING:
    from brainlib import imaging
    from brainlib.report import Answer, Model

MISTAKE, UNREADABLE, INTERRUPTED = 2, 3, 130
"""Exit statuses: something that the user can mend, an input that could not be read, Ctrl-C."""

_EXHAUSTED = re.compile("bad_alloc|allocate|start new thread")
"""How libraries say that there is no memory, if not by a `MemoryError`."""

app = typer.Typer(
    help="Brain MRI to tumour class, with its uncertainty. Research only, no medical device.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

ModelOption = Annotated[str | None, typer.Option(help="Model file; the released one by default.")]
EngineOption = Annotated[str, typer.Option(help="onnx or keras.")]
PlaneOption = Annotated[str, typer.Option(help="acquired, axial, coronal or sagittal.")]
SourceOption = Annotated[str, typer.Option(help=f"{describe_sources()}.")]
OutputOption = Annotated[str, typer.Option(help="Folder of everything that is written.")]
SchedulerOption = Annotated[str, typer.Option(help="Address of a running dask cluster.")]


def main() -> int:
    """Run a command and return the exit status; user errors are printed in one line."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller; no result may take its number
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115
        getattr(sys, name).reconfigure(errors="backslashreplace")  # names of files are any bytes
    try:
        with needs_extra("notebooks"):
            status = app(standalone_mode=False) or 0
        if status == INTERRUPTED:
            logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # of the cell that was stopped
            limit = " (with --output)" * ("classify" in sys.argv[:2])
            print(f"stopped: enter the same command again to continue{limit}", file=sys.stderr)
        sys.stdout.flush()
        return status
    except Exception as error:
        if hasattr(error, "format_message"):  # of the command line itself
            error.show()
        elif explained := _explained(error):
            print(explained, file=sys.stderr)
        else:
            raise
        return MISTAKE


def _explained(error: Exception) -> str:
    """Return what a user can do about an error; empty for a fault of ours."""
    if isinstance(error, BrainlibError):
        from brainlib.imaging.errors import one_line

        return one_line(str(error))
    if isinstance(error, OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is still to be printed
        return f"{error}: look at the working directory, and at where the output goes"
    is_full = isinstance(error, MemoryError) or _EXHAUSTED.search(str(error))
    return "there is not enough memory: free some, and run it again" if is_full else ""


@app.callback(invoke_without_command=True)
def _print_version(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        print(f"brainlib {__version__}")
        raise typer.Exit


@app.command()
def classify(
    scans: Annotated[list[str], typer.Argument(help="Images, DICOM, NIfTI, or folders of them.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a scan.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print one CSV row a scan.")] = False,
    output: Annotated[str, typer.Option(help="Folder for predictions.csv, studies.csv.")] = "",
    reports: Annotated[bool, typer.Option("--reports", help="Write reports, too.")] = False,
    model: ModelOption = None,
    engine: EngineOption = "onnx",
    plane: PlaneOption = "acquired",
    scheduler: SchedulerOption = "",
) -> int:
    """Classify scans; print one line for each.

    Exit status: 0 if every scan was answered, or refused for what it is; 3 if one could not be
    read; 2 for a mistake in the command, or if scans changed meanwhile; 130 if it was interrupted.
    """
    from brainlib import imaging, inference, report

    if as_json and as_csv:
        raise BrainlibError("--json and --csv exclude each other: choose one")
    if (scheduler or reports) and not output:
        option = "--scheduler" if scheduler else "--reports"
        raise BrainlibError(f"{option} needs a folder for what it writes: name it with --output")
    paths = dict.fromkeys(map(_absolute, scans))
    listed = inference.name_scans(
        scan for path in paths for scan in imaging.list_scans(path, plane)
    )
    if output:  # a folder of scans may be its own output
        reported = Path(output).absolute() / "reports"
        listed = [
            scan
            for scan in listed
            if scan.file.parent != reported or ".outline" not in scan.file.suffixes
        ]
    stamp = inference.stamp_scans(listed)
    loaded = report.load(_absolute(model), engine, plane)
    if output:
        answers = _write_tables(loaded, listed, Path(output).absolute(), scheduler, reports)
        if as_json:  # what the files say of themselves is in no table
            answers = (answer for answer, _ in report.html.read_again(answers, listed, plane))
    else:
        from tqdm import tqdm

        # on a terminal the answers themselves are the progress
        is_quiet = sys.stdout.isatty() or not sys.stderr.isatty()
        bar = tqdm(listed, "classifying", unit=" scans", delay=2, disable=is_quiet)
        answers = loaded.answers(bar)
    status = 0
    for index, answer in enumerate(answers):
        if answer.study["unreadable"]:
            status = UNREADABLE
            if answer.study["unreadable"] < answer.study["slices"]:  # the line names no file
                for file, reason in report.words.left_out(answer.slices)["unreadable"]:
                    print(f"{answer.name}: {file}: {reason}", file=sys.stderr)
        print(_printed(answer, as_json, as_csv, index == 0), end="")
    if inference.stamp_scans(listed) != stamp:
        raise BrainlibError("scans changed while they were classified: run it again")
    if output and not (as_json or as_csv):
        tables = f"tables: {Path(output, 'predictions.csv')}, {Path(output, 'studies.csv')}"
        print(tables + f"; reports: {Path(output, 'reports')}" * reports)
    return status


@app.command("app")
def serve(
    model: ModelOption = None,
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1.")] = 8866,
    browser: Annotated[bool, typer.Option(help="Open the page in a browser.")] = True,
) -> int:
    """Open the app: drop a scan, see the answer."""
    from brainlib import report
    from brainlib.report.app.server import serve as serve_page

    logging.basicConfig(format="%(message)s")
    logging.getLogger("brainlib").setLevel(logging.INFO)
    model = _absolute(model)
    report.load(model)  # a model that the page could not load is an error here
    serve_page(model, port=port, open_browser=browser)
    return 0


@app.command()
def run(
    source: SourceOption = "phantom",
    output: OutputOption = "runs/demo",
    protocol: Annotated[str, typer.Option(help="patient, official or deduplicated.")] = "patient",
    epochs: Annotated[int, typer.Option(min=0, help="0: as the recipe says.")] = 5,
    seed: int = 0,
) -> int:
    """Run the four notebooks on any source; takes minutes."""
    from brainlib.notebook import pipeline

    output = str(Path(output).absolute())
    pipeline.run(pipeline.demo_steps(output, epochs, protocol), _source(source), output, seed)
    print(pipeline.summary(output))
    return 0


@app.command()
def sweep(
    values: Annotated[list[str], typer.Argument(help="NAME=VALUE,VALUE such as fold=0,1,2")],
    model: Annotated[str, typer.Option(help="Name of a model.")] = "lesion_net",
    source: SourceOption = "kaggle",
    output: OutputOption = "runs/sweep",
    seed: int = 0,
    jobs: Annotated[int, typer.Option(help="Trainings at a time.")] = 1,
    scheduler: SchedulerOption = "",
) -> int:
    """Train with each combination of values, and compare on validation images."""
    from brainlib import paths
    from brainlib.notebook import pipeline

    output = str(Path(output).absolute())
    split = (value.partition("=") for value in values)
    swept = {name: list(map(_value, filter(None, text.split(",")))) for name, _, text in split}
    steps = pipeline.sweep_steps(model, swept)
    pipeline.run(steps, _source(source), output, seed, jobs=jobs, scheduler=scheduler)
    table = pipeline.summarise_sweep(steps, output)
    with paths.atomic_write(Path(output) / "sweep.csv") as temporary:
        table.to_csv(temporary, index=False)
    print(table.to_string())
    return 0


def _write_tables(
    model: "Model", scans: "list[imaging.Scan]", output: Path, scheduler: str, reports: bool
) -> "Iterator[Answer]":
    """Write the tables, and reports on request; yield the answers without pixels."""
    from brainlib import inference, paths, report

    classifier = model.classifier
    task = inference.Task(classifier.model, classifier.engine, model.plane)
    folder = output / "reports"
    with paths.locked(output):  # no other run replaces the tables before they are read
        slices, series = inference.classify_scans(scans, output, task, scheduler)
        predictions = inference.read_slice_table(slices)
        studies = inference.read_study_table(series)
        if reports:
            report.write_reports(classifier, scans, predictions, studies, folder, model.plane)
        else:
            report.remove_reports(folder, but_of=studies)
    return report.Answer.of_tables(classifier, predictions, studies)


def _printed(answer: "Answer", as_json: bool, as_csv: bool, is_first: bool) -> str:
    from brainlib.report import words

    if as_json:
        return json.dumps(answer.to_dict()) + "\n"
    if as_csv:
        from brainlib import inference
        from brainlib.imaging.errors import one_line

        rows = inference.to_csv(answer.to_frame(), header=is_first)
        text = rows.decode("utf-8", "surrogateescape")
        if sys.stdout.isatty():  # which would obey the control characters of a name
            text = "".join(f"{one_line(line)}\n" for line in text.splitlines())
        return text
    return words.line(answer) + "\n"


def _absolute(path: str | None) -> str | None:
    return str(given(path)) if path else path  # an empty name is no folder


def _source(name: str) -> str:
    """Return the name of a source, or a folder of the user's as an absolute path."""
    return str(Path(name).absolute()) if Path(name).is_dir() else name


def _value(text: str) -> Any:
    """Read a number as Python writes it, and everything else as text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text

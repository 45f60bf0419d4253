"""Datasheet: its tables and counts are those of the provenance table and the published folds."""

import re

import pandas as pd
import pytest

from brainlib import CLASS_NAMES, paths
from brainlib.data import datasets, kaggle, splits

SOURCES = ("figshare", "sartaj", "br35h_no")
QUOTED = {"1", "2", "4", "233", "2005", "2010", "2020", "2021", "64", "12"}
"""Numbers that are no count of ours: versions, years, and what the sources say of themselves."""


@pytest.fixture(scope="module")
def text():
    return (paths.project_root() / "docs" / "datasheet.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def table():
    table = kaggle.read_provenance()
    folders = table["path"].str.split("/", expand=True)
    folds = splits.read_published_folds().reindex(table["path"]).to_numpy()
    return table.assign(split=folders[0], label=folders[1], fold=folds)


@pytest.fixture(scope="module")
def counts(table):
    """Return every number of the prose, counted, by a name of our own."""
    training, testing = (table[table["split"] == name] for name in ("Training", "Testing"))
    known, slices = table[table["patient"] != ""], table[table["figshare_slice"] != ""]
    tied = pd.DataFrame(
        {
            name: testing[name].isin(set(training[name]) - {""})
            for name in ("source_image", "patient", "group")
        }
    )
    by_patient = slices.drop_duplicates("figshare_slice").groupby("patient").size()
    tumours = table[table["label"] != "notumor"]
    of_source = table["source"].value_counts()
    return {
        "files": len(table),
        "training": len(training),
        "testing": len(testing),
        "slices": table["source_image"].nunique(),
        "copies": len(table) - table["source_image"].nunique(),
        "figshare slices": slices["figshare_slice"].nunique(),
        "unmirrored slices": slices.loc[slices["mirrored"] == "0", "figshare_slice"].nunique(),
        "test copies": int(tied["source_image"].sum()),
        "test without copy": int((~tied["source_image"]).sum()),
        "test known": int((testing["patient"] != "").sum()),
        "patients on both sides": len(set(training["patient"]) & set(testing["patient"]) - {""}),
        "patients": known["patient"].nunique(),
        "free": int((~tied.any(axis="columns")).sum()),
        "least slices": int(by_patient.min()),
        "most slices": int(by_patient.max()),
        "median slices": int(by_patient.median()),
        "mislabelled": len(mislabelled(table)),
        "tumours": len(tumours),
        "tumours elsewhere": int((tumours["source"] != "figshare").sum()),
        "sartaj": int(of_source["sartaj"]),
        "br35h": int(of_source["br35h_no"]),
        "figshare": int(of_source["figshare"]),
        "glioma files": int((table["label"] == "glioma").sum()),
        "glioma patients": known.loc[known["label"] == "glioma", "patient"].nunique(),
        "sartaj notumor": int((table["source"].eq("sartaj") & table["label"].eq("notumor")).sum()),
        "left out": int((table["fold"] < 0).sum()),
    }


def mislabelled(table):
    return table[(table["figshare_label"] != "") & (table["figshare_label"] != table["label"])]


def shown(text, name):
    """Return the rows of one table of the page, its header left out."""
    lines = text.split(f"<!-- table: {name} -->\n")[1].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def written(*cells):
    return [f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in cells]


def class_counts(part):
    return [int((part["label"] == label).sum()) for label in CLASS_NAMES] + [len(part)]


def test_the_splits(text, table):
    parts = {name: table[table["split"] == name] for name in datasets.SPLIT_NAMES} | {"all": table}
    expected = [written(name, *class_counts(part)) for name, part in parts.items()]
    assert shown(text, "splits") == expected


def test_the_classes_of_each_source(text, table):
    expected = []
    for source in SOURCES:
        for label in CLASS_NAMES:
            part = table[(table["source"] == source) & (table["label"] == label)]
            sides = [int((part["split"] == split).sum()) for split in datasets.SPLIT_NAMES]
            if len(part):
                expected.append(written(source, label, *sides, len(part)))
    assert shown(text, "sources") == expected


def test_the_origins(text, table):
    parts = {name: table[table["source"] == name] for name in SOURCES} | {"all": table}
    expected = [
        written(
            name, len(part), part["source_image"].nunique(), patients(part), part["group"].nunique()
        )
        for name, part in parts.items()
    ]  # fmt: skip
    assert shown(text, "origins") == expected


def patients(part):
    return part.loc[part["patient"] != "", "patient"].nunique()


def test_the_known_patients(text, table):
    expected = []
    for label in ("glioma", "meningioma", "pituitary"):
        part = table[table["figshare_label"] == label]
        expected.append(written(label, patients(part), part["figshare_slice"].nunique(), len(part)))
    assert shown(text, "patients") == expected
    assert patients(table[table["label"] == "notumor"]) == 0


def test_the_mislabelled_files(text, table):
    wrong = mislabelled(table)
    expected = [
        [f"`{row.path}`", row.label, row.figshare_label, row.figshare_slice]
        for row in wrong.itertuples()
    ]
    assert shown(text, "mislabelled") == expected
    right = table[table["figshare_label"] == table["label"]]
    assert wrong["figshare_slice"].isin(right["figshare_slice"]).all()


def test_the_folds(text, table):
    used = table[table["fold"] >= 0]
    parts = {str(fold): used[used["fold"] == fold] for fold in range(splits.FOLDS)} | {"all": used}
    expected = [
        written(name, *class_counts(part), patients(part), part["group"].nunique())
        for name, part in parts.items()
    ]
    assert shown(text, "folds") == expected


def test_what_the_folds_promise(table):
    used = table[table["fold"] >= 0]
    assert used["source_image"].is_unique and not len(mislabelled(used))
    assert set(used["source_image"]) == set(table["source_image"])
    assert (used.groupby("group")["fold"].nunique() == 1).all()


def test_each_figshare_slice_is_mirrored_once(table):
    slices = table[table["figshare_slice"] != ""]
    assert (slices[slices["mirrored"] == "1"]["figshare_slice"].value_counts() == 1).all()
    assert slices.loc[slices["mirrored"] == "1", "figshare_slice"].nunique() == 3064


def test_every_test_file_with_a_known_patient_has_that_patient_in_training(table):
    known = table[table["patient"] != ""]
    sides = known.groupby("split")["patient"].agg(set)
    assert sides["Testing"] <= sides["Training"]


def test_no_number_of_the_prose_is_left_unchecked(text, counts):
    prose = re.sub(r"<!-- audit:start -->.*?<!-- audit:end -->", "", text, flags=re.DOTALL)
    prose = re.sub(r"<!-- table: .*?\n\n", "", prose, flags=re.DOTALL)
    prose = re.sub(r"`[^`]*`|\(http\S+\)|10\.6084/\S+|CC BY 4\.0|\bBr35H|\bT1\b|CC0", "", prose)
    numbers = set(re.findall(r"\d[\d,]*\d|\d", prose))
    assert numbers - QUOTED <= {f"{number:,}" for number in counts.values()}

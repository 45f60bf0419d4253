"""Licences of the installed dependencies, those that bind users of the project first."""

from importlib import metadata

COPYLEFT = ("GPL", "General Public", "AGPL")


def licence(distribution: metadata.Distribution) -> str:
    """Return the licence that a package declares, in one line."""
    fields = distribution.metadata
    declared = fields.get("License-Expression") or ""
    classifiers = [
        name.rsplit(" :: ", 1)[-1]
        for name in fields.get_all("Classifier", [])
        if name.startswith("License ::")
    ]
    text = declared or ", ".join(classifiers) or fields.get("License") or "not declared"
    return text.splitlines()[0][:80]


def main() -> None:
    """Print name, version and licence of every installed package."""
    rows = sorted(
        (not any(word in licence(one) for word in COPYLEFT), one.name, one.version, licence(one))
        for one in metadata.distributions()
    )
    for _, name, version, declared in rows:
        print(f"{name:32} {version:16} {declared}")


if __name__ == "__main__":
    main()

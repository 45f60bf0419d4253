"""Build step: the files of the released model become part of the package."""

import re
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithModel(build_py):
    """Copy what classifying needs from `model/` to `brainlib/released/` of the wheel."""

    def run(self) -> None:
        """Build, then copy; an editable install finds the checkout's own files."""
        super().run()
        if self.editable_mode:
            return
        source = Path("brainlib/paths.py").read_text(encoding="utf-8")
        stem = re.search(r'RELEASED_MODEL = "(.+)\.keras"', source)[1]
        target = Path(self.build_lib) / "brainlib" / "released"
        self.mkpath(str(target))
        for suffix in (".onnx", ".gate.npz", ".rules.json", ".release.json"):
            file = Path("model") / f"{stem}{suffix}"
            if file.is_file():
                self.copy_file(str(file), str(target / file.name))


setup(cmdclass={"build_py": BuildWithModel})

"""Faults on purpose: a wrong answer never passes for a right one."""

import pytest

from brainlib.models import manifest


def flip_bit(file, place=0.5, bit=0):
    content = bytearray(file.read_bytes())
    content[int(place * (len(content) - 1))] ^= 1 << bit
    file.write_bytes(content)


@pytest.fixture
def released(tmp_path):
    """Write files of a model whose name has dots, with their manifest."""
    files = [tmp_path / f"my.net{suffix}" for suffix in (".keras", ".onnx", ".gate.npz")]
    for file in files:
        file.write_bytes(file.name.encode())
    manifest.write_manifest(files[0], files)
    return files


def test_changed_missing_and_unlisted_files_of_a_release_are_refused(released):
    for file in released:
        assert manifest.read_file(file) == file.name.encode()
    flip_bit(released[1])
    with pytest.raises(manifest.ManifestError, match=r"my\.net\.onnx is not the released file"):
        manifest.read_file(released[1])
    released[2].unlink()
    with pytest.raises(manifest.ManifestError, match=r"gate\.npz is missing.*fetch"):
        manifest.read_file(released[2])
    foreign = released[0].with_suffix(".rules.json")
    with pytest.raises(manifest.ManifestError, match="not listed"):
        manifest.check_file(foreign, b"")


def test_a_damaged_manifest_is_refused_and_without_one_files_pass(released):
    own = released[0].with_name("own.onnx")
    own.write_bytes(b"mine")
    assert manifest.read_file(own) == b"mine"
    assert manifest.read_file(own.with_suffix(".gate.npz")) is None
    path = released[0].with_suffix(manifest.SUFFIX)
    for damaged in (b"", b"[]", b'{"files": 3}', b"{", b"\xff"):
        path.write_bytes(damaged)
        with pytest.raises(manifest.ManifestError, match="cannot be read as a release manifest"):
            manifest.read_file(released[0])

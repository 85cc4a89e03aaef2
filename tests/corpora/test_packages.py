"""Debian packages: commands, licences, and Qt's resource archives, all made by hand."""

import zlib
from pathlib import Path

import pytest

from glap_jax.corpora import packages
from glap_jax.errors import GlapError

COPYRIGHT = """Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: *
Copyright: 2016 A
License: MIT

Files:
 etc/samples/loop_*.flac
 etc/samples/kick.flac
Copyright: B
License: CC0
 Do what you want.

License: CC0
 The text.
"""


@pytest.mark.parametrize(
    ("file", "named"),
    [("etc/samples/loop_a.flac", "CC0"), ("etc/samples/kick.flac", "CC0"), ("etc/other.flac", "MIT")],
)
def test_the_last_pattern_that_matches_tells_the_licence(tmp_path, file, named):
    (tmp_path / "copyright").write_text(COPYRIGHT)
    assert packages.licence(tmp_path / "copyright", file) == named


def test_a_file_that_no_pattern_names_says_so(tmp_path):
    (tmp_path / "copyright").write_text("Files: a/*\nLicense: MIT\n")
    assert packages.licence(tmp_path / "copyright", "b/c") == "not told apart in the package's copyright file"
    with pytest.raises(GlapError, match="unpack the package again"):
        packages.licence(tmp_path / "none", "b/c")


def _archive(files: dict[str, bytes], *, version: int, compressed: bool) -> bytes:
    """A resource archive of one folder `top` with files in it."""
    names, data, tree = b"", b"", b""
    stamp = bytes(8) if version > 1 else b""

    def name(text: str) -> int:
        nonlocal names
        at = len(names)
        names += len(text).to_bytes(2, "big") + bytes(4) + text.encode("utf-16-be")
        return at

    def folder(at: int, count: int, first: int) -> bytes:
        fields = at.to_bytes(4, "big") + (2).to_bytes(2, "big")
        return fields + count.to_bytes(4, "big") + first.to_bytes(4, "big") + stamp

    tree += folder(0, 1, 1) + folder(name("top"), len(files), 2)
    for text, content in files.items():
        stored = len(content).to_bytes(4, "big") + zlib.compress(content) if compressed else content
        fields = name(text).to_bytes(4, "big") + int(compressed).to_bytes(2, "big") + bytes(4)
        tree += fields + len(data).to_bytes(4, "big") + stamp
        data += len(stored).to_bytes(4, "big") + stored
    start = 20 if version < 3 else 24
    offsets = (version, start, start + len(tree), start + len(tree) + len(data))
    head = b"qres" + b"".join(each.to_bytes(4, "big") for each in offsets)
    return head.ljust(start, b"\0") + tree + data + names


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("compressed", [False, True])
def test_resource_archives_give_their_files(version, compressed):
    files = {"a.wav": b"first" * 9, "é.ogg": b"second"}
    archive = packages.ResourceArchive(_archive(files, version=version, compressed=compressed))
    for name, content in files.items():
        assert archive.read(f"top/{name}") == content
    for absent in ("top/b.wav", "a.wav", "top/a.wav/b"):
        with pytest.raises(KeyError):
            archive.read(absent)


@pytest.mark.parametrize("data", [b"", b"zip!", b"qres\0\0\0\x09" + bytes(16)])
def test_what_is_no_resource_archive_is_an_error(data):
    with pytest.raises(GlapError, match="no Qt resource archive"):
        packages.ResourceArchive(data)


def test_not_debian_and_failed_commands_are_one_line_errors(tmp_path):
    with pytest.raises(GlapError, match="needs Debian"):
        packages.run(["no-such-program-here"], tmp_path)
    with pytest.raises(GlapError, match="failed: boom") as caught:
        packages.run(["sh", "-c", "echo boom >&2; exit 1"], tmp_path)
    assert "\n" not in str(caught.value)


def test_only_what_is_missing_is_fetched(tmp_path, monkeypatch):
    asked = []

    def run(command, folder):
        asked.append(command[:2])
        if command[0] == "apt-get":
            (folder / "one_1.0_all.deb").touch()
        if command[0] == "dpkg":
            assert (folder / command[2]).is_file()
            (folder / "one").mkdir()
        return "1.0\n"

    monkeypatch.setattr(packages, "run", run)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "two").mkdir()
    for _ in range(2):
        packages.fetch(("one", "two"), Path())
    assert asked == [["apt-get", "download"], ["dpkg", "-x"], ["dpkg-deb", "-f"]]
    assert (tmp_path / "one/VERSION").read_text() == "1.0\n"
    assert {path.name for path in tmp_path.iterdir()} == {"one", "two"}

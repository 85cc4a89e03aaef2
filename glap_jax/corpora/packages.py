"""Debian packages as corpora: fetched and unpacked but not installed; Qt's resource archives; licences."""

import dataclasses
import functools
import re
import shutil
import subprocess
import tempfile
import zlib
from collections.abc import Sequence
from fnmatch import fnmatchcase as fnmatch
from pathlib import Path

from glap_jax.errors import GlapError
from glap_jax.progress import track

# Flags of a node of a Qt resource tree.
_COMPRESSED, _FOLDER = 1, 2


def run(command: Sequence[str], folder: Path) -> str:
    """Runs a command in `folder` and returns its output; a failure is a GlapError with its last line."""
    if shutil.which(command[0]) is None:
        raise GlapError(f"{command[0]} is missing: this recipe needs Debian or Ubuntu (a container will do)")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise GlapError(f"`{' '.join(command)}` failed: {reason}; try `apt-get update` and check the network")
    return done.stdout


def fetch(packages: Sequence[str], folder: Path) -> None:
    """Downloads and unpacks the packages that `folder` lacks into one folder each, with a file VERSION."""
    missing = [package for package in packages if not (folder / package).is_dir()]
    for package in track(missing, "downloading packages") if missing else ():
        with tempfile.TemporaryDirectory(dir=folder, prefix=".partial-") as name:
            scratch = Path(name).resolve()
            run(["apt-get", "download", package], scratch)
            archive = next(scratch.glob(f"{package}_*.deb"))
            run(["dpkg", "-x", str(archive), package], scratch)
            (scratch / package / "VERSION").write_text(
                run(["dpkg-deb", "-f", str(archive), "Version"], scratch)
            )
            (scratch / package).replace(folder / package)


@functools.cache
def licences(copyright: Path) -> tuple[tuple[tuple[str, ...], str], ...]:
    """The file patterns of a machine-readable Debian copyright file, each with its licence, in order.

    Raises:
        GlapError: no such file.
    """
    if not copyright.is_file():
        raise GlapError(f"there is no '{copyright}'; unpack the package again")
    found = []
    for paragraph in re.split(r"\n\s*\n", copyright.read_text(encoding="utf-8", errors="replace")):
        fields = dict(re.findall(r"^(Files|License):((?:.*\n?)(?:[ \t].*\n?)*)", paragraph, re.MULTILINE))
        if len(fields) == 2:
            found.append((tuple(fields["Files"].split()), fields["License"].strip().splitlines()[0]))
    return tuple(found)


def licence(copyright: Path, file: str) -> str:
    """What a Debian copyright file says of a source file: the last pattern that matches counts."""
    named = [name for patterns, name in licences(copyright) if any(fnmatch(file, each) for each in patterns)]
    return named[-1] if named else "not told apart in the package's copyright file"


@dataclasses.dataclass(frozen=True)
class ResourceArchive:
    """A Qt resource archive (.rcc), format 1 to 3, whose files are stored or zlib-compressed.

    Raises:
        GlapError: no such archive.
    """

    data: bytes

    def __post_init__(self) -> None:
        if self.data[:4] != b"qres" or not 1 <= self._number(4) <= 3:
            raise GlapError("this is no Qt resource archive of format 1 to 3; use the listed package version")

    def read(self, path: str) -> bytes:
        """The file at a path such as `gcompris/src/a.wav`.

        Raises:
            KeyError: no such file.
        """
        node = 0
        for part in path.split("/"):
            first, count = self._children(node)
            node = next((each for each in range(first, first + count) if self._name(each) == part), None)
            if node is None:
                raise KeyError(path)
        at = self._number(12) + self._number(self._node(node) + 10)
        content = self.data[at + 4 : at + 4 + self._number(at)]
        # A compressed file begins with its length.
        return zlib.decompress(content[4:]) if self._flags(node) & _COMPRESSED else content

    def _number(self, at: int, size: int = 4) -> int:
        return int.from_bytes(self.data[at : at + size], "big")

    def _node(self, node: int) -> int:
        return self._number(8) + node * (14 if self._number(4) == 1 else 22)

    def _flags(self, node: int) -> int:
        return self._number(self._node(node) + 4, 2)

    def _children(self, node: int) -> tuple[int, int]:
        if not self._flags(node) & _FOLDER:
            return 0, 0
        return self._number(self._node(node) + 10), self._number(self._node(node) + 6)

    def _name(self, node: int) -> str:
        at = self._number(16) + self._number(self._node(node))
        return self.data[at + 6 : at + 6 + 2 * self._number(at, 2)].decode("utf-16-be")

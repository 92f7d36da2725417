"""Asterisk 22 for machines whose distribution has none: a Debian sid tree, built once and kept in a cache.

Nothing is installed on the host and nothing runs in a chroot: the tree's own dynamic loader starts its
Asterisk with the tree's own libraries (see `Tree.command`), so that root is needed for nothing.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

PACKAGES = ("asterisk", "asterisk-core-sounds-en-gsm", "ca-certificates")
WANTED_SOUNDS = ("hello-world", "vm-press", "beep", "silence/1")
_COMPLETE = "lab-tree-complete"


class CannotBuild(Exception):
    """The tree is not there and cannot be made here; the text says why."""


@dataclass(frozen=True)
class Tree:
    """A directory that holds an unpacked Debian with Asterisk in it."""

    path: Path

    @property
    def library_path(self) -> Path:
        """Debian's multiarch directory; its name depends on the machine, hence the search."""
        return _only(self.path, "usr/lib/*-linux-gnu*/libc.so.6").parent

    @property
    def modules(self) -> Path:
        return _only(self.path, "usr/lib/*-linux-gnu*/asterisk/modules")

    @property
    def data(self) -> Path:
        return self.path / "usr/share/asterisk"

    @property
    def sounds(self) -> Path:
        """English sounds; Debian's `en` is an absolute link, useless outside a chroot."""
        return _only(self.path, "usr/share/asterisk/sounds/*/hello-world.gsm").parent

    def command(self) -> list[str]:
        """The start of an Asterisk command line."""
        loader = _only(self.library_path, "ld*.so.[0-9]*")
        return [str(loader), "--library-path", str(self.library_path), str(self.path / "usr/sbin/asterisk")]

    def version(self) -> str:
        done = subprocess.run([*self.command(), "-V"], capture_output=True, text=True, timeout=20, check=True)
        return done.stdout.strip().removeprefix("Asterisk ")


def _only(root: Path, pattern: str) -> Path:
    found = sorted(path for path in root.glob(pattern) if not path.is_dir() or not path.is_symlink())
    if not found:
        raise CannotBuild(f"{root} has no {pattern}")
    return found[0]


def cache_directory() -> Path:
    """Outside the checkout, so that a clean of the checkout does not cost a download."""
    own = os.environ.get("DIALER_LAB_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dialer-engine-lab"


def tree() -> Tree:
    """The tree, built now if it has not been built before; raises `CannotBuild`."""
    cache = cache_directory()
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CannotBuild(f"cannot write the cache directory {cache}: {error}") from error
    place = cache / "sid"
    if (place / _COMPLETE).exists():
        return Tree(place)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several runs may want it at once: one builds, the others wait
        if not (place / _COMPLETE).exists():
            _build(cache, place)
    return Tree(place)


def _build(cache: Path, place: Path) -> None:
    tool = _mmdebstrap()
    with tempfile.TemporaryDirectory(prefix="building-", dir=cache) as scratch:
        unpacked = Path(scratch) / "tree"
        done = subprocess.run(
            [
                tool,
                "--variant=apt",
                # A mirror that lags has a Release file past its date; the signature still counts.
                '--aptopt=Acquire::Check-Valid-Until "false"',
                "--include=" + ",".join(PACKAGES),
                "sid",
                str(unpacked),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise CannotBuild("mmdebstrap failed: " + " / ".join(done.stderr.strip().splitlines()[-5:]))
        shutil.copyfile("/etc/hosts", unpacked / "etc/hosts")  # for whoever enters it by chroot
        _verify(Tree(unpacked))
        (unpacked / _COMPLETE).write_text(Tree(unpacked).version() + "\n")
        if place.exists():
            shutil.rmtree(place)
        unpacked.rename(place)


def _verify(built: Tree) -> None:
    """A tree that lacks a sound would fail tests far from the cause; better here."""
    try:
        built.version()
    except (OSError, subprocess.SubprocessError) as error:
        raise CannotBuild(f"the Asterisk of the new tree does not start: {error}") from error
    for sound in WANTED_SOUNDS:
        if not (built.sounds / f"{sound}.gsm").exists():
            raise CannotBuild(f"the new tree lacks the sound {sound}")


def _mmdebstrap() -> str:
    tool = shutil.which("mmdebstrap")
    if tool is None and os.geteuid() == 0 and shutil.which("apt-get"):
        for command in (["apt-get", "update", "-q"], ["apt-get", "install", "-q", "-y", "mmdebstrap"]):
            subprocess.run(command, capture_output=True, check=False)
        tool = shutil.which("mmdebstrap")
    if tool is None:
        raise CannotBuild("mmdebstrap is not installed (Debian and Ubuntu: apt-get install mmdebstrap)")
    return tool


def main() -> int:
    try:
        print(tree().path)
    except CannotBuild as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

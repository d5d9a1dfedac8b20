"""Install learn2learn 0.2.0 into the running Python, for the parity tests.

Its only release is a source archive whose C files an old Cython generated: a plain
``pip install`` fails on Python 3.11 and newer. Here the C is generated afresh, and only what it
imports at run time is installed beside it (not qpth and gsutil, which it merely declares and which
would pull numpy back to 1.26). Run it again and it does nothing.

Usage: .venv/bin/python tools/build_learn2learn.py [learn2learn-0.2.0.tar.gz]
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from pathlib import Path

RELEASE = "learn2learn==0.2.0"
TO_BUILD = ("setuptools", "wheel", "cython")
TO_RUN = ("gym", "scipy", "requests")


def main() -> None:
    if installed():
        print(f"{RELEASE} is there already")
        return
    refuse_without_compiler()
    pip("install", *TO_BUILD, *TO_RUN)
    with tempfile.TemporaryDirectory() as folder:
        if len(sys.argv) > 1:
            archive = Path(sys.argv[1])
        else:
            pip(
                "download", "--no-deps", "--no-binary", ":all:", "--no-build-isolation",
                "--dest", folder, RELEASE,
            )  # fmt: skip
            archive = next(Path(folder).glob("learn2learn-*.tar.gz"))
        with tarfile.open(archive) as packed:
            packed.extractall(folder, filter="data")
        source = next(path for path in Path(folder).glob("learn2learn-*") if path.is_dir())
        for stale in (source / "learn2learn").rglob("*.pyx"):
            stale.with_suffix(".c").unlink(missing_ok=True)
        run("setup.py", "build_ext", "--inplace", cwd=source)
        pip("install", "--no-deps", "--no-build-isolation", ".", cwd=source)
    if not installed():
        sys.exit(f"{RELEASE} was built, but cannot be imported: python -c 'import learn2learn'")
    print(f"{RELEASE} built and installed")


def installed() -> bool:
    """Whether the release can be imported, asked of a fresh interpreter."""
    code = f"import learn2learn; assert learn2learn.__version__ == {RELEASE.split('==')[1]!r}"
    # from elsewhere: the current folder is on the path of -c
    asked = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, cwd=tempfile.gettempdir()
    )
    return asked.returncode == 0


def refuse_without_compiler() -> None:
    """Stop with a remedy where C cannot be compiled, before anything is downloaded."""
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[0]
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if shutil.which(compiler) is None:
        missing = f"no C compiler ({compiler} is not on PATH)"
    elif not header.is_file():
        missing = f"no Python headers ({header} is missing)"
    else:
        return
    sys.exit(
        f"{RELEASE}, which `make test` compares MetaFace with, must be compiled, and there is "
        f"{missing}.\nInstall them (Debian, Ubuntu: apt install gcc python3-dev; Fedora: dnf "
        "install gcc python3-devel; macOS: xcode-select --install), or run the tests without "
        "these comparisons: .venv/bin/python -m pytest -m 'not slow'"
    )


def pip(*arguments: str, cwd: Path | None = None) -> None:
    run("-m", "pip", "--disable-pip-version-check", *arguments, cwd=cwd)


def run(*arguments: str, cwd: Path | None = None) -> None:
    """Run this Python; on failure show all it said, and stop."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"{done.stdout}\n`python {' '.join(arguments)}` failed: {RELEASE} is not built")


if __name__ == "__main__":
    main()

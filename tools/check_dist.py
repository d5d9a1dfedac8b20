"""Install the built wheel and sdist on each Python in bare environments, and run the smoke test.

    python tools/check_dist.py dist/ [VERSION ...]     default: 3.10 3.12 3.13

A Python is looked for on PATH and among pyenv's. One that is missing is named at the end, and the
exit status is 3 then. What the packages depend on comes from pip's cache, or else from its index.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

VERSIONS = ("3.10", "3.12", "3.13")
SMOKE_TEST = Path(__file__).with_name("smoke_test.py").resolve()


def find_python(version: str) -> Path | None:
    """The interpreter of a version such as 3.12, or None."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [shutil.which(f"python{version}")]
    candidates += map(str, sorted(pyenv.glob(f"{version}.*/bin/python"), reverse=True))
    show = "import sys; print('%d.%d' % sys.version_info[:2])"
    for name in filter(None, candidates):
        done = subprocess.run([name, "-c", show], capture_output=True, text=True)
        if done.returncode == 0 and done.stdout.strip() == version:
            return Path(name)
    return None


def check(package: Path, python: Path) -> None:
    """Install one file in a new environment and run the smoke test there; fails loudly."""
    start = time.monotonic()
    own = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "bin" / "python"
        subprocess.run([python, "-m", "venv", folder], check=True, cwd=folder, env=own)
        install = [made, "-m", "pip", "install", "--progress-bar", "off", package]
        subprocess.run(install, check=True, cwd=folder, env=own)
        installed = time.monotonic()
        subprocess.run([made, "-I", SMOKE_TEST], check=True, cwd=folder, env=own)
    tested = time.monotonic() - installed
    print(f"{package.name}: installed in {installed - start:.0f} s, tested in {tested:.0f} s")


def main() -> None:
    folder, *versions = sys.argv[1:]
    packages = [*Path(folder).resolve().glob("*.whl"), *Path(folder).resolve().glob("*.tar.gz")]
    if len(packages) != 2:
        sys.exit(f"{folder} holds {len(packages)} packages: one wheel and one sdist are expected")
    missing = []
    for version in versions or VERSIONS:
        python = find_python(version)
        if python is None:
            missing.append(version)
            continue
        for package in packages:
            print(f"Python {version} ({python}), {package.name}", flush=True)
            check(package, python)
    if missing:
        print(f"not tested, because they are not installed: Python {', '.join(missing)}")
        sys.exit(3)


if __name__ == "__main__":
    main()

"""Whether an installed MetaFace works: ``make dist`` runs this where nothing else is installed.

    python -I tools/smoke_test.py

``-I`` keeps the source tree and PYTHONPATH out, so that the installed package is the one tested.
Every step is a public call or a command. No model file is needed: faces are rendered, and their
places are known.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tempfile
from importlib import metadata, resources
from pathlib import Path

import numpy as np
from PIL import Image

import metaface as mf
from metaface.faces.detections import Detections

SIDE = 112


class WholePicture:
    """A detector that takes a square picture that is not black for one rendered face."""

    name = "whole-picture"

    def __init__(self, landmarks: np.ndarray) -> None:
        self.landmarks = landmarks.astype(np.float32)  # [5, 2]

    def __call__(self, picture: np.ndarray) -> Detections:
        count = int(picture.any())
        box = np.array([[0, 0, SIDE, SIDE]], np.float32)
        score = np.array([0.9], np.float32)
        return Detections(box[:count], self.landmarks[None][:count], score[:count])


def metaface(*words: str) -> str:
    """What the command prints; it must succeed."""
    program = Path(sysconfig.get_path("scripts")) / "metaface"
    done = subprocess.run([str(program), *words], capture_output=True, text=True)
    assert done.returncode == 0, f"metaface {' '.join(words)}: {done.stdout}{done.stderr}"
    return done.stdout


def check_package() -> None:
    """The package is the installed one, and whole: version, types, templates, command."""
    here = Path(mf.__file__).resolve()
    assert here.is_relative_to(Path(sys.prefix).resolve()), f"{here} is not in {sys.prefix}"
    assert mf.__version__ == metadata.version("metaface")
    files = {item.name for item in resources.files("metaface.report").iterdir()}
    templates = {name for name in files if name.endswith(".html")}
    source = Path(__file__).resolve().parents[1] / "metaface" / "report"
    wanted = {path.name for path in source.glob("*.html")}
    assert wanted and templates == wanted, f"templates {templates}, in the source {wanted}"
    assert resources.files("metaface").joinpath("py.typed").is_file()
    assert "identify" in metaface("--help")
    assert mf.__version__ in metaface("--version")


def write_photographs(folder: Path) -> None:
    """40 people of 12 photographs, one folder each."""
    made = mf.synthetic.render(40, 12, 28, domains="frontal")
    for number, (person, photo) in enumerate(zip(made.person, made.images, strict=True)):
        (folder / f"{person:02d}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo).save(folder / f"{person:02d}" / f"{number}.png")


def check_training(folder: Path) -> Path:
    """Two steps of a benchmark from photographs to a report; returns the checkpoint."""
    write_photographs(folder / "photos")
    out = folder / "results"
    words = ["--learners", "prototypical", "--iterations", "2", "--episodes", "20", "--quiet"]
    metaface("benchmark", "--data", str(folder / "photos"), "--out", str(out), *words)
    rows = json.loads((out / "results.json").read_text(encoding="utf-8"))["rows"]
    assert all(0 <= row["accuracy"] <= 1 for row in rows) and rows
    assert "</html>" in (out / "report.html").read_text(encoding="utf-8")
    (checkpoint,) = out.glob("prototypical*/checkpoint.pt")
    return checkpoint


def check_recognition(folder: Path, checkpoint: Path) -> None:
    """Ana is enrolled; in an empty picture nobody is found; the gallery's file opens again."""
    made = mf.synthetic.render(1, 3, SIDE, domains="frontal")
    embedder = mf.recognition.embedders.load(str(checkpoint))
    with mf.Recognizer(WholePicture(made.landmarks[0]), embedder) as people:
        people.enroll("Ana", list(made.images[:2]))
        (match,) = people.identify(made.images[2])
        assert -1 <= match.score <= 1 and len(match.box) == 4
        nobody = people.identify(np.zeros((SIDE, SIDE, 3), np.uint8))
        assert list(nobody) == [] and nobody.skipped == "no_face"
        people.save(folder / "smoke.gallery")
    assert "Ana" in metaface("people", "--gallery", str(folder / "smoke.gallery"))


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["METAFACE_CACHE"] = str(folder / "cache")
        check_package()
        check_recognition(folder, check_training(folder))
    python = sys.version.split()[0]
    print(f"smoke test passed: metaface {mf.__version__} on Python {python}")


if __name__ == "__main__":
    main()

"""How fast photographs are enrolled and identified, and where the time goes.

python benchmarks/recognition.py lfw.zip [--models DIR] [--photos 1000]

Enrols the first photographs of a data set into a gallery file (detect, align, embed, write), then
identifies others one by one, with models loaded, and prints medians. The ratio is to the same
steps without MetaFace around them: OpenCV's detector and the network, one photograph at a time.
"""

import argparse
import csv
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch

from metaface import nets
from metaface.data._sources import open_source
from metaface.faces.choose import crop_faces
from metaface.faces.photos import read
from metaface.recognition import Recognizer, models


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", help="people: folder or zip of identity folders")
    parser.add_argument("--models", help="folder of the model files")
    parser.add_argument("--photos", type=int, default=1000, help="enrolled; default: 1000")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as opened:
        paths = written(options.data, options.photos + 101, Path(folder))
        enrolled, probes = paths[: options.photos], [p for p, _ in paths[options.photos :]]
        listed = Path(folder) / "people.csv"
        with open(listed, "w", newline="") as file:
            csv.writer(file).writerows([("path", "person"), *enrolled])

        people = opened.enter_context(
            Recognizer.from_pretrained(
                models=options.models, gallery=Path(folder) / "speed.gallery"
            )
        )
        people.identify(probes[0])
        began = time.perf_counter()
        used = sum(one.used for one in people.enroll_all(listed, progress=False))
        seconds = time.perf_counter() - began
        print(f"enrolled: {used} of {options.photos} photographs, {options.photos / seconds:.0f}/s")
        print(f"threads: {torch.get_num_threads()}")

        people.identify(probes[0])
        print(f"identified, one by one: {median(people.identify, probes):.1f} ms a photograph")
        began = time.perf_counter()
        people.identify(probes)
        each = 1000 * (time.perf_counter() - began) / len(probes)
        print(f"identified, {len(probes)} at once: {each:.1f} ms a photograph")

        net = nets.pretrained(models.find("mobilefacenet_casia", options.models))

        @torch.inference_mode()
        def plain(path: str) -> np.ndarray:
            picture = read(path)
            first = people.detector(picture)[:1]
            crop = crop_faces(picture, first, people.detector)[:, :, 8:104]
            pixels = torch.from_numpy(crop).permute(0, 3, 1, 2) / 255
            found: np.ndarray = (net(pixels) + net(pixels.flip(3))).numpy()
            return found

        plain(probes[0])
        print(f"the same network unfolded, no gallery: {median(plain, probes):.1f} ms a photograph")


def written(source: str, count: int, folder: Path) -> list[tuple[str, str]]:
    """The first photographs of a source as files: path and person."""
    found = []
    with open_source(Path(source)) as photos:
        for i, photo in enumerate(photos.photos[:count]):
            path = folder / f"{i:05d}{Path(photo.path).suffix}"
            path.write_bytes(photos.read(photo))
            found.append((str(path), photo.person))
    return found


def median(run: object, probes: list[str]) -> float:
    """Milliseconds a call."""
    spent = []
    for probe in probes:
        began = time.perf_counter()
        run(probe)  # type: ignore[operator]
        spent.append(1000 * (time.perf_counter() - began))
    return statistics.median(spent)


if __name__ == "__main__":
    main()

"""``metaface protocol``: recognition measured on whole photographs of a data set."""

from __future__ import annotations

import argparse
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from metaface import evaluation
from metaface._json import write_json
from metaface.data import FaceSet, Skipped
from metaface.data._sources import open_source, read_file
from metaface.evaluation import Detection, OpenSet, Pairs, Verification
from metaface.learners import Prototypical
from metaface.recognition import faces, models
from metaface.recognition.align import shrunk
from metaface.recognition.commands import add_models, embedder_of
from metaface.recognition.detect import Detector, YuNet
from metaface.recognition.embed import Embedder
from metaface.recognition.photos import Unusable, read
from metaface.recognition.scoring import Cohort
from metaface.report import write_recognition

PROTOCOLS = ("few-shot", "verification", "open-set", "detection")
_LEAST = 0.02  # score of a box when average precision is measured: the curve needs unsure ones
Results = Verification | OpenSet | Detection


@dataclass(frozen=True, eq=False)
class Aligned:
    """The face nearest the middle of every photograph of a data set.

    Attributes:
        name: of the set.
        crops: uint8 ``[n, 112, 112, 3]``.
        embeddings: float32 ``[n, D]``, unit length.
        person: int64 ``[n]``, an index into ``people``.
        people: names.
        paths: of the photographs, inside the source.
        skipped: photographs that could not be used, and why.
    """

    name: str
    crops: np.ndarray
    embeddings: np.ndarray
    person: np.ndarray
    people: tuple[str, ...]
    paths: tuple[str, ...]
    skipped: tuple[Skipped, ...]

    def faces(self, size: int = 112) -> FaceSet:
        """The crops as a data set of MetaFace, reduced to ``size`` pixels."""
        crops = self.crops if size == self.crops.shape[1] else shrunk(self.crops, size)
        return FaceSet.from_arrays(crops, self.person, people=self.people, name=self.name)


def aligned(
    source: str | Path, detector: Detector, embedder: Embedder, *, progress: bool = True
) -> Aligned:
    """Find, align and embed the faces of a folder, zip or CSV of people.

    Raises:
        FileNotFoundError, ValueError: nothing usable there.
    """
    path = Path(source).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"no such folder, zip or CSV: {path}")
    with open_source(path) as found:
        seen = faces.embedded(
            (partial(found.read, photo) for photo in found.photos), faces.middle, detector, embedder
        )
        bar = tqdm(seen, total=len(found.photos), desc=found.name, unit="photo",
                   disable=not progress)  # fmt: skip
        good, skipped = [], []
        for photo, one in zip(found.photos, bar, strict=True):
            if isinstance(one, Unusable):
                skipped.append(Skipped(photo.path, str(one)))
            else:
                good.append((photo, one))
    if not good:
        raise ValueError(f"no face in any of the {len(skipped)} photographs of {path}")
    people = tuple(sorted({photo.person for photo, _ in good}))
    number = {name: i for i, name in enumerate(people)}
    return Aligned(
        name=found.name,
        crops=np.concatenate([one.crops for _, one in good]),
        embeddings=np.concatenate([one.embeddings for _, one in good]),
        person=np.array([number[photo.person] for photo, _ in good]),
        people=people,
        paths=tuple(photo.path for photo, _ in good),
        skipped=tuple(skipped),
    )


class AsNetwork(nn.Module):
    """An embedder as an embedding network, so that learners and episodes take it.

    Shape:
        float ``[n, 3, 112, 112]`` in 0..1, aligned -> ``[n, D]``.
    """

    def __init__(self, embedder: Embedder) -> None:
        super().__init__()
        self.embedder = embedder

    def forward(self, images: Tensor) -> Tensor:
        crops = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
        return torch.from_numpy(self.embedder(crops.contiguous().numpy()))


def few_shot(
    people: Aligned, embedder: Embedder, ways: int, shots: int, episodes: int, seed: int
) -> evaluation.Result:
    """Episodes of the nearest prototype by cosine; see :func:`metaface.evaluate`."""
    learner = Prototypical(AsNetwork(embedder), "cosine")
    enough = np.flatnonzero(np.bincount(people.person) >= shots + 5)
    if len(enough) < ways:
        raise ValueError(
            f"{len(enough)} people of {people.name} have the {shots + 5} photographs that "
            f"{shots}-shot episodes with 5 queries need, fewer than {ways}: choose fewer --ways"
        )
    return evaluation.evaluate(
        learner, people.faces().of_people(enough), ways=ways, shots=shots, queries=5,
        episodes=episodes, seed=seed, progress=False,
    )  # fmt: skip


def pairs_of(people: Aligned, listed: str | Path) -> tuple[Pairs, int]:
    """The pairs of an official list whose photographs are both there; and how many are not."""
    files, pairs = evaluation.read_pairs(listed)
    place = {"/".join(Path(path).parts[-2:]): row for row, path in enumerate(people.paths)}
    rows = np.array([place.get(file, -1) for file in files])[pairs.rows]
    there = (rows >= 0).all(1)
    return Pairs(rows[there], pairs.same[there], pairs.fold[there]), int((~there).sum())


def held_against_others(pairs: Pairs, people: Aligned) -> np.ndarray:
    """The scores of ``Recognizer.verify``: cosines less how similar both photographs are to the
    people of the other folds, who serve as strangers; float64 ``[n]``."""
    scores = pairs.scores(people.embeddings)
    for fold in np.unique(pairs.fold):
        here = pairs.fold == fold
        mine = np.unique(people.person[pairs.rows[here]])
        others = np.setdiff1d(people.person[pairs.rows[~here]], mine)
        rows = np.flatnonzero(np.isin(people.person, others))
        cohort = Cohort(people.embeddings[rows], people.person[rows])
        for side in pairs.rows[here].T:
            scores[here] -= cohort.baseline(people.embeddings[side]) / 2
    return scores


def detection(source: str | Path, detector: Detector, *, progress: bool = True) -> Detection:
    """Average precision on photographs with the boxes of their faces, as WIDER FACE has them.

    Args:
        source: a folder or zip; see :func:`metaface.evaluation.read_wider`.
        detector: one that reports unsure boxes, too.
    """
    annotated = evaluation.read_wider(source)
    path = Path(source)
    found = []
    bar = tqdm(annotated, desc="detecting", unit="photo", disable=not progress)
    if path.suffix.lower() == ".zip":
        with zipfile.ZipFile(path) as archive:
            for one in bar:
                found.append(detector(read(partial(archive.read, one.path))))
    else:
        top = path if path.is_dir() else path.parent
        for one in bar:
            found.append(detector(read(partial(read_file, top / one.path))))
    return evaluation.average_precision(
        [(faces.boxes, faces.scores) for faces in found],
        [one.boxes for one in annotated],
        [one.ignore for one in annotated],
    )


# -- command ---------------------------------------------------------------------------------


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command; see :func:`metaface.recognition.commands.add`."""
    p = command(
        "protocol", _protocol, "measure recognition on whole photographs: detect, align, embed"
    )
    p.add_argument("protocols", nargs="+", choices=PROTOCOLS, metavar="PROTOCOL",
                   help=", ".join(PROTOCOLS))  # fmt: skip
    p.add_argument(
        "--data",
        required=True,
        help="people: folder or zip of identity folders, or CSV; for detection, alone: "
        "photographs with annotations.json or bbx_gt.txt",
    )
    p.add_argument("--ways", type=int, nargs="+", default=(5, 20), help="default: 5 20")
    p.add_argument("--shots", type=int, nargs="+", default=(1,), help="default: 1")
    p.add_argument("--episodes", type=int, default=1000, help="default: 1000")
    p.add_argument("--pairs", metavar="FILE", help="LFW's pairs.txt; default: pairs are drawn")
    p.add_argument("--drawn", type=int, default=2500, help="pairs of each kind; default: 2500")
    for name, default in (("enrolled", 50), ("enrolled-photos", 3), ("strangers", 500),
                          ("cohort", 600), ("galleries", 20)):  # fmt: skip
        p.add_argument(f"--{name}", type=int, default=default,
                       help=f"of the open set; default: {default}")  # fmt: skip
    p.add_argument("--fpir", type=float, default=0.01, help="asked for; default: 0.01")
    p.add_argument("--seed", type=int, default=0, help="of episodes, pairs and galleries")
    p.add_argument("--out", default="protocol", help="folder of the results; default: protocol")
    add_models(p)

    p = command("align", _align, "cut aligned faces out of photographs, to train or test on")
    p.add_argument("data", metavar="DIR", help="folder or zip of identity folders, or CSV")
    p.add_argument("--out", required=True, help="folder of the 112x112 faces, in the same folders")
    add_models(p)


def _align(o: argparse.Namespace) -> None:
    detector, _ = embedder_of(o)
    out, skipped = Path(o.out), 0
    taken: set[Path] = set()
    with open_source(Path(o.data).expanduser()) as found:
        for photo in tqdm(found.photos, desc=found.name, unit="photo", disable=o.quiet):
            try:
                picture = read(partial(found.read, photo))
                face = faces.middle(picture, detector(picture))
                crop = faces.crops_of(picture, face, detector)[0]
            except Unusable as why:
                tqdm.write(f"{photo.path} skipped: {why}", sys.stderr)
                skipped += 1
                continue
            name = Path(photo.path)
            path = out / photo.person / f"{name.stem}.png"
            if path in taken:  # 1.jpg beside 1.png
                path = path.with_name(f"{name.name}.png")
            taken.add(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(crop).save(path)
    print(f"{len(taken)} faces in {out}, {skipped} photographs skipped")


def _protocol(o: argparse.Namespace) -> None:
    if "detection" in o.protocols and len(o.protocols) > 1:
        raise ValueError("detection has data of its own: run it alone")
    out = Path(o.out)
    out.mkdir(parents=True, exist_ok=True)
    sections: dict[str, Results] = {}
    rows: list[dict[str, Any]] = []

    def note(title: str, result: Results | evaluation.Result, **more: Any) -> None:
        print(f"{title}: {result}", flush=True)
        rows.append({"protocol": title, **_numbers(result), **more})
        if not isinstance(result, evaluation.Result):
            sections[title] = result

    if o.protocols == ["detection"]:
        unsure = YuNet(models.find("yunet", o.models), _LEAST)
        note(f"detection, {Path(o.data).stem}", detection(o.data, unsure, progress=not o.quiet))
    else:
        detector, embedder = embedder_of(o)
        people = aligned(o.data, detector, embedder, progress=not o.quiet)
        print(
            f"{people.name}: {len(people.paths)} photographs of {len(people.people)} people, "
            f"{len(people.skipped)} without a usable face"
        )
        for name in o.protocols:
            _RUN[name](o, people, embedder, note)
    write_json(out / "results.json", {"data": str(o.data), "rows": rows})
    print(out / "results.json")
    if sections:
        write_recognition(out / "report.html", sections)
        print(out / "report.html")


Note = Callable[..., None]


def _few_shot(o: argparse.Namespace, people: Aligned, embedder: Embedder, note: Note) -> None:
    for ways in o.ways:
        for shots in o.shots:
            found = few_shot(people, embedder, ways, shots, o.episodes, o.seed)
            note(f"{ways}-way {shots}-shot", found)


def _verification(o: argparse.Namespace, people: Aligned, embedder: Embedder, note: Note) -> None:
    if o.pairs:
        pairs, missing = pairs_of(people, o.pairs)
        if missing:
            print(f"{missing} pairs of {o.pairs} left out: their photographs are not in {o.data}")
    else:
        pairs = evaluation.draw_pairs(people.person, o.drawn, o.drawn, seed=o.seed)
    for title, scores in (
        ("verification, cosine", pairs.scores(people.embeddings)),
        ("verification, against strangers of the other folds", held_against_others(pairs, people)),
    ):
        note(title, evaluation.verification(scores, pairs.same, pairs.fold))


def _open_set(o: argparse.Namespace, people: Aligned, embedder: Embedder, note: Note) -> None:
    for title, scorer in (
        ("open set, plain prototypes", evaluation.prototypes),
        ("open set, held against strangers", evaluation.cohort),
    ):
        found = evaluation.open_set(
            people.embeddings, people.person, enrolled=o.enrolled, shots=o.enrolled_photos,
            strangers=o.strangers, cohort=o.cohort, galleries=o.galleries, ask=o.fpir, seed=o.seed,
            scorer=scorer,
        )  # fmt: skip
        note(title, found)
        for at in found.at:
            print(f"  DIR {at.dir} at FPIR {100 * at.fpir:g}%, thresholds from the strangers")


_RUN = {"few-shot": _few_shot, "verification": _verification, "open-set": _open_set}


def _numbers(result: Results | evaluation.Result) -> dict[str, Any]:
    """What goes to ``results.json``."""
    if isinstance(result, evaluation.Result):
        return {"accuracy": result.accuracy, "ci95": result.ci95, "ways": result.ways,
                "shots": result.shots, "episodes": len(result.accuracies)}  # fmt: skip
    if isinstance(result, Verification):
        return {
            "accuracy": result.accuracy, "ci95": result.ci95, "eer": result.eer,
            "pairs": len(result.same), "thresholds": result.thresholds.tolist(),
            "tar_at_far": [{"far": p.far, "tar": p.tar._asdict()} for p in result.at],
        }  # fmt: skip
    if isinstance(result, OpenSet):
        return {
            "asked_fpir": result.asked, "realised_fpir": result.realised_fpir._asdict(),
            "realised_dir": result.realised_dir._asdict(), "rank1": result.rank1._asdict(),
            "dir_at_fpir": [{"fpir": p.fpir, "dir": p.dir._asdict()} for p in result.at],
            "galleries": result.galleries,
        }  # fmt: skip
    return {"ap": result.ap._asdict(), "iou": result.iou, "faces": result.faces,
            "photographs": result.photographs}  # fmt: skip

"""``metaface protocol``: recognition measured on whole photographs of a data set."""

from __future__ import annotations

import argparse
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from metaface import evaluation
from metaface._json import write_json
from metaface._lock import alone_in
from metaface._picture_file import write_picture
from metaface._progress import track
from metaface._text import FileNames, given_path, printable
from metaface.arguments import count, count_or_none, share
from metaface.data import FaceSet, Skipped
from metaface.data._content import Distinct
from metaface.data._skipped import TWICE, report_skipped
from metaface.data._sources import Source, open_source, open_zip, read_entry, read_file
from metaface.evaluation import Detection, OpenSet, Pairs, Verification
from metaface.learners import Prototypical
from metaface.recognition import embed, faces, models
from metaface.recognition.align import shrunk
from metaface.recognition.commands import add_models, embedder_of
from metaface.recognition.detect import Cascade, Detector, YuNet
from metaface.recognition.embed import Embedder
from metaface.recognition.photos import Unusable, read
from metaface.recognition.results import Chosen
from metaface.recognition.scoring import Cohort
from metaface.report import write_recognition

PROTOCOLS = ("few-shot", "verification", "open-set", "detection")
_LEAST = 0.02  # score of a box when average precision is measured: the curve needs unsure ones
Results = Verification | OpenSet | Detection


@dataclass(frozen=True, eq=False)
class Aligned:
    """The most prominent face of every photograph of a data set.

    Attributes:
        name: of the set.
        crops: uint8 ``[n, 112, 112, 3]``.
        embeddings: float32 ``[n, D]``, unit length.
        person: int64 ``[n]``, an index into ``people``.
        people: names.
        paths: of the photographs, inside the source.
        skipped: photographs that could not be used, and why.
        several: how many photographs show other faces, too.
    """

    name: str
    crops: np.ndarray
    embeddings: np.ndarray
    person: np.ndarray
    people: tuple[str, ...]
    paths: tuple[str, ...]
    skipped: tuple[Skipped, ...]
    several: int = 0

    def faces(self, size: int = 112) -> FaceSet:
        """The crops as a data set of MetaFace, reduced to ``size`` pixels."""
        crops = self.crops if size == self.crops.shape[1] else shrunk(self.crops, size)
        return FaceSet.from_arrays(crops, self.person, people=self.people, name=self.name)


def aligned(
    source: str | Path, detector: Detector, embedder: Embedder, *, progress: bool = True
) -> Aligned:
    """Find, align and embed the faces of a folder, zip or CSV of people.

    A photograph that is there twice counts once, and one of two people is left out.

    Raises:
        FileNotFoundError, ValueError: nothing usable there.
    """
    path = given_path(source, "the photographs").expanduser()
    if not path.exists():
        raise FileNotFoundError(f"no such folder, zip or CSV: {path}")
    with open_source(path) as found:
        seen = faces.embedded(
            (partial(found.read, photo) for photo in found.photos),
            faces.most_prominent,
            detector,
            embedder,
        )
        bar = track(seen, total=len(found.photos), desc=found.name, unit="photo",
                    show=progress)  # fmt: skip
        good, skipped, distinct = [], [], Distinct()
        for photo, one in zip(found.photos, bar, strict=True):
            if isinstance(one, Unusable):
                skipped.append(Skipped(photo.path, str(one)))
            elif again := distinct.add(photo.path, photo.person, one.crops[0]):
                skipped.append(again)
            else:
                good.append((photo, one))
        nobodys = distinct.nobodys()
        good = [pair for row, pair in enumerate(good) if row not in nobodys]
        not_new = [s for s in skipped if s.reason.startswith(TWICE)]
        report_skipped(found.name, [*found.skipped, *not_new, *nobodys.values()], len(good))
        skipped += nobodys.values()
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
        several=sum(one.left > 0 for _, one in good),
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
    """The pairs of an official list whose photographs are both there; and how many are not.

    A photograph may be of another format than the list says, as those of ``metaface align`` are.

    Raises:
        ValueError: a photograph is there in several formats, none of them the list's; or no pair
            is there.
    """
    files, pairs = evaluation.read_pairs(listed)
    place = {"/".join(Path(path).parts[-2:]): row for row, path in enumerate(people.paths)}
    formats: dict[str, list[str]] = {}
    for name in place:
        formats.setdefault(os.path.splitext(name)[0], []).append(name)

    def row_of(file: str) -> int:
        same = [file] if file in place else formats.get(os.path.splitext(file)[0], [])
        if len(same) > 1:
            raise ValueError(
                f"{listed} names {file}, and {people.name} has {' and '.join(sorted(same))}: leave "
                "one of them there"
            )
        return place[same[0]] if same else -1

    rows = np.array([row_of(file) for file in files])[pairs.rows]
    there = (rows >= 0).all(1)
    if not there.any():
        raise ValueError(
            f"{people.name} has the photographs of none of the {len(pairs)} pairs of {listed}, "
            f"such as {files[0]}; it has such as {people.paths[0]}"
        )
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
    path = given_path(source, "the photographs")
    found = []
    bar = track(annotated, desc="detecting", unit="photo", show=progress)
    if path.suffix.lower() == ".zip":
        with open_zip(path) as archive:
            for one in bar:
                found.append(detector(read(partial(read_entry, archive, one.path))))
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
    p.add_argument("--ways", type=count, nargs="+", default=(5, 20), help="default: 5 20")
    p.add_argument("--shots", type=count, nargs="+", default=(1,), help="default: 1")
    p.add_argument("--episodes", type=count, default=1000, help="default: 1000")
    p.add_argument("--pairs", metavar="FILE", help="LFW's pairs.txt; default: pairs are drawn")
    p.add_argument("--drawn", type=count, default=2500, help="pairs of each kind; default: 2500")
    for name, default in (("enrolled", 50), ("enrolled-photos", 3), ("strangers", 500),
                          ("cohort", 600), ("galleries", 20)):  # fmt: skip
        p.add_argument(f"--{name}", type=count, default=default,
                       help=f"of the open set; default: {default}")  # fmt: skip
    p.add_argument("--fpir", type=share, default=0.01, help="asked for; default: 0.01")
    p.add_argument("--seed", type=count_or_none, default=0, help="of episodes, pairs and galleries")
    p.add_argument("--out", default="protocol", help="folder of the results; default: protocol")
    add_models(p)

    p = command("align", _align, "cut aligned faces out of photographs, to train or test on")
    p.add_argument("data", metavar="DIR", help="folder or zip of identity folders, or CSV")
    p.add_argument("--out", required=True, help="folder of the 112x112 faces, in the same folders")
    add_models(p)


@alone_in(lambda o: o.out)
def _align(o: argparse.Namespace) -> None:
    detector, _ = embedder_of(o)
    out, source = Path(o.out), Path(o.data).expanduser()
    done = skipped = several = 0
    if not source.exists():
        raise FileNotFoundError(f"no such folder, zip or CSV: {source}")
    with open_source(source) as found:
        report_skipped(found.name, found.skipped, len(found.photos))
        folders = _folders(photo.person for photo in found.photos)
        _refuse_originals(out, source, found, folders.values())
        for person, folder in folders.items():
            if folder != person:
                tqdm.write(printable(f"the folder of {person} is {folder}"), sys.stderr)
        names = {folder: FileNames() for folder in folders.values()}
        for photo in track(found.photos, desc=found.name, unit="photo", show=not o.quiet):
            try:
                picture = read(partial(found.read, photo))
                seen = detector(picture)
                face, clear = faces.chosen(picture, seen)
                crop = faces.crops_of(picture, face, detector)[0]
            except Unusable as why:
                tqdm.write(printable(f"{photo.path} skipped: {why}"), sys.stderr)
                skipped += 1
                continue
            several += len(seen) > 1
            if not clear:
                box = cast(Any, tuple(face.boxes[0].tolist()))
                told = f"{Chosen(photo.path, box, len(seen) - 1)}; another stands out as much"
                tqdm.write(printable(told), sys.stderr)
            folder = folders[photo.person]
            path = out / folder / names[folder].new(Path(photo.path).stem, ".png")
            write_picture(Image.fromarray(crop), path)
            done += 1
    if not done:
        raise ValueError(f"none of the {skipped} photographs of {source} could be used")
    print(f"{done} faces in {out}, {skipped} photographs skipped")
    if several:
        print(f"{several} of them show several faces: the most prominent was taken")


def _folders(people: Iterable[str]) -> dict[str, str]:
    """The folder of each person, below one folder and in nobody else's: ``Greek/character01`` is a
    folder in a folder, unless ``Greek`` is a person, too."""
    everyone = set(people)
    made: dict[tuple[str, ...], str] = {(): ""}
    names: dict[str, FileNames] = defaultdict(FileNames)
    found = {}
    for person in sorted(everyone):
        parts = tuple(person.split("/"))
        owned = any("/".join(parts[:n]) in everyone for n in range(1, len(parts)))
        if owned or not {"", ".", ".."}.isdisjoint(parts):
            parts = (person,)
        for n in range(1, len(parts) + 1):
            above = made[parts[: n - 1]]
            if parts[:n] not in made:
                made[parts[:n]] = (f"{above}/" if above else "") + names[above].new(parts[n - 1])
        found[person] = made[parts]
    return found


def _refuse_originals(out: Path, source: Path, found: Source, folders: Iterable[str]) -> None:
    """Refuse to write where anything could be lost, or be taken for an original later."""
    there, top = out.resolve(), source.resolve()
    among = source.is_dir() and (there == top or top in there.parents)
    files = [photo.handle for photo in found.photos if isinstance(photo.handle, Path)]
    if among or any(there in folder.resolve().parents or there == folder.resolve()
                    for folder in {file.parent for file in files}):  # fmt: skip
        raise ValueError(
            f"--out {out} lies among the photographs of {source}, or they in it: give a folder "
            "apart from them"
        )
    for folder in folders:
        if os.path.lexists(out / folder):
            raise ValueError(
                f"{out / folder} is there already, and nothing is written over it: give --out a "
                "new folder, or remove that one"
            )


@alone_in(lambda o: o.out)
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
        found = detection(o.data, _unsure(o), progress=not o.quiet)
        note(f"detection, {Path(o.data).stem}", found)
    else:
        detector, embedder = embedder_of(o)
        people = aligned(o.data, detector, embedder, progress=not o.quiet)
        print(
            f"{people.name}: {len(people.paths)} photographs of {len(people.people)} people, "
            f"{len(people.skipped)} without a usable face or there twice"
        )
        if people.several:
            print(f"{people.several} of them show several faces: the most prominent is used")
        for name in o.protocols:
            _RUN[name](o, people, embedder, note)
    write_json(out / "results.json", {"data": str(o.data), "rows": rows})
    print(out / "results.json")
    if sections:
        write_recognition(out / "report.html", sections)
        print(out / "report.html")


def _unsure(o: argparse.Namespace) -> Detector:
    """The detector that the options name; it reports unsure boxes, too, where it can."""
    from metaface.multitask.joint import JointFace  # which needs this package

    if o.detector == "cascade":
        return Cascade()
    if not o.weights:
        return YuNet(models.find("yunet", o.models), _LEAST)
    network: object = embed.load(o.weights, o.models)
    if not isinstance(network, JointFace):
        raise ValueError(
            f"--weights {o.weights} finds no faces, it embeds them: leave it out, and YuNet is "
            "measured, or name a network of metaface multitask"
        )
    return cast(Detector, JointFace(network.model, network.name, _LEAST))


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

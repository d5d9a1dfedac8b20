"""``metaface protocol | align``."""

from __future__ import annotations

import argparse
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, cast

from PIL import Image
from tqdm import tqdm

from metaface import evaluation
from metaface._json import write_json
from metaface._lock import alone_in
from metaface._picture_file import write_picture
from metaface._progress import track
from metaface._text import FileNames, printable
from metaface.arguments import count, count_or_none, share
from metaface.cli.recognition import add_models, embedder_of
from metaface.data._skipped import report_skipped
from metaface.data._sources import Source, open_source
from metaface.experiments.protocols import (
    LEAST,
    PROTOCOLS,
    Aligned,
    Results,
    aligned,
    detection,
    few_shot,
    held_against_others,
    pairs_of,
)
from metaface.faces import choose
from metaface.faces.detect import Cascade, Detector, YuNet
from metaface.faces.photos import Unusable, read
from metaface.metrics.one_to_many import OpenSet
from metaface.metrics.one_to_one import Verification
from metaface.recognition import models
from metaface.recognition.embedders import loading
from metaface.recognition.embedders.loading import Embedder

# -- command ---------------------------------------------------------------------------------
from metaface.recognition.embedders.shared import JointFace
from metaface.recognition.results import Chosen
from metaface.report import write_recognition


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command; see :func:`metaface.cli.recognition.add`."""
    p = command(
        "protocol", _protocol, "measure recognition on whole photographs: detect, align, embed"
    )
    p.add_argument(
        "protocols", nargs="+", choices=PROTOCOLS, metavar="PROTOCOL", help=", ".join(PROTOCOLS)
    )
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
    for name, default in (
        ("enrolled", 50),
        ("enrolled-photos", 3),
        ("strangers", 500),
        ("cohort", 600),
        ("galleries", 20),
    ):
        p.add_argument(
            f"--{name}", type=count, default=default, help=f"of the open set; default: {default}"
        )
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
                face, clear = choose.pick_prominent(picture, seen)
                crop = choose.crop_faces(picture, face, detector)[0]
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
    if among or any(
        there in folder.resolve().parents or there == folder.resolve()
        for folder in {file.parent for file in files}
    ):
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
    if o.detector == "cascade":
        return Cascade()
    if not o.weights:
        return YuNet(models.find("yunet", o.models), LEAST)
    network: object = loading.load(o.weights, o.models)
    if not isinstance(network, JointFace):
        raise ValueError(
            f"--weights {o.weights} finds no faces, it embeds them: leave it out, and YuNet is "
            "measured, or name a network of metaface multitask"
        )
    return cast(Detector, JointFace(network.model, network.name, LEAST))


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
            people.embeddings,
            people.person,
            enrolled=o.enrolled,
            shots=o.enrolled_photos,
            strangers=o.strangers,
            cohort=o.cohort,
            galleries=o.galleries,
            ask=o.fpir,
            seed=o.seed,
            scorer=scorer,
        )
        note(title, found)
        for at in found.at:
            print(f"  DIR {at.dir} at FPIR {100 * at.fpir:g}%, thresholds from the strangers")


_RUN = {"few-shot": _few_shot, "verification": _verification, "open-set": _open_set}


def _numbers(result: Results | evaluation.Result) -> dict[str, Any]:
    """What goes to ``results.json``."""
    if isinstance(result, evaluation.Result):
        return {
            "accuracy": result.accuracy,
            "ci95": result.ci95,
            "ways": result.ways,
            "shots": result.shots,
            "episodes": len(result.accuracies),
        }
    if isinstance(result, Verification):
        return {
            "accuracy": result.accuracy,
            "ci95": result.ci95,
            "eer": result.eer,
            "pairs": len(result.same),
            "thresholds": result.thresholds.tolist(),
            "tar_at_far": [{"far": p.far, "tar": p.tar._asdict()} for p in result.at],
        }
    if isinstance(result, OpenSet):
        return {
            "asked_fpir": result.asked,
            "realised_fpir": result.realised_fpir._asdict(),
            "realised_dir": result.realised_dir._asdict(),
            "rank1": result.rank1._asdict(),
            "dir_at_fpir": [{"fpir": p.fpir, "dir": p.dir._asdict()} for p in result.at],
            "galleries": result.galleries,
        }
    return {
        "ap": result.ap._asdict(),
        "iou": result.iou,
        "faces": result.faces,
        "photographs": result.photographs,
    }

"""The command line of recognition: ``metaface enroll | identify | verify | people | ...``."""

from __future__ import annotations

import argparse
import csv
import logging
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from metaface._json import dumps
from metaface._progress import track
from metaface._text import FileNames, cell, printable
from metaface.arguments import share
from metaface.faces.detect import Cascade, Detector
from metaface.faces.photos import list_folder
from metaface.learners import LEARNERS
from metaface.recognition import models
from metaface.recognition.draw import check_free, drawn, save
from metaface.recognition.embedders import importing, known, loading
from metaface.recognition.embedders.loading import Embedder
from metaface.recognition.gallery.gallery import Gallery, GalleryError
from metaface.recognition.recognizer import DEFAULT, FMR, FPIR, Recognizer, detector_for
from metaface.recognition.results import Enrolment, Identified

GALLERY = "metaface.gallery"
_COLUMNS = (
    "path",
    "left",
    "top",
    "width",
    "height",
    "name",
    "score",
    "nearest",
    "probability",
    "skipped",
)

log = logging.getLogger("metaface.recognition")
Options = Callable[[Sequence[str]], dict[str, Any]]
"""``name=value`` texts to keyword arguments"""


# -- people ----------------------------------------------------------------------------------


def _enroll(o: argparse.Namespace) -> None:
    new = not Path(o.gallery).exists()
    try:
        with _recognizer(o, create=True, keep_crops=True if o.keep_crops else None) as people:
            _learn(people, o)
    except BaseException:
        if new:
            _remove_if_empty(Path(o.gallery))
        raise


def _remove_if_empty(path: Path) -> None:
    """Leave no gallery of nobody behind, where one was made for people who could not be enrolled.

    Nor is one removed that cannot be read: then it is not known whose it is.
    """
    with suppress(OSError, GalleryError):
        with Gallery.open(path) as gallery:
            nobody = not gallery.people() and not len(gallery.strangers()[0])
        if nobody:
            path.unlink()


def _learn(people: Recognizer, o: argparse.Namespace) -> None:
    if o.photos:
        photos = _photos(o.photos)
        outcomes: Iterable[Enrolment] = [people.enroll(o.who, photos, strict=o.strict)]
    else:
        outcomes = people.enroll_all(o.who, progress=not o.quiet, strict=o.strict)
    used = left_out = repeated = 0
    for outcome in outcomes:
        used += outcome.used
        repeated += outcome.repeated
        left_out += not (outcome.used or outcome.repeated)
        for skipped in outcome.skipped:
            line = f"{outcome.name}: {skipped.path} skipped: {skipped.reason}"
            tqdm.write(printable(line), sys.stderr)
        for chosen in outcome.several:
            tqdm.write(printable(f"{outcome.name}: {chosen}"), sys.stderr)
    count = len(people.people())
    print(f"{used} photographs enrolled; {count} {_people(count)} in {o.gallery}")
    if repeated:
        print(f"{repeated} enrolled before, skipped")
    if left_out:
        print(f"{left_out} {_people(left_out)} without a usable photograph")
    if not (used or repeated):
        raise ValueError(f"no photograph of {o.who} could be enrolled")
    print(people.calibration())


def _people_command(o: argparse.Namespace) -> None:
    with Gallery.open(o.gallery) as gallery:
        people = gallery.people()
    for name, photos in people.items():
        print(f"{photos:5d}  {printable(name)}")
    if not people:
        print(f"nobody is enrolled in {o.gallery}", file=sys.stderr)


def _forget(o: argparse.Namespace) -> None:
    with Gallery.open(o.gallery) as gallery:
        photos = gallery.forget(o.name)
    print(f"{printable(o.name)} is forgotten ({photos} photographs)")


def _identify(o: argparse.Namespace) -> None:
    with _recognizer(o) as people:
        _tell(people, o)


def _tell(people: Recognizer, o: argparse.Namespace) -> None:
    photos = _photos(o.photos)
    alone = len(photos) == 1 and not Path(o.photos[0]).is_dir()
    out = Path(o.draw) if o.draw else None
    if out:
        if alone and out.exists() and out.samefile(photos[0]):
            raise ValueError(f"--draw {out} is the photograph itself: give another name")
        if alone:
            check_free(out)
        else:
            _refuse_among(o, photos)
            out.mkdir(parents=True, exist_ok=True)
    names = FileNames()
    found = []
    bar = track(
        people.identify_each(photos),
        total=len(photos),
        desc="identifying",
        unit="photo",
        show=not (o.quiet or alone),
    )
    for photo, one in zip(photos, bar, strict=True):
        found.append(one)
        if not (o.json or o.csv):
            tqdm.write(_line(one))
        if out and one.skipped is None:
            save(drawn(photo, one), out if alone else out / _drawn_name(photo, names))
    calibration = people.calibration() if people.people() else None
    if o.json:
        print(
            dumps(
                {
                    "photos": [_as_json(one) for one in found],
                    "threshold": calibration and calibration.threshold,
                    "fpir": calibration and calibration.fpir,
                }
            )
        )
    elif o.csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(_COLUMNS)
        writer.writerows(row for one in found for row in _as_rows(one))
    reasons = Counter(one.skipped for one in found if one.skipped)
    if reasons and not alone:
        listed = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        print(f"{sum(reasons.values())} of {len(found)} skipped: {listed}", file=sys.stderr)
    print(calibration or f"nobody is enrolled in {o.gallery}", file=sys.stderr)
    if sum(reasons.values()) == len(found):
        raise ValueError("none of the photographs given could be used")


def _verify(o: argparse.Namespace) -> None:
    with _recognizer(o, create=True, memory=True) as people:
        answer = people.verify(o.first, o.second, o.fmr)
    for chosen in answer.several:
        print(printable(str(chosen)), file=sys.stderr)
    if o.json:
        print(dumps(asdict(answer)))
        return
    said = "the same person" if answer.same else "different people"
    unverified = "" if answer.verified else ", unverified: metaface calibrate --strangers DIR"
    print(
        f"{said}: score {answer.score:.3f}, threshold {answer.threshold:.3f} for an FMR of "
        f"{100 * answer.fmr:g}%{unverified}"
    )


def _calibrate(o: argparse.Namespace) -> None:
    with _recognizer(o) as people:
        print(people.calibrate(o.strangers, o.fpir, progress=not o.quiet))


def _adapt(o: argparse.Namespace, options: Options) -> None:
    with _recognizer(o) as people:
        tried = people.adapt(None if o.learner == "prototypes" else o.learner, **options(o.option))
        print(tried or "prototypes")
        print(people.calibration())


# -- models ----------------------------------------------------------------------------------


def _models(o: argparse.Namespace) -> None:
    if o.action == "list":
        for row in models.available(o.models):
            where = row.path or f"metaface models fetch {row.name}"
            print(f"{row.name:20} {row.kind:9} {row.size / 1e6:5.1f} MB  {row.state:9} {where}")
            print(f"{'':20} licence: {row.licence}")
    elif o.action == "fetch":
        for name in o.names or [n for n in models.MODELS if n != "yunet_dynamic"]:
            entry = models.model(name)
            print(f"{name}: {entry.url}\nlicence: {entry.licence}")
            print(models.fetch(name, o.models, progress=not o.quiet))
    elif o.action == "import":
        for name in o.names or _nothing("import FILE..."):
            print(importing.import_weights(name, o.models))
    else:
        _check(o)


def _check(o: argparse.Namespace) -> None:
    rows = models.available(o.models)
    for name in o.names:
        if name not in [row.name for row in rows]:
            raise ValueError(
                f"no model {name!r} to check: choose of {', '.join(row.name for row in rows)}"
            )
    chosen = [row for row in rows if not o.names or row.name in o.names]
    for row in chosen:
        if row.state == "missing":
            print(f"{row.name}: missing")
        elif row.kind == "detector":
            print(f"{row.name}: {models.find(row.name, o.models)}, as published")
        else:
            likeness = known.check_known_answer(loading.load(row.name, o.models))
            answer = (
                "no known answer" if likeness is None else f"known answer, cosine {likeness:.6f}"
            )
            print(f"{row.name}: {row.path}, {answer}")
    if all(row.state == "missing" for row in chosen):
        raise models.ModelMissing(
            f"none of them is in {models.folder(o.models)}: see metaface models list"
        )


def _nothing(what: str) -> Iterator[str]:
    raise ValueError(f"metaface models {what}: name at least one")


# -- options ---------------------------------------------------------------------------------


def add(command: Callable[..., argparse.ArgumentParser], options: Options) -> None:
    """Add the commands.

    Args:
        command: makes the parser of a command from its name, function and summary.
        options: reads ``--option name=value``.
    """
    p = command("enroll", _enroll, "learn people from photographs")
    p.add_argument(
        "who",
        metavar="DIR|NAME",
        help="folder or zip of identity folders, or CSV; or a name, and photographs",
    )
    p.add_argument("photos", nargs="*", metavar="PHOTO", help="photographs of NAME, or a folder")
    p.add_argument(
        "--keep-crops",
        action="store_true",
        help="of a new gallery: keep the aligned faces, too (see metaface adapt)",
    )
    p.add_argument(
        "--strict",
        action="store_true",
        help="leave out who looks like somebody else who is enrolled, or like several people",
    )
    add_models(p, gallery=True)

    p = command("identify", _identify, "name the people in photographs, or call them unknown")
    p.add_argument("photos", nargs="+", metavar="PHOTO|DIR")
    p.add_argument(
        "--draw",
        metavar="OUT",
        help="write the photograph with boxes and names; of several, into this folder",
    )
    form = p.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON")
    form.add_argument("--csv", action="store_true", help="print a CSV, one line a face")
    add_models(p, gallery=True)

    p = command("verify", _verify, "say whether two photographs show the same person")
    p.add_argument("first", metavar="A")
    p.add_argument("second", metavar="B")
    p.add_argument(
        "--fmr",
        type=share,
        default=FMR,
        help=f"false match rate the threshold is for; default: {FMR}",
    )
    p.add_argument("--json", action="store_true", help="print JSON")
    add_models(p, gallery=True)

    p = command("people", _people_command, "list the people in a gallery")
    _add_gallery(p)

    p = command("forget", _forget, "delete a person from a gallery, without a trace")
    p.add_argument("name", metavar="NAME")
    _add_gallery(p)

    p = command("calibrate", _calibrate, "set how often a stranger may be given a name")
    p.add_argument(
        "--strangers",
        metavar="DIR",
        help="photographs of people who are not enrolled: folder, zip or CSV; their "
        "embeddings are kept. Default: those given before, else procedural faces",
    )
    p.add_argument(
        "--fpir",
        type=share,
        default=FPIR,
        help=f"false-positive identification rate; default: {FPIR}",
    )
    add_models(p, gallery=True)

    p = command(
        "adapt",
        lambda o: _adapt(o, options),
        "have a meta-learner tell the enrolled people apart, where it does not hurt",
    )
    p.add_argument(
        "learner",
        choices=("prototypes", *LEARNERS),
        metavar="LEARNER",
        help=f"of {', '.join(LEARNERS)}; or prototypes, to undo it",
    )
    p.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting of the learner, such as inner_lr=0.01; may be repeated",
    )
    add_models(p, gallery=True)

    p = command("models", _models, "list, fetch, import or check model files")
    p.add_argument(
        "action", nargs="?", default="list", choices=("list", "fetch", "import", "check")
    )
    p.add_argument("names", nargs="*", metavar="NAME|FILE")
    p.add_argument("--models", metavar="DIR", help="folder of the model files")
    p.add_argument("--quiet", action="store_true", help="no progress bars")


def add_models(p: argparse.ArgumentParser, gallery: bool = False) -> None:
    """The options that say which models are used and, where ``gallery``, on which people."""
    if gallery:
        _add_gallery(p)
    p.add_argument(
        "--models",
        metavar="DIR",
        help="folder of the model files; else METAFACE_MODELS, else ~/.cache/metaface/models",
    )
    p.add_argument(
        "--weights",
        help="embedding: a name, a checkpoint of metaface train, a "
        ".safetensors or .onnx file, a network of metaface multitask (which detects as well); "
        "default: the gallery's, or mobilefacenet_casia",
    )
    p.add_argument(
        "--detector",
        choices=("yunet", "cascade"),
        default="yunet",
        help="cascade: OpenCV 4's bundled one, which needs no model; default: yunet",
    )
    p.add_argument("--quiet", action="store_true", help="no progress bars")


def _add_gallery(p: argparse.ArgumentParser) -> None:
    p.add_argument("--gallery", default=GALLERY, metavar="FILE", help=f"default: {GALLERY}")


def _recognizer(
    o: argparse.Namespace,
    create: bool = False,
    memory: bool = False,
    keep_crops: bool | None = None,
) -> Recognizer:
    given: dict[str, Any] = {"models": o.models}
    if o.weights:
        given["weights"] = o.weights
    if o.detector == "cascade":
        given["detector"] = Cascade()
    if create and not Path(o.gallery).exists():
        where = ":memory:" if memory else o.gallery
        return Recognizer.from_pretrained(gallery=where, keep_crops=keep_crops, **given)
    return Recognizer.load(o.gallery, keep_crops=keep_crops, **given)


def embedder_of(o: argparse.Namespace) -> tuple[Detector, Embedder]:
    """The detector and the embedder that the options name."""
    embedder = loading.load(o.weights or DEFAULT, o.models)
    return Cascade() if o.detector == "cascade" else detector_for(embedder, o.models), embedder


def _photos(given: Sequence[str]) -> list[Any]:
    found: list[Any] = []
    for path in given:
        if Path(path).is_dir():
            inside = list_folder(path)
            if not inside:
                raise ValueError(f"no pictures in the folder {path}")
            found += inside
        elif Path(path).exists():
            found.append(path)
        else:
            raise FileNotFoundError(f"no such photograph or folder: {path}")
    return found


# -- answers ---------------------------------------------------------------------------------


def _line(one: Identified) -> str:
    if one.skipped:
        return printable(f"{one.path}: skipped: {one.skipped} ({one.detail})")
    told = []
    for match in one.faces:
        if match.name:
            told.append(f"{match.name} ({match.score:.2f})")
        elif match.nearest:
            told.append(f"unknown (nearest {match.nearest}, {match.score:.2f})")
        else:
            told.append("unknown")
    return printable(f"{one.path}: {', '.join(told)}")


def _as_json(one: Identified) -> dict[str, Any]:
    return {
        "path": one.path,
        "faces": [
            {
                "box": list(match.box),
                "name": match.name,
                "score": match.score,
                "nearest": match.nearest,
                "probability": match.probability,
            }
            for match in one.faces
        ],
        "skipped": one.skipped,
    }


def _as_rows(one: Identified) -> Iterator[list[Any]]:
    path = cell(one.path)
    for match in one.faces:
        name, nearest = cell(match.name), cell(match.nearest)
        yield [path, *match.box, name, match.score, nearest, match.probability, ""]
    if one.skipped:
        yield [path, *[""] * 8, one.skipped]


def _drawn_name(photo: Any, names: FileNames) -> str:
    """A file name of its own for every photograph, also where two folders have the same names."""
    path = Path(photo)
    return names.new(path.stem, ".jpg" if path.suffix.lower() in (".jpg", ".jpeg") else ".png")


def _refuse_among(o: argparse.Namespace, photos: Sequence[Any]) -> None:
    """Refuse to draw into the folder of a photograph, or where the next call would find the
    drawings as photographs."""
    out = Path(o.draw).resolve()
    folders = {Path(p).resolve() for p in o.photos if Path(p).is_dir()}
    if out in {folder.resolve() for folder in {Path(p).parent for p in photos}} or any(
        out in folder.parents or folder in out.parents for folder in folders
    ):
        raise ValueError(
            f"--draw {o.draw} lies among the photographs, or they in it: give a folder apart"
        )


def _people(count: int) -> str:
    return "person" if count == 1 else "people"

"""Commands that recognise: ``enroll``, ``identify``, ``verify``, ``people`` and others."""

from __future__ import annotations

import csv
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Group, Parameter
from cyclopts.validators import MutuallyExclusive

from metaface._text import FileNames, cell, printable
from metaface.options.commands import GALLERY, GalleryOptions, ModelOptions
from metaface.options.texts import parse_options
from metaface.options.values import Paths, Repeated, Share

if TYPE_CHECKING:
    from metaface.faces.detect import Detector
    from metaface.recognition.embedders.loading import Embedder
    from metaface.recognition.recognizer import Recognizer
    from metaface.recognition.results import Enrolment, Identified

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
    "detail",
)

_FORM = Group("Form of the answer (one of these)", validator=MutuallyExclusive())
_Form = Annotated[bool, Parameter(group=_FORM)]


def enroll(
    who: str,
    /,
    *photos: str,
    options: Annotated[GalleryOptions, Parameter(name="*")] = GalleryOptions(),
    keep_crops: bool = False,
    strict: bool = False,
) -> None:
    """Learn people from photographs.

    Example: metaface enroll people/

    Example: metaface enroll Ana a1.jpg a2.jpg

    Args:
        who: Folder or zip of identity folders, or CSV; or a name, with photographs after it.
        photos: Photographs of that name, or a folder of them.
        keep_crops: Of a new gallery: keep the aligned faces, too (see metaface adapt).
        strict: Leave out who looks like somebody else who is enrolled, or like several people.
    """
    new = not Path(options.gallery).exists()
    try:
        with _recognizer(options, create=True, keep_crops=True if keep_crops else None) as people:
            _learn(people, who, photos, strict, options)
    except BaseException:
        if new:
            _remove_if_empty(Path(options.gallery))
        raise


def _remove_if_empty(path: Path) -> None:
    """Leave no gallery of nobody behind, where one was made for people who could not be enrolled.

    Nor is one removed that cannot be read: then it is not known whose it is.
    """
    from metaface.recognition.gallery.gallery import Gallery, GalleryError

    with suppress(OSError, GalleryError):
        with Gallery.open(path) as gallery:
            nobody = not gallery.people() and not len(gallery.strangers()[0])
        if nobody:
            path.unlink()


def _learn(
    recognizer: Recognizer, who: str, photos: Sequence[str], strict: bool, options: GalleryOptions
) -> None:
    from tqdm import tqdm

    if photos:
        outcomes: Iterable[Enrolment] = [recognizer.enroll(who, _photos(photos), strict=strict)]
    else:
        outcomes = recognizer.enroll_all(who, progress=not options.quiet, strict=strict)
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
    count = len(recognizer.people())
    print(f"{used} photographs enrolled; {count} {_persons(count)} in {options.gallery}")
    if repeated:
        print(f"{repeated} enrolled before, skipped")
    if left_out:
        print(f"{left_out} {_persons(left_out)} without a usable photograph")
    if not (used or repeated):
        raise ValueError(f"no photograph of {who} could be enrolled")
    print(recognizer.calibration())


def people(*, gallery: str = GALLERY) -> None:
    """List the people in a gallery.

    Example: metaface people

    Args:
        gallery: File of the enrolled people.
    """
    from metaface.recognition.gallery.gallery import Gallery

    with Gallery.open(gallery) as there:
        enrolled = there.people()
    for name, photos in enrolled.items():
        print(f"{photos:5d}  {printable(name)}")
    if not enrolled:
        print(f"nobody is enrolled in {gallery}", file=sys.stderr)


def forget(name: str, /, *, gallery: str = GALLERY) -> None:
    """Delete a person from a gallery, without a trace.

    Example: metaface forget Bo

    Args:
        name: Name of the person, as metaface people lists it.
        gallery: File of the enrolled people.
    """
    from metaface.recognition.gallery.gallery import Gallery

    with Gallery.open(gallery) as there:
        photos = there.forget(name)
    print(f"{printable(name)} is forgotten ({photos} photographs)")


def identify(
    photos: Paths,
    /,
    *,
    options: Annotated[GalleryOptions, Parameter(name="*")] = GalleryOptions(),
    draw: str | None = None,
    json: _Form = False,
    csv: _Form = False,
) -> None:
    """Name the people in photographs, or call them unknown.

    Example: metaface identify party.jpg --draw named.png

    Args:
        photos: Photographs, or folders of them.
        draw: File to write the photograph to, with boxes and names; of several photographs, folder.
        json: Print JSON.
        csv: Print a CSV, one line a face.
    """
    with _recognizer(options) as recognizer:
        form: Literal["text", "json", "csv"] = "json" if json else "csv" if csv else "text"
        _tell(recognizer, photos, draw, form, options)


def _tell(
    people: Recognizer,
    given: Sequence[str],
    draw: str | None,
    form: Literal["text", "json", "csv"],
    options: GalleryOptions,
) -> None:
    from tqdm import tqdm

    from metaface._json import dumps
    from metaface._progress import track
    from metaface.recognition.draw import check_free, draw_matches, save

    photos = _photos(given)
    alone = len(photos) == 1 and not Path(given[0]).is_dir()
    out = Path(draw) if draw else None
    if out:
        if alone and out.exists() and out.samefile(photos[0]):
            raise ValueError(f"--draw {out} is the photograph itself: give another name")
        if alone:
            check_free(out)
        else:
            _refuse_among(out, given, photos)
            out.mkdir(parents=True, exist_ok=True)
    names = FileNames()
    found = []
    bar = track(
        people.identify_each(photos),
        total=len(photos),
        desc="identifying",
        unit="photo",
        show=not (options.quiet or alone),
    )
    for photo, one in zip(photos, bar, strict=True):
        found.append(one)
        if form == "text":
            tqdm.write(_line(one))
        if out and one.skipped is None:
            save(draw_matches(photo, one), out if alone else out / _drawn_name(photo, names))
    calibration = people.calibration() if people.people() else None
    if form == "json":
        print(
            dumps(
                {
                    "photos": [_as_json(one) for one in found],
                    "threshold": calibration and calibration.threshold,
                    "fpir": calibration and calibration.fpir,
                }
            )
        )
    elif form == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(_COLUMNS)
        writer.writerows(row for one in found for row in _as_rows(one))
    reasons = Counter(one.skipped for one in found if one.skipped)
    if reasons and not alone:
        listed = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        print(f"{sum(reasons.values())} of {len(found)} skipped: {listed}", file=sys.stderr)
    print(calibration or f"nobody is enrolled in {options.gallery}", file=sys.stderr)
    if sum(reasons.values()) == len(found):
        raise ValueError("none of the photographs given could be used")


def verify(
    first: str,
    second: str,
    /,
    *,
    options: Annotated[GalleryOptions, Parameter(name="*")] = GalleryOptions(),
    fmr: Share = 0.001,
    json: bool = False,
) -> None:
    """Say whether two photographs show the same person.

    Example: metaface verify a.jpg b.jpg

    Args:
        first: One photograph.
        second: The other photograph.
        fmr: Rate of pairs of two people that may be called one person (false match rate).
        json: Print JSON.
    """
    from metaface._json import dumps

    with _recognizer(options, create=True, memory=True) as recognizer:
        answer = recognizer.verify(first, second, fmr)
    for chosen in answer.several:
        print(printable(str(chosen)), file=sys.stderr)
    if json:
        print(dumps(asdict(answer)))
        return
    said = "the same person" if answer.same else "different people"
    unverified = "" if answer.verified else ", unverified: metaface calibrate --strangers DIR"
    print(
        f"{said}: score {answer.score:.3f}, threshold {answer.threshold:.3f} for an FMR of "
        f"{100 * answer.fmr:g}%{unverified}"
    )


def calibrate(
    *,
    options: Annotated[GalleryOptions, Parameter(name="*")] = GalleryOptions(),
    strangers: str | None = None,
    fpir: Share = 0.01,
) -> None:
    """Set how often a stranger may be given a name.

    Example: metaface calibrate --strangers others/

    Args:
        strangers: Photographs of people who are not enrolled: a folder, zip or CSV; their
            embeddings are kept. Default: those given before, else procedural faces.
        fpir: Rate of strangers who may be given a name (false-positive identification rate).
    """
    with _recognizer(options) as recognizer:
        print(recognizer.calibrate(strangers, fpir, progress=not options.quiet))


def adapt(
    learner: str,
    /,
    *,
    options: Annotated[GalleryOptions, Parameter(name="*")] = GalleryOptions(),
    option: Repeated = (),
) -> None:
    """Have a meta-learner tell the enrolled people apart, where it does not hurt.

    Example: metaface adapt anil --option inner_steps=5

    Args:
        learner: Learner by name, as metaface train --learner takes it; or prototypes, to undo it.
        option: Setting of the learner as NAME=VALUE, such as inner_lr=0.01; may be repeated.
    """
    from metaface.learners import find

    if learner != "prototypes":
        find(learner)  # an unknown one is refused before the gallery is opened
    with _recognizer(options) as recognizer:
        chosen = None if learner == "prototypes" else learner
        print(recognizer.adapt(chosen, **parse_options(option)) or "prototypes")
        print(recognizer.calibration())


# -- models ----------------------------------------------------------------------------------


def _recognizer(
    options: GalleryOptions,
    create: bool = False,
    memory: bool = False,
    keep_crops: bool | None = None,
) -> Recognizer:
    from metaface.recognition.recognizer import Recognizer

    given: dict[str, Any] = {"models": options.models}
    if options.weights:
        given["weights"] = options.weights
    if options.detector != "yunet":
        given["detector"] = options.detector
    named = memory and options.gallery != GalleryOptions().gallery  # which should be there
    if create and not named and not Path(options.gallery).exists():
        where = ":memory:" if memory else options.gallery
        return Recognizer.from_pretrained(gallery=where, keep_crops=keep_crops, **given)
    return Recognizer.load(options.gallery, keep_crops=keep_crops, **given)


def load_models(options: ModelOptions) -> tuple[Detector, Embedder]:
    """The detector and the embedder that the options name."""
    from metaface.recognition.detectors import detector_for, load_detector
    from metaface.recognition.embedders import loading
    from metaface.recognition.recognizer import DEFAULT

    embedder = loading.load(options.weights or DEFAULT, options.models)
    if options.detector != "yunet":
        return load_detector(options.detector, options.models), embedder
    return detector_for(embedder, options.models), embedder


def _photos(given: Sequence[str]) -> list[Any]:
    from metaface.faces.photos import list_folder

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
        "detail": one.detail,
    }


def _as_rows(one: Identified) -> Iterator[list[Any]]:
    path = cell(one.path)
    for match in one.faces:
        name, nearest = cell(match.name), cell(match.nearest)
        yield [path, *match.box, name, match.score, nearest, match.probability, "", ""]
    if one.skipped:
        yield [path, *[""] * 8, one.skipped, cell(one.detail)]


def _drawn_name(photo: Any, names: FileNames) -> str:
    """A file name of its own for every photograph, also where two folders have the same names."""
    path = Path(photo)
    return names.new(path.stem, ".jpg" if path.suffix.lower() in (".jpg", ".jpeg") else ".png")


def _refuse_among(draw: Path, given: Sequence[str], photos: Sequence[Any]) -> None:
    """Refuse to draw into the folder of a photograph, or where the next call would find the
    drawings as photographs."""
    out = draw.resolve()
    folders = {Path(p).resolve() for p in given if Path(p).is_dir()}
    if out in {folder.resolve() for folder in {Path(p).parent for p in photos}} or any(
        out in folder.parents or folder in out.parents for folder in folders
    ):
        raise ValueError(
            f"--draw {draw} lies among the photographs, or they in it: give a folder apart"
        )


def _persons(count: int) -> str:
    return "person" if count == 1 else "people"

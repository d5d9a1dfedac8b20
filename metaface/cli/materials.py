"""Commands about data and models: ``preview``, ``align`` and ``models``."""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from cyclopts import Parameter

from metaface._lock import alone_in
from metaface._text import FileNames, printable
from metaface.cli.recognise import load_models
from metaface.options.commands import ModelOptions, PreviewOptions

if TYPE_CHECKING:
    from metaface.data._sources import Source


def preview(
    *,
    options: Annotated[PreviewOptions, Parameter(name="*")] = PreviewOptions(),
    out: str = "preview.png",
) -> None:
    """Draw people, or an episode, as a picture.

    Example: metaface preview --data photos/ --out people.png

    Args:
        out: File of the picture.
    """
    from metaface import data, report
    from metaface._picture_file import picture_kind, write_picture
    from metaface.episodes.sampler import EpisodeSampler
    from metaface.experiments.photo_rows import show_people, show_task

    picture_kind(Path(out))  # refused before anything is loaded
    few: dict[str, Any] = {}
    if options.data.split(":")[0] == "synthetic":
        few = {
            "people": max(options.people, options.ways),
            "photos": max(options.photos, options.shots + options.queries),
        }
    faces = data.load(
        options.data,
        image_size=options.image_size,
        crop=options.crop,
        channels=options.channels,
        **few,
    )
    print(faces.describe())
    if options.episode:
        sampler = EpisodeSampler(
            faces, options.ways, options.shots, options.queries, seed=options.seed
        )
        rows = show_task(sampler.batch(0), faces)
    else:
        rows = show_people(faces, faces.person_ids[: options.people], options.photos)
    write_picture(report.draw_grid(rows), Path(out))
    print(out)


@alone_in(lambda data, /, out, **_: out)
def align(
    data: str,
    /,
    *,
    out: str,
    options: Annotated[ModelOptions, Parameter(name="*")] = ModelOptions(),
) -> None:
    """Cut aligned faces out of photographs, to train or test on.

    Example: metaface align photos/ --out aligned/

    Args:
        data: People: a folder or zip of identity folders, or a CSV.
        out: Folder of the 112x112 faces, in the same folders.
    """
    from PIL import Image
    from tqdm import tqdm

    from metaface._picture_file import write_picture
    from metaface._progress import track
    from metaface.data._skipped import report_skipped
    from metaface.data._sources import open_source
    from metaface.faces import choose
    from metaface.faces.photos import Unusable, read
    from metaface.recognition.results import Chosen

    detector, _ = load_models(options)
    folder, source = Path(out), Path(data).expanduser()
    done = skipped = several = 0
    if not source.exists():
        raise FileNotFoundError(f"no such folder, zip or CSV: {source}")
    with open_source(source) as found:
        report_skipped(found.name, found.skipped, len(found.photos))
        names_of = _folders(photo.person for photo in found.photos)
        _refuse_originals(folder, source, found, names_of.values())
        for person, name in names_of.items():
            if name != person:
                tqdm.write(printable(f"the folder of {person} is {name}"), sys.stderr)
        names = {name: FileNames() for name in names_of.values()}
        for photo in track(found.photos, desc=found.name, unit="photo", show=not options.quiet):
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
            name = names_of[photo.person]
            path = folder / name / names[name].new(Path(photo.path).stem, ".png")
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


# -- models ----------------------------------------------------------------------------------


def models(
    action: Literal["list", "fetch", "import", "check"] = "list",
    /,
    *names: str,
    models: str | None = None,
    quiet: bool = False,
) -> None:
    """List, fetch, import or check model files.

    Example: metaface models check

    Args:
        action: What to do.
        names: Names of models; for import: files.
        models: Folder of the model files. Default: METAFACE_MODELS in the environment, or
            ~/.cache/metaface/models.
        quiet: Show no progress bars.
    """
    from metaface.recognition import models as files
    from metaface.recognition.embedders import importing

    if action == "list":
        for row in files.list_models(models):
            where = row.path or f"metaface models fetch {row.name}"
            print(f"{row.name:20} {row.kind:9} {row.size / 1e6:5.1f} MB  {row.state:9} {where}")
            print(f"{'':20} licence: {row.licence}")
    elif action == "fetch":
        for name in names or [n for n in files.MODELS if n != "yunet_dynamic"]:
            entry = files.get_model(name)
            print(f"{name}: {entry.url}\nlicence: {entry.licence}")
            print(files.fetch(name, models, progress=not quiet))
    elif action == "import":
        if not names:
            raise ValueError("metaface models import FILE...: name at least one")
        for name in names:
            print(importing.import_weights(name, models))
    else:
        _check(names, models)


def _check(names: Sequence[str], folder: str | None) -> None:
    from metaface.recognition import models
    from metaface.recognition.embedders import known, loading

    rows = models.list_models(folder)
    for name in names:
        if name not in [row.name for row in rows]:
            raise ValueError(
                f"no model {name!r} to check: choose of {', '.join(row.name for row in rows)}"
            )
    chosen = [row for row in rows if not names or row.name in names]
    for row in chosen:
        if row.state == "missing":
            print(f"{row.name}: missing")
        elif row.kind == "detector":
            print(f"{row.name}: {models.find(row.name, folder)}, as published")
        else:
            likeness = known.check_known_answer(loading.load(row.name, folder))
            answer = (
                "no known answer" if likeness is None else f"known answer, cosine {likeness:.6f}"
            )
            print(f"{row.name}: {row.path}, {answer}")
    if all(row.state == "missing" for row in chosen):
        raise models.ModelMissing(
            f"none of them is in {models.models_folder(folder)}: see metaface models list"
        )

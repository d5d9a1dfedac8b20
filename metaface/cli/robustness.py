"""``metaface robustness | slices``: where, and for whom, recognition is weak."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from metaface import checkpoint, data
from metaface._json import write_json
from metaface._lock import alone_in
from metaface.arguments import count, count_or_none, device, share
from metaface.cli.recognition import add_models, embedder_of
from metaface.data import FaceSet
from metaface.data.attributes import read_attributes, read_column
from metaface.evaluation.corruptions import CORRUPTIONS
from metaface.evaluation.degradation import Level, dial_robustness, robustness
from metaface.experiments.protocols import AsNetwork, aligned
from metaface.experiments.robustness import RENDER, People, upright
from metaface.learners import MetaLearner, Prototypical
from metaface.learners.spec import load_model
from metaface.metrics.groups import Slices, as_groups, slice_identification, slice_verification
from metaface.recognition.embedders import loading
from metaface.recognition.recognizer import DEFAULT
from metaface.report.robustness import slices_table, write_robustness, write_slices
from metaface.synthetic import STEPS, Renders
from metaface.training.loop import choose_device


def load_people(o: argparse.Namespace) -> People:
    """What ``--data`` holds, for the checkpoint or, without one, for the embedder."""
    rendered = o.data.split(":")[0] == "synthetic"
    counts = {"people": o.people, "photos": o.photos} if rendered else {}
    if o.checkpoint:
        learner, spec = load_model(o.checkpoint)
        faces = data.load(
            o.data,
            image_size=spec.image_size,
            channels=spec.channels,
            crop=spec.crop,
            progress=not o.quiet,
            **counts,
        )
        if seen := checkpoint.load(o.checkpoint).get("seen"):
            faces = faces.unseen(**seen)
        return People(learner, faces)
    if rendered:
        network = _network(o)
        made = data.load(o.data, image_size=RENDER, progress=not o.quiet, **counts)
        truth = {name: values[made.rows] for name, values in made.truth.items()}
        crops = upright(made.images, truth["landmarks"])
        return People(
            network,
            FaceSet.from_arrays(
                crops, made.person, people=made.people, name=made.name, truth=truth
            ),
        )
    detector, embedder = embedder_of(o)
    found = aligned(o.data, detector, embedder, progress=not o.quiet)
    print(f"{len(found.skipped)} photographs without a usable face, or there twice, left out")
    return People(Prototypical(AsNetwork(embedder), "cosine"), found.faces(), found.paths)


def _network(o: argparse.Namespace) -> MetaLearner:
    return Prototypical(AsNetwork(loading.load(o.weights or DEFAULT, o.models)), "cosine")


# -- robustness ------------------------------------------------------------------------------


@alone_in(lambda o: o.out)
def _robustness(o: argparse.Namespace) -> None:
    known: Sequence[str] = tuple(STEPS if o.dials else CORRUPTIONS)
    chosen = {
        "nuisances": tuple(o.nuisances or known),
        "ways": o.ways,
        "shots": o.shots,
        "queries": o.queries,
        "episodes": o.episodes,
        "seed": o.seed,
        "both": o.both,
        "progress": not o.quiet,
    }
    if o.dials:
        levels = _by_dials(o, chosen)
        what = f"procedural faces, {o.people} people"
    else:
        people = load_people(o)
        what = people.faces.describe()
        print(what)
        people.learner.to(choose_device(o.device))
        levels = robustness(people.learner, people.faces, **chosen)
    for level in levels:
        if level.severity:
            print(
                f"{level.nuisance:>10} {level.severity}: {level.accuracy:.3f} ± {level.ci95:.3f}, "
                f"{level.drop:.3f} ± {level.drop_ci95:.3f} below"
            )
    print(f"as it is: {levels[0].accuracy:.3f} ± {levels[0].ci95:.3f}")
    out = Path(o.out)
    rows = [level.row() for level in levels]
    side = "support and query" if o.both else "query"
    write_json(
        out / "results.json",
        {"data": what, "ways": o.ways, "shots": o.shots, "corrupted": side, "rows": rows},
    )
    title = f"{o.ways}-way {o.shots}-shot, {side} photographs changed: {what}"
    write_robustness(out / "report.html", title, levels, o.ways)
    print(f"{out / 'results.json'}\n{out / 'report.html'}")


def _by_dials(o: argparse.Namespace, chosen: dict) -> list[Level]:
    size = RENDER
    if o.checkpoint:
        learner, spec = load_model(o.checkpoint)
        size = spec.image_size

        def prepare(made: Renders) -> np.ndarray:
            if spec.channels == 3:
                return made.images
            grey = made.images @ np.array([0.299, 0.587, 0.114])
            return np.rint(grey)[..., None].astype(np.uint8)
    else:
        learner = _network(o)

        def prepare(made: Renders) -> np.ndarray:
            return upright(made.images, made.landmarks)

    return dial_robustness(
        learner.to(choose_device(o.device)),
        prepare,
        people=o.people,
        photos=o.photos,
        image_size=size,
        **chosen,
    )


# -- slices ----------------------------------------------------------------------------------


@alone_in(lambda o: o.out)
def _slices(o: argparse.Namespace) -> None:
    people = load_people(o)
    print(people.faces.describe())
    groups = {by: _groups(o, people, by) for by in o.by}
    embeddings = people.embeddings()
    found: list[Slices] = []
    for by, group in groups.items():
        given = {"by": by, "seed": o.seed}
        person = people.faces.person
        found.append(slice_verification(embeddings, person, group, fmr=o.fmr, **given))
        found.append(
            slice_identification(
                embeddings, person, group, shots=o.enrolled_photos, fpir=o.fpir, **given
            )
        )
    for slices in found:
        print(slices_table(slices))
    out = Path(o.out)
    write_json(
        out / "results.json",
        {
            "data": str(o.data),
            "attributes": o.attributes,
            "slices": [
                {
                    "kind": s.kind,
                    "by": s.by,
                    "asked": s.asked,
                    "threshold": s.threshold,
                    "rows": s.rows(),
                }
                for s in found
            ],
        },
    )
    write_slices(out / "report.html", found)
    print(f"{out / 'results.json'}\n{out / 'report.html'}")


def _groups(o: argparse.Namespace, people: People, by: str) -> np.ndarray:
    faces = people.faces
    if o.attributes is None:
        known = [n for n, values in faces.truth.items() if values.ndim == 1]
        if by not in known:
            raise ValueError(
                f"{faces.name} knows nothing of {by!r}"
                + (f": it has {', '.join(known)}" if known else ": give --attributes FILE.csv")
            )
        return as_groups(by, faces.truth[by][faces.rows], o.bins)
    key, attributes = read_attributes(o.attributes)
    names: Sequence[str]
    if key == "person":
        names = [faces.people[p] for p in faces.person]
    elif people.paths is None:
        raise ValueError(
            f"{o.attributes} is about paths, which a checkpoint's photographs do not keep: give "
            "a column person, or leave --checkpoint out"
        )
    else:
        names = people.paths
    try:
        return as_groups(by, read_column(attributes, by, names), o.bins)
    except ValueError as error:
        raise ValueError(f"{o.attributes}: {error}") from error


# -- commands --------------------------------------------------------------------------------


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the commands; see :func:`metaface.cli.recognition.add`."""
    p = command("robustness", _robustness, "measure accuracy against light, blur, occlusion, ...")
    p.add_argument(
        "checkpoint",
        nargs="?",
        help="checkpoint.pt of metaface train; without it, recognition is "
        "measured: photographs are detected, aligned and embedded",
    )
    _add_data(p, 10)
    p.add_argument(
        "--dials",
        action="store_true",
        help="turn up the renderer's dials, one by one, instead of corrupting --data",
    )
    p.add_argument(
        "--nuisances",
        nargs="+",
        metavar="NAME",
        help=f"of {', '.join(CORRUPTIONS)}; with --dials: {', '.join(STEPS)}",
    )
    for name, default in (("ways", 5), ("shots", 1), ("queries", 5), ("episodes", 500)):
        p.add_argument(f"--{name}", type=count, default=default, help=f"default: {default}")
    p.add_argument("--both", action="store_true", help="change support photographs, too")
    p.add_argument(
        "--device", type=device, help="cpu, cuda, ...; default: a GPU where there is one"
    )
    p.add_argument("--out", default="robustness", help="folder; default: robustness")
    add_models(p)

    p = command("slices", _slices, "error rates of groups of people at one threshold")
    p.add_argument("--checkpoint", help="of metaface train; photographs as they are, not aligned")
    _add_data(p, 10)
    p.add_argument(
        "--attributes",
        metavar="FILE.csv",
        help="a row a person (column person) or a photograph (path); default: what "
        "procedural faces know of themselves",
    )
    p.add_argument("--by", nargs="+", required=True, metavar="COLUMN", help="attributes")
    p.add_argument("--bins", type=count, default=3, help="groups of a number; default: 3")
    p.add_argument("--fmr", type=share, default=0.01, help="of everybody's pairs; default: 0.01")
    p.add_argument("--fpir", type=share, default=0.05, help="of everybody; default: 0.05")
    p.add_argument("--enrolled-photos", type=count, default=1, help="a person; default: 1")
    p.add_argument("--out", default="slices", help="folder; default: slices")
    add_models(p)


def _add_data(p: argparse.ArgumentParser, photos: int) -> None:
    p.add_argument("--data", default="synthetic", help="people: folder, zip or CSV, or synthetic")
    p.add_argument("--people", type=count, default=200, help="if procedural; default: 200")
    p.add_argument("--photos", type=count, default=photos, help=f"of each; default: {photos}")
    p.add_argument(
        "--seed", type=count_or_none, default=0, help="of episodes, pairs and corruptions"
    )

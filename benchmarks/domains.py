"""Adapting a pretrained network to another kind of face photograph, and what it costs elsewhere.

python benchmarks/domains.py sketch cufs_photos.zip cufs_sketches.zip --keep lfw.zip
python benchmarks/domains.py light yaleb.zip --keep lfw.zip

The people are halved by seed; the network adapts to one half (a fifth of it validates) by
Prototypical tasks, photograph against sketch or light against light, and is tested on the other
half: rank-1 of a sketch among the photographs, or 20-way 1-shot. In turns, tasks are of people of
--keep with 3 or 4 photographs. How far to go from the pretrained to the adapted weights is chosen
on validation people, of the new domain and of --keep, whose other people are tested 20-way 1-shot
with the *same* weights.
"""

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

import metaface as mf
from metaface import nets
from metaface.data._sources import open_source
from metaface.experiments.protocols import AlignedFaces, EmbedderNetwork, align_people
from metaface.faces import choose
from metaface.faces.alignment import align
from metaface.faces.detect import YuNet
from metaface.faces.exposure import brighten_dark
from metaface.faces.photos import read
from metaface.recognition import Network, Preprocessing, models
from metaface.training.weight_interpolation import Measure, interpolate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shift", choices=("sketch", "light"))
    parser.add_argument("data", nargs="+", help="photographs and sketches; or lights")
    parser.add_argument("--keep", required=True, help="photographs that must not get worse")
    parser.add_argument(
        "--given",
        action="store_true",
        help="all photographs, aligned alike: of a set that was "
        "cropped by hand, and in which faces are too dark to be found",
    )
    parser.add_argument("--models", help="folder of the model files")
    parser.add_argument(
        "--tune", default="full", help="see metaface.nets.set_trainable; default: full"
    )
    parser.add_argument("--iterations", type=int, default=60, help="default: 60")
    parser.add_argument("--lr", type=float, default=3e-4, help="default: 3e-4")
    parser.add_argument("--splits", type=int, default=5, help="random halves; default: 5")
    parser.add_argument("--out", default="domains.json", help="default: domains.json")
    options = parser.parse_args()
    detector = YuNet(models.find("yunet", options.models))
    weights = models.find("mobilefacenet_casia", options.models)
    spec = mf.ModelSpec(
        "prototypical",
        {"distance": "cosine", "scale": 20.0, "tune": options.tune},
        embedding="mobilefacenet-112x96",
        norm="pinned",
        image_size=112,
    )
    pretrained = spec.build(start=weights).embedding
    before = embedder(pretrained)
    sets = [
        in_place(source, detector) if options.given else align_people(source, detector, before)
        for source in options.data
    ]
    kept = align_people(options.keep, detector, before)
    photos = np.bincount(kept.person)
    others = people_of(kept, (photos >= 3) & (photos <= 4))
    keep_val, keep_test = people_of(kept, photos == 5), people_of(kept, photos >= 6)
    print(f"pretrained: {options.keep} 20-way 1-shot {few_shot(before, keep_test):.3f}")
    rows = []
    for split in range(options.splits):
        train, val, test = halves(sets, split)
        learner = spec.build(split, start=weights)
        parts = {name: train.of_domains(name) for name in train.domains} | {"kept": others}
        mf.train(
            learner,
            mf.FaceSet.join(parts),
            ways=32,
            shots=1,
            iterations=options.iterations,
            task=mf.training.Task(
                queries=1 if len(sets) > 1 else 2, lr=options.lr, meta_batch=1, across=True
            ),
            run=mf.training.Run(seed=split),
        )
        new = rank1 if len(sets) > 1 else few_shot
        net, choice = interpolate(
            pretrained,
            learner.embedding,
            on(new, val),
            [on(few_shot, keep_val)],
        )
        row = {
            "split": split,
            "before": new(before, test),
            "after": on(new, test)(net),
            "keep": on(few_shot, keep_test)(net),
            "blend": choice.as_dict(),
            "trainable": nets.count_trainable(learner),
        }
        rows.append(row)
        print(json.dumps(row), flush=True)
        Path(options.out).write_text(json.dumps(rows, indent=1) + "\n")
    for name in ("before", "after", "keep"):
        values = np.array([row[name] for row in rows])
        spread = f"{values.min():.3f} to {values.max():.3f}"
        print(f"{name}: {values.mean():.3f} over {len(values)} splits ({spread})")


def embedder(net: torch.nn.Module) -> Network:
    """With the mirrored crop's embedding added, as the recogniser has it."""
    return Network(net, Preprocessing(mirror=True), name="domains", architecture="112x96")


def on(how: Callable[[Network, mf.FaceSet], float], faces: mf.FaceSet) -> Measure:
    return lambda net: how(embedder(net), faces)


def in_place(source: str, detector: YuNet) -> AlignedFaces:
    """All photographs of a set that was cropped by hand, aligned by the median of the landmarks."""
    with open_source(Path(source)) as found:
        pictures = [read(partial(found.read, photo)) for photo in found.photos]
        named = [photo.person for photo in found.photos]
        paths = tuple(photo.path for photo in found.photos)
    seen = [(picture, detector(picture)) for picture in pictures]
    points = [
        detector.refine(p, choose.pick_most_prominent(p, f)).landmarks for p, f in seen if len(f)
    ]
    place = np.median(np.concatenate(points), 0, keepdims=True)
    crops = brighten_dark(np.concatenate([align(picture, place) for picture in pictures]))
    people, person = np.unique(named, return_inverse=True)
    empty = np.empty((len(crops), 0), np.float32)
    return AlignedFaces(Path(source).stem, crops, empty, person, tuple(people.tolist()), paths, ())


def halves(sets: list[AlignedFaces], split: int) -> tuple[mf.FaceSet, mf.FaceSet, mf.FaceSet]:
    """Train, validation and test people, by seed; of two sets, their domains photo and sketch."""
    faces = sets[0].faces()
    if len(sets) > 1:
        faces = mf.FaceSet.join({"photo": faces, "sketch": sets[1].faces()})
    order = np.random.default_rng(split).permutation(faces.person_ids)
    mine = order[: len(order) // 2 if len(sets) > 1 else 18]
    held = max(4, len(mine) // 5)
    parts = mine[held:], mine[:held], order[len(mine) :]
    train, val, test = (faces.of_people(part) for part in parts)
    return train, val, test


def people_of(people: AlignedFaces, which: np.ndarray) -> mf.FaceSet:
    return people.faces().of_people(np.flatnonzero(which))


def embedded(net: Network, faces: mf.FaceSet) -> np.ndarray:
    return net(np.asarray(faces.store)[faces.rows])


def rank1(net: Network, faces: mf.FaceSet) -> float:
    """The share of people whose sketch is most like their own photograph."""
    photos, sketches = (faces.of_domains(name) for name in ("photo", "sketch"))
    best = (embedded(net, sketches) @ embedded(net, photos).T).argmax(1)
    return float((photos.person[best] == sketches.person).mean())


def few_shot(net: Network, faces: mf.FaceSet) -> float:
    """20-way (or as many people as there are) 1-shot, by the nearest photograph's cosine."""
    queries = min(5, int(np.median(faces.photos()[faces.person_ids])) - 1)
    nearest = mf.learners.Prototypical(EmbedderNetwork(net), "cosine")
    return mf.evaluate(
        nearest, faces, ways=min(20, len(faces.person_ids)), queries=queries, progress=False
    ).accuracy


if __name__ == "__main__":
    main()

"""One network for many tasks, on real faces; and as a start of meta-learning.

python benchmarks/joint_transfer.py train --tasks detection+alignment recognition all --out runs
python benchmarks/joint_transfer.py train --tasks all --real lfw_deepfunneled.zip --out runs
python benchmarks/joint_transfer.py real "all=runs/models/all/{seed}/model.safetensors" \\
    "all + real=runs/models/all, real/{seed}/model.safetensors" \\
    --sets att=att_faces.zip lfw=lfw_deepfunneled.zip:6 --out runs
python benchmarks/joint_transfer.py start "one=runs/models/recognition/{seed}/model.safetensors" \\
    "all=runs/models/all/{seed}/model.safetensors" \\
    --sets att=att_faces.zip lfw=lfw_deepfunneled.zip:6 --out runs

train: networks of some tasks, on scenes of procedural people, or of as many scenes and steps with
crops of real people among them (LFW people of 2 to 4 photographs; boxes and landmarks from YuNet).

real: average precision on scenes with one photograph each, of a face that YuNet is sure of (0.8)
and with none beside it (0.3), put upright at a random place of a textured 128-pixel scene with
other things, the face 30 to 100 pixels long. Soft: cut out about the face with soft edges, as in
training with --real. Sharp: the photograph as a rectangle, which is in no training scene. The truth
is YuNet's box and landmarks, as it gave them on the original. It differs from what procedural
scenes teach (hairline to chin) by little: on 354 renders the two boxes' IoU has a median of 0.85
and is below 0.72 in 5%, so no map between the two is used; landmarks differ by 4% of the square
root of the box's area. The constant box is the best one box to say of every picture, chosen on the
test itself.

start: the embedding part of each network as the start of meta-learners, which train on procedural
people whom no network has seen, at equal budgets, each at the rates that are best on validation
people (--rates times the learner's own, the outer one and that of the body in a task; Reptile's
outer one stays). Tests: procedural people again unseen, and real sets, all aligned. "class means"
is not meta-trained; "fresh" is the same architecture at random weights. The last layer of every
start, the fresh one too, is shifted and scaled so that embeddings of the people meta-trained on
have mean zero and a mean length of 2: learners with a linear head depend on both, and pretraining
gives lengths far apart. The difference to "fresh" or to the first start is over the same tasks.

SET=SOURCE:N takes people with at least N photographs. {seed} in a file name is the seed's number.
Each unit is a file in --out; run the same again to go on.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from portraits import Portraits, align_faces, constant_box, find_portraits
from torch import nn
from tqdm import tqdm

import metaface as mf
from metaface._json import read_record, write_json, write_record
from metaface._progress import track
from metaface.experiments.joint_scenes import compose_batches
from metaface.faces.detect import YuNet
from metaface.metrics.detection import average_precision
from metaface.metrics.intervals import ci95_over_seeds
from metaface.multitask import (
    ATTRIBUTES,
    EXPRESSIONS,
    HEADS,
    FaceAnnotations,
    FaceSprites,
    MultiTask,
    compose,
    fit,
    measure,
    to_tensor,
)
from metaface.recognition import models
from metaface.report import draw_annotations

SIZE, SIDE = 128, (30.0, 100.0)  # pixels of a scene; of a face in it
LEAST = 0.02  # score from which boxes count in average precision
LENGTH = 2.0  # of embeddings, where meta-training starts
UNSURE = 0.3  # score from which YuNet's second face makes a photograph unfit
REAL_PHOTOS = (2, 4)  # of the people whose crops are trained on
TRAIN, META, VAL, TEST = 0, 10_000, 20_000, 30_000  # first ids of procedural people
LEARNERS: dict[str, tuple[str, dict[str, Any]]] = {
    "class means": ("prototypical", {"distance": "cosine", "scale": 20.0}),
    "prototypical": ("prototypical", {"distance": "cosine", "scale": 20.0}),
    "maml": ("maml", {"inner_lr": 0.01, "head_lr": 0.5}),
    "anil": ("anil", {}),
    "reptile": ("reptile", {"inner_lr": 2e-3, "head_lr": 2e-2}),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)

    def command(name: str, run: Callable[[argparse.Namespace], None]) -> argparse.ArgumentParser:
        p = commands.add_parser(name)
        p.set_defaults(run=run)
        p.add_argument("--out", default="joint_transfer", help="folder; default: joint_transfer")
        p.add_argument("--models", help="folder of the published weights")
        p.add_argument("--seeds", type=int, default=1, help="default: 1")
        p.add_argument("--device", default="cpu", help="default: cpu")
        return p

    p = command("train", train)
    p.add_argument("--tasks", nargs="+", default=["all"], help="such as detection+recognition")
    p.add_argument("--real", nargs="*", default=[], metavar="SOURCE", help="sets with real people")
    p.add_argument(
        "--share", type=float, default=0.5, help="of scenes with real faces; default: 0.5"
    )
    p.add_argument("--people", type=int, default=400, help="procedural ones; default: 400")
    p.add_argument("--photos", type=int, default=6, help="of each; default: 6")
    p.add_argument("--iterations", type=int, default=4000, help="default: 4000")
    p.add_argument("--batch", type=int, default=16, help="scenes a step; default: 16")
    p.add_argument("--backbone", default="small", help="default: small")
    p = command("real", real)
    p.add_argument("files", nargs="+", metavar="NAME=FILE")
    p.add_argument("--sets", nargs="+", required=True, metavar="SET=SOURCE[:N]")
    p.add_argument("--scenes", type=int, default=1000, help="pasted, of each set; default: 1000")
    p.add_argument("--limit", type=int, default=1000, help="photographs of a set; default: 1000")
    p = command("start", start)
    p.add_argument("files", nargs="+", metavar="NAME=FILE")
    p.add_argument("--sets", nargs="+", default=[], metavar="SET=SOURCE[:N]")
    p.add_argument("--learners", nargs="+", default=list(LEARNERS), choices=LEARNERS)
    p.add_argument("--iterations", type=int, default=300, help="meta-training; default: 300")
    p.add_argument("--rates", type=float, nargs="+", default=[1.0, 0.1])
    p.add_argument("--people", type=int, default=200, help="meta-trained on; default: 200")
    p.add_argument("--photos", type=int, default=10, help="of each; default: 10")
    p.add_argument("--image-size", type=int, default=64, help="of crops, pixels; default: 64")
    p.add_argument("--shots", type=int, nargs="+", default=[1])
    p.add_argument("--episodes", type=int, default=600, help="of each test; default: 600")
    p.add_argument("--val-episodes", type=int, default=100, help="default: 100")
    o = parser.parse_args()
    o.run(o)


def detector(o: argparse.Namespace) -> YuNet:
    return YuNet(models.find("yunet", o.models), UNSURE)


def named(files: list[str], seed: int) -> dict[str, Path]:
    pairs = (text.split("=", 1) for text in files)
    return {name: Path(path.replace("{seed}", str(seed))) for name, path in pairs}


def load_set(text: str, o: argparse.Namespace, limit: int | None = None) -> Portraits:
    """Of SOURCE or SOURCE:N."""
    source, _, least = text.rpartition(":") if text.rpartition(":")[2].isdigit() else (text, "", "")
    return find_portraits(source, detector(o), photos=(int(least or 1), np.inf), limit=limit)


# -- networks --------------------------------------------------------------------------------


def train(o: argparse.Namespace) -> None:
    pools = [FaceSprites.procedural(range(TRAIN, TRAIN + o.people), o.photos, progress=True)]
    counts = [o.batch]
    if o.real:
        found = [find_portraits(source, detector(o), photos=REAL_PHOTOS) for source in o.real]
        pools.append(FaceSprites.join(one.take(one.alone).cut_out(SIZE) for one in found))
        counts = [o.batch - round(o.share * o.batch), round(o.share * o.batch)]
    tqdm.write(" and ".join(f"{len(p)} photographs of {p.name}" for p in pools))
    units = [(tasks, seed) for tasks in o.tasks for seed in range(o.seeds)]
    for tasks, seed in track(units, unit="network"):
        folder = Path(o.out) / "models" / (tasks + (", real" if o.real else "")) / str(seed)
        if (folder / "model.safetensors").exists():
            continue
        options = {
            "recognition": {"people": sum(len(p.people) for p in pools)},
            "expression": {"classes": len(EXPRESSIONS)},
            "attributes": {"count": len(ATTRIBUTES)},
        }
        heads = list(HEADS) if tasks == "all" else tasks.split("+")
        torch.manual_seed(seed)
        model = MultiTask(
            {name: options.get(name, {}) for name in heads}, backbone=o.backbone, norm="frozen"
        )
        scenes = compose_batches(list(zip(pools, counts, strict=True)), SIZE, (24, 96), seed)
        fit(
            model,
            scenes,
            lr=4e-3,
            iterations=o.iterations,
            run=mf.training.Run(
                seed=seed, device=o.device, out=folder, resume=True, label=folder.parent.name
            ),
        )


# -- detection on real faces -----------------------------------------------------------------


def real(o: argparse.Namespace) -> None:
    out = Path(o.out) / "real"
    check_settings(out, o)
    rows = []
    for name, text in (one.split("=", 1) for one in o.sets):
        found = load_set(text, o, o.limit)
        found = found.take(found.alone)
        tests = {
            kind: compose(
                found.cut_out(2 * int(SIDE[1]), sharp=kind == "sharp"),
                o.scenes,
                size=SIZE,
                faces=(1, 1),
                side=SIDE,
                turn=0,
                seed=1,
            )
            for kind in ("soft", "sharp")
        }
        for kind, test in tests.items():
            some = test.take(np.arange(min(32, len(test))))
            cv2.imwrite(str(out / f"{name}-{kind}.png"), draw_annotations(vars(some))[..., ::-1])
            rows.append(
                {
                    "set": name,
                    "kind": kind,
                    "network": "constant box",
                    "seeds": 0,
                    "pictures": len(test),
                    "ap50": constant_box(test)[1],
                }
            )
            for network in named(o.files, 0):
                cells = []
                for seed in range(o.seeds):
                    path = out / name / kind / f"{network}-{seed}.json"
                    if not path.exists():
                        write_record(path, measured(named(o.files, seed)[network], test, o))
                    cells.append(read_record(path))
                keys = [k for k in cells[0] if k != "file"]
                means = {k: mean([cell[k] for cell in cells]) for k in keys}
                spread = [min(c["ap50"] for c in cells), max(c["ap50"] for c in cells)]
                rows.append(
                    {
                        "set": name,
                        "kind": kind,
                        "network": network,
                        "seeds": o.seeds,
                        "pictures": len(test),
                        "spread": spread,
                        **means,
                    }
                )
    write_json(Path(o.out) / "real.json", {"settings": settings(o), "rows": rows})
    print("\n| set | pictures | network | AP50 [95%] | found at 0.3 | NME, eyes | NME, box |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        ap = f"{row['ap50']:.3f}"
        if "low" in row:
            ap += f" [{row['low']:.3f}, {row['high']:.3f}]"
        if row["seeds"] > 1:
            ap += f", seeds {row['spread'][0]:.3f} to {row['spread'][1]:.3f}"
        rest = [f"{row[k]:.3f}" if k in row else "" for k in ("matched", "nme", "nme_box")]
        where = f"{row['set']}, {row['kind']} | {row['pictures']}"
        print(f"| {where} | {row['network']} | {ap} | {' | '.join(rest)} |")


def mean(values: list[float | None]) -> float:
    """NaN where a network found no face to measure, for which JSON has None."""
    return float(np.mean([np.nan if value is None else value for value in values]))


def measured(path: Path, test: FaceAnnotations, o: argparse.Namespace) -> dict[str, Any]:
    """AP50 with its interval over pictures, and what :func:`metaface.multitask.measure` says of
    faces found and of landmarks."""
    model = MultiTask.load(path).to(o.device)
    said = measure(model, test, device=o.device)
    detected, truth = [], []
    for i in np.flatnonzero(test.complete):
        found = model.predict(to_tensor(test.images[i : i + 1], o.device), LEAST)
        detected.append((found.boxes.cpu().numpy(), found.scores.cpu().numpy()))
        truth.append(test.boxes[test.image == i])
    ap = average_precision(detected, truth, [np.zeros(len(t), bool) for t in truth]).ap
    kept = {key: value for key, value in said.items() if key in ("matched", "nme", "nme_box")}
    return {"file": str(path), "ap50": ap.value, "low": ap.low, "high": ap.high} | kept


def check_settings(out: Path, o: argparse.Namespace) -> None:
    """Refuse a folder with units of other settings; seeds, files and learners may be added."""
    free = ("run", "out", "models", "seeds", "device", "files", "sets", "learners")
    mine = {name: value for name, value in vars(o).items() if name not in free}
    path = out / "settings.json"
    if path.exists() and (there := read_record(path)) != mine:
        raise SystemExit(f"{out} was made with {there}, now {mine}: use another --out")
    write_record(path, mine)


def settings(o: argparse.Namespace) -> dict[str, Any]:
    return {name: value for name, value in vars(o).items() if name != "run"}


# -- starts of meta-learning -----------------------------------------------------------------


def start(o: argparse.Namespace) -> None:
    out = Path(o.out) / "start"
    check_settings(out, o)
    people, val, tests = crops_of(o)
    names = ["fresh", *named(o.files, 0)]
    units = [(n, k, s) for s in range(o.seeds) for k in o.learners for n in names]
    bar = track(units, unit="unit")
    for name, learner, seed in bar:
        path = out / name / f"{learner}-{seed}.json"
        bar.set_postfix_str(f"{name}, {learner}, seed {seed}")
        if not path.exists():
            write_record(path, meta_trained(name, learner, seed, people, val, tests, o))
    rows = []
    for test in tests:
        for shots in map(str, o.shots):
            for learner in o.learners:
                cells = {
                    name: np.array(
                        [
                            read_record(out / name / f"{learner}-{s}.json")["tests"][test][shots]
                            for s in range(o.seeds)
                        ]
                    )
                    for name in names
                }
                for name, found in cells.items():
                    row = {
                        "set": test,
                        "shots": int(shots),
                        "learner": learner,
                        "start": name,
                        "accuracy": float(found.mean()),
                        "ci95": ci95_over_seeds(found),
                    }
                    for other in names[:2]:
                        if other != name:
                            away = found - cells[other]
                            row[f"less {other}"] = [float(away.mean()), ci95_over_seeds(away)]
                    rows.append(row)
    write_json(Path(o.out) / "start.json", {"settings": settings(o), "rows": rows})
    others = " | ".join(f"less {name}" for name in names[:2])
    print(f"\n| set | shots | learner | start | accuracy, % | {others} |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        less = [
            "{:+.1f} ± {:.1f}".format(*(100 * v for v in row[f"less {n}"]))
            if f"less {n}" in row
            else ""
            for n in names[:2]
        ]
        print(
            f"| {row['set']} | {row['shots']} | {row['learner']} | {row['start']} | "
            f"{100 * row['accuracy']:.1f} ± {100 * row['ci95']:.1f} | {' | '.join(less)} |"
        )


def crops_of(o: argparse.Namespace) -> tuple[mf.FaceSet, mf.FaceSet, dict[str, mf.FaceSet]]:
    """Aligned: people to meta-train on, to validate on, and the tests."""

    def drawn(first: int, people: int) -> mf.FaceSet:
        pool = FaceSprites.procedural(range(first, first + people), o.photos, 192, progress=True)
        return align_faces(
            list(pool.images), pool.landmarks, pool.person, pool.people, "synthetic", o.image_size
        )

    tests = {"procedural": drawn(TEST, max(50, o.people // 2))}
    for name, text in (one.split("=", 1) for one in o.sets):
        tests[name] = load_set(text, o).align(o.image_size)
    for test in tests.values():
        tqdm.write(test.describe())
    return drawn(META, o.people), drawn(VAL, max(30, o.people // 4)), tests


def meta_trained(
    name: str,
    learner: str,
    seed: int,
    people: mf.FaceSet,
    val: mf.FaceSet,
    tests: dict[str, mf.FaceSet],
    o: argparse.Namespace,
) -> dict[str, Any]:
    """Accuracies of the episodes of each test, at the rate that is best on validation people."""
    kind, options = LEARNERS[learner]
    best: tuple[float, float, Any] = (-1.0, 0.0, None)
    found = {}
    for rate in o.rates if learner != "class means" else [0.0]:
        own = dict(options)
        if rate and "inner_lr" in own:  # of the body: too high, it is forgotten in a task
            own["inner_lr"] *= rate
        made = mf.learners.build(kind, embedding(name, seed, people, o), **own).to(o.device)
        if rate:
            lr = made.recipe.lr
            mf.train(
                made,
                people,
                iterations=o.iterations,
                task=mf.training.Task(lr=lr if learner == "reptile" else rate * lr),
                run=mf.training.Run(seed=seed, device=o.device, progress=False),
            )
        judged = mf.evaluate(made, val, episodes=o.val_episodes, seed=seed, progress=False)
        found[str(rate)] = judged.accuracy
        best = max(best, (judged.accuracy, rate, made), key=lambda one: one[0])
    return {
        "rate": best[1],
        "validation": found,
        "tests": {
            test: {
                str(shots): np.round(
                    mf.evaluate(
                        best[2], faces, shots=shots, episodes=o.episodes, seed=seed, progress=False
                    ).accuracies,
                    6,
                ).tolist()
                for shots in o.shots
            }
            for test, faces in tests.items()
        },
    }


def embedding(name: str, seed: int, people: mf.FaceSet, o: argparse.Namespace) -> nn.Module:
    """The start called ``name``, its last layer shifted and scaled as the docstring says; "fresh"
    is built as the first file's."""
    files = named(o.files, seed)
    if name == "fresh":
        spec = MultiTask.load(next(iter(files.values()))).spec
        torch.manual_seed(seed)
        found = MultiTask.from_spec(spec).embedding()
    else:
        found = MultiTask.load(files[name]).embedding()
    some = np.random.default_rng(0).permutation(len(people))[:256]
    with torch.no_grad():
        said = torch.cat(
            [found(to_tensor(people.images[part])) for part in np.array_split(some, 8)]
        )
        mean = said.mean(0)
        times = LENGTH / (said - mean).norm(dim=1).mean()
        found.layer.bias.sub_(mean).mul_(times)
        found.layer.weight.mul_(times)
    return found.train()


if __name__ == "__main__":
    main()

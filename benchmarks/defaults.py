"""Do the defaults learn? Every learner on conv4 at three sizes, and on every network at 28 pixels.

A cell is a learner, a network and a size, by defaults alone. Where 100 outer steps fit into
``--seconds``, it is trained for 100 to 300 and tested on people it has not seen, against itself
untrained, on the same episodes. Elsewhere it takes five outer steps on one fixed batch, and its
loss is compared. Cells that are done are kept in ``--out``, one file each, so that the script goes
on where it was; several processes may share the work.

python benchmarks/defaults.py --out defaults [--seconds 60] [--cells maml-conv4-28 ...]
"""

import argparse
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import metaface as mf
from metaface._json import read_record, write_record
from metaface._lock import FolderInUse, locked
from metaface.learners.base import task_loss

NETWORKS = (*mf.nets.NETS, "torchvision:resnet18")
LEAST, MOST, STEPS = 100, 300, 5
PEOPLE = {"people": 300, "photos": 10}  # procedural


def cells() -> Iterator[tuple[str, str, int]]:
    """Learner, network, size; the cheap ones first."""
    for size in (28, 64, 112):
        yield from ((learner, "conv4", size) for learner in mf.learners.LEARNERS)
    for network in NETWORKS:
        if network != "conv4":
            yield from ((learner, network, 28) for learner in mf.learners.LEARNERS)


def measure(learner: str, network: str, size: int, seconds: float, episodes: int) -> dict[str, Any]:
    """One cell."""
    faces = mf.data.load("synthetic", image_size=size, **PEOPLE)  # type: ignore[arg-type]
    train, val, test = faces.split(seed=0, test_photos=6)
    spec = mf.ModelSpec(learner, embedding=network, image_size=size)
    model = spec.build(seed=0)
    recipe, _ = mf.training.fitting.fit_recipe(model.recipe, train)
    sampler = mf.EpisodeSampler(train, recipe.ways, recipe.shots, recipe.queries)
    found: dict[str, Any] = {"learner": learner, "network": network, "size": size}
    before, after, took = stepped(spec, sampler, recipe)
    found |= {"loss": before, "loss_after": after, "step_seconds": took}
    if LEAST * took > seconds:
        return found
    model = spec.build(seed=0)
    given = {"ways": 5, "shots": 1, "episodes": episodes, "progress": False}
    untrained = mf.evaluate(model, test, **given)  # type: ignore[arg-type]
    steps = min(MOST, max(LEAST, int(seconds / took)))
    history = mf.train(model, train, val, iterations=steps, run=mf.training.Run(progress=False))
    trained = mf.evaluate(model, test, **given)  # type: ignore[arg-type]
    paired = trained.accuracies - untrained.accuracies
    return found | {
        "steps": steps,
        "train_seconds": history.seconds,
        "untrained": untrained.accuracy,
        "trained": trained.accuracy,
        "gain": float(paired.mean()),
        "ci95": mf.metrics.ci95(paired),
    }


def stepped(
    spec: mf.ModelSpec, sampler: mf.EpisodeSampler, recipe: mf.learners.Recipe
) -> tuple[float, float, float]:
    """The query loss on one batch before and after five outer steps on it (the lowest), and the
    seconds of the quickest."""
    model = spec.build(seed=0)
    model.task_chunk = 1 if spec.image_size > 28 or spec.embedding != "conv4" else None
    batch = sampler.batch(0, recipe.meta_batch)
    kind = torch.optim.SGD if recipe.optimizer == "sgd" else torch.optim.Adam
    optimizer = kind(model.parameters(), lr=recipe.lr)
    mf.nets.refresh_statistics(model.embedding, [batch.support.flatten(0, 1)])

    def loss() -> float:
        with model.predicting():
            return float(task_loss(model.logits(batch), batch.query_y).detach())

    losses, times = [loss()], []
    model.train()
    for _ in range(STEPS):
        began = time.monotonic()
        model.meta_step(batch)
        if recipe.clip is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimizer.step()
        times.append(time.monotonic() - began)
        losses.append(loss())
    return losses[0], min(losses[1:]) if all(map(math.isfinite, losses)) else math.nan, min(times)


def verdict(cell: dict[str, Any]) -> str:
    """What a cell shows, as the table of docs/learning.md says it."""
    if "trained" in cell:
        sign = "" if cell["gain"] > cell["ci95"] else " **not above**"
        return (
            f"{100 * cell['untrained']:.1f} → {100 * cell['trained']:.1f}: "
            f"{100 * cell['gain']:+.1f} ± {100 * cell['ci95']:.1f} in {cell['steps']} steps{sign}"
        )
    after = cell["loss_after"]
    fell = after is not None and after < cell["loss"]
    said = f"loss {cell['loss']:.3f} → " + ("not finite" if after is None else f"{after:.3f}")
    return said + ("" if fell else " **not lower**")


def table(out: Path) -> str:
    """All cells that are done, as Markdown."""
    lines = ["| learner | network | pixels | 5-way 1-shot of unseen people, %, or loss |"]
    lines.append("|---|---|---|---|")
    for cell in cells():
        path = out / name_of(*cell) / "cell.json"
        if path.is_file():
            row = (*map(str, cell), verdict(read_record(path)))
            lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def name_of(learner: str, network: str, size: int) -> str:
    return f"{learner}-{network.replace(':', '-')}-{size}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("defaults"))
    parser.add_argument("--seconds", type=float, default=60.0, help="of training a cell")
    parser.add_argument("--episodes", type=int, default=300, help="of each test")
    parser.add_argument(
        "--cells",
        nargs="+",
        metavar="NAME",
        default=tuple(name_of(*cell) for cell in cells()),
        help="such as maml-conv4-28; default: all",
    )
    o = parser.parse_args()
    for learner, network, size in cells():
        folder = o.out / name_of(learner, network, size)
        if folder.name not in o.cells or (folder / "cell.json").is_file():
            continue
        try:
            with locked(folder):
                cell = measure(learner, network, size, o.seconds, o.episodes)
                write_record(folder / "cell.json", cell)
        except FolderInUse:  # another process does it
            continue
        except ImportError as missing:
            print(f"{learner}: left out, {missing}")
            continue
        print(f"{learner} on {network} at {size}: {verdict(cell)}", flush=True)
    print(table(o.out))


if __name__ == "__main__":
    main()

"""The papers' Omniglot table, each learner under its authors' own protocol.

python benchmarks/omniglot.py --zip omniglot_images_background.zip \
    --zip omniglot_images_evaluation.zip --cells maml-5w1s protonet-5w1s --minutes 60 --out runs

Every training has a folder in --out and goes on from its checkpoint; every finished cell is a
file there. results.json and the table are written after each. docs/omniglot.md says more.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import metaface as mf
from metaface._json import read_record, write_json, write_record
from metaface.checkpoint import CheckpointError
from metaface.learners.base import MetaLearner, State, Weights
from metaface.training import Interrupted

# -- the protocols ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Protocol:
    """What all trainings of one paper share.

    Attributes:
        characters: in training, kept out of both, and in the test.
        turned: what a quarter turn of a character is in (training, test): a ``class`` of its own,
            a ``draw`` of every task for each of its classes, or ``never`` made.
        optimizer, lr, schedule: of the outer loop.
        tasks, queries: of the test; queries a class, None: as many as shots.
    """

    characters: tuple[int, int, int]
    turned: tuple[str, str]
    optimizer: str
    lr: float
    schedule: str
    tasks: int
    queries: int | None


# Finn, Abbeel, Levine 2017 (arXiv 1703.03400, cbfinn/maml)
FINN = Protocol(
    (1100, 100, 423), ("draw", "draw"), "adam", 1e-3, "constant", tasks=600, queries=None
)
# Nichol, Achiam, Schulman 2018 (arXiv 1803.02999, openai/supervised-reptile)
NICHOL = Protocol((1200, 0, 423), ("class", "never"), "sgd", 1.0, "linear", tasks=10_000, queries=1)
# Snell, Swersky, Zemel 2017 (arXiv 1703.05175, jakesnell/prototypical-networks): the second of
# the authors' two stages, which trains on the 1028 + 172 characters for a known time
VINYALS = Protocol(
    (1028 + 172, 0, 423), ("class", "class"), "adam", 1e-3, "halving", tasks=1000, queries=15
)


@dataclass(frozen=True)
class Training:
    """One training: its tasks, its length, and its inner loop."""

    protocol: Protocol
    learner: Callable[..., MetaLearner]
    ways: int
    shots: int
    queries: int
    meta_batch: int
    iterations: int
    inner: dict[str, Any] = field(default_factory=dict)


def maml(ways: int, **inner: Any) -> MetaLearner:
    # the authors average each channel of the last layer over its 2x2 places
    net = nn.Sequential(mf.nets.Conv4(1, norm="batch", down="stride"), nn.AvgPool1d(4))
    return mf.learners.MAML(net, head_lr=None, head=nn.Linear(64, ways), **inner)


def reptile(ways: int, **inner: Any) -> MetaLearner:
    net = mf.nets.Conv4(1, norm="batch", down="stride")
    return mf.learners.Reptile(net, head_lr=None, head=nn.Linear(256, ways), **inner)


def prototypical(ways: int) -> MetaLearner:
    return mf.learners.Prototypical(mf.nets.Conv4(1, norm="frozen", down="pool"))


# inner_lr 2.0: the authors' 0.4 (5-way) and 0.1 (20-way) are of a loss summed over ways.
# Reptile makes no difference between support and query: 9 + 1 are its 10 training shots.
# fmt: off
TRAININGS = {
    "maml-5w1s": Training(
        FINN, maml, ways=5, shots=1, queries=1, meta_batch=32, iterations=60_000,
        inner={"inner_lr": 2.0, "inner_steps": 1, "test_steps": 3}),
    "maml-5w5s": Training(
        FINN, maml, ways=5, shots=5, queries=5, meta_batch=32, iterations=60_000,
        inner={"inner_lr": 2.0, "inner_steps": 1, "test_steps": 3}),
    "maml-20w1s": Training(
        FINN, maml, ways=20, shots=1, queries=1, meta_batch=16, iterations=60_000,
        inner={"inner_lr": 2.0, "inner_steps": 5, "test_steps": 5}),
    "maml-20w5s": Training(
        FINN, maml, ways=20, shots=5, queries=5, meta_batch=16, iterations=60_000,
        inner={"inner_lr": 2.0, "inner_steps": 5, "test_steps": 5}),
    "reptile-5w": Training(
        NICHOL, reptile, ways=5, shots=9, queries=1, meta_batch=5, iterations=100_000,
        inner={"inner_lr": 1e-3, "inner_steps": 5, "inner_batch": 10, "test_steps": 50}),
    "reptile-20w": Training(
        NICHOL, reptile, ways=20, shots=9, queries=1, meta_batch=5, iterations=200_000,
        inner={"inner_lr": 5e-4, "inner_steps": 10, "inner_batch": 20, "test_steps": 50}),
    "protonet-1s": Training(
        VINYALS, prototypical, ways=60, shots=1, queries=5, meta_batch=1, iterations=20_000),
    "protonet-5s": Training(
        VINYALS, prototypical, ways=60, shots=5, queries=5, meta_batch=1, iterations=20_000),
}
# fmt: on
TRAININGS |= {
    f"fo{name}": replace(training, inner={**training.inner, "first_order": True})
    for name, training in TRAININGS.items()
    if training.protocol is FINN
}
TEST_BATCH = {5: 5, 20: 10}  # Reptile's mini-batches at test

SETTINGS = ("5w1s", "5w5s", "20w1s", "20w5s")
PUBLISHED = {
    "maml": ("98.7 ± 0.4", "99.9 ± 0.1", "95.8 ± 0.3", "98.9 ± 0.2"),
    "reptile": ("95.39 ± 0.09", "98.90 ± 0.10", "88.14 ± 0.15", "96.65 ± 0.33"),
    "protonet": ("98.8", "99.7", "96.0", "98.9"),
    "fomaml": ("98.3 ± 0.5", "99.2 ± 0.2", "89.4 ± 0.5", "97.9 ± 0.1"),
    "reptile-transductive": ("97.68 ± 0.04", "99.48 ± 0.06", "89.43 ± 0.14", "97.12 ± 0.32"),
}
CELLS = {
    f"{name}-{setting}": figure
    for name, figures in PUBLISHED.items()
    for setting, figure in zip(SETTINGS, figures, strict=True)
}
MAIN_CELLS = list(CELLS)[:12]  # MAML, Reptile, ProtoNet


def training_of(cell: str) -> str:
    """The training whose weights a cell tests: several cells may share one."""
    name, setting = cell.removesuffix("-transductive").rsplit("-", 1)
    ways, shots = setting.split("w")
    name = name.removesuffix("-transductive")
    return {"reptile": f"reptile-{ways}w", "protonet": f"protonet-{shots}"}.get(name, cell)


# -- the data --------------------------------------------------------------------------------


def characters(zips: list[str]) -> mf.FaceSet:
    """Omniglot's 1623 characters at 28x28: ink 1, and paper, like the padding, 0 after 2x - 1."""
    parts = {zip: mf.data.load(zip, image_size=28, channels=1) for zip in zips}
    faces = mf.FaceSet.join(parts)
    return replace(faces, store=128 + (255 - faces.store) // 2, name="Omniglot")


def parts(faces: mf.FaceSet, protocol: Protocol) -> tuple[mf.FaceSet, mf.FaceSet]:
    """Training and test characters; the same 423 are tested under every protocol."""
    train, held, test = protocol.characters
    total = train + held + test
    if len(faces.person_ids) != total:
        raise ValueError(
            f"{len(faces.person_ids)} characters, but the protocol splits {total}: give both zips, "
            "images_background.zip and images_evaluation.zip"
        )
    training, _, testing = faces.split(seed=0, val=held / total, test=test / total)
    turn = {"class": mf.FaceSet.rotated, "draw": mf.FaceSet.turning, "never": lambda part: part}
    return turn[protocol.turned[0]](training), turn[protocol.turned[1]](testing)


# -- training and testing --------------------------------------------------------------------


class OneQueryAtATime(MetaLearner):
    """A trained learner whose batch statistics see the support and one query, never two.

    The non-transductive test of Nichol et al. 2018.
    """

    transductive = False

    def __init__(self, learner: MetaLearner) -> None:
        super().__init__(learner.embedding)
        self.learner = learner

    def theta(self) -> Weights:
        return self.learner.theta()

    def fit(self, theta: Weights, images: Tensor, labels: Tensor, ways: int) -> State:
        return {**self.learner.fit(theta, images, labels, ways), "support": images}

    def score(self, state: State, images: Tensor) -> Tensor:
        seen = (torch.cat([state["support"], query], 1) for query in images.split(1, 1))
        return torch.cat([self.learner.score(state, each)[:, -1:] for each in seen], 1)


def build(name: str) -> MetaLearner:
    """A fresh learner with its protocol's recipe."""
    training = TRAININGS[name]
    torch.manual_seed(0)
    learner = training.learner(training.ways, **training.inner)
    protocol = training.protocol
    learner.recipe = mf.learners.Recipe(  # type: ignore[misc]
        training.ways,
        training.shots,
        training.queries,
        training.meta_batch,
        protocol.optimizer,
        protocol.lr,
        protocol.schedule,
        clip=None,
    )
    return learner


def run(cell: str, faces: mf.FaceSet, options: argparse.Namespace) -> dict[str, Any]:
    """Train what the cell needs (or go on, or find it finished) and test it: a row."""
    name = training_of(cell)
    training = TRAININGS[name]
    protocol = training.protocol
    train, test = parts(faces, protocol)
    learner = build(name)
    history = mf.train(
        learner,
        train,
        iterations=training.iterations,
        task=mf.training.Task(augment=None),
        budget=mf.training.Budget(minutes=options.minutes),
        run=mf.training.Run(
            out=options.out / name, resume=True, label=name, progress=not options.quiet
        ),
    )

    ways, shots = (int(n) for n in cell.rsplit("-", 1)[1].rstrip("s").split("w"))
    tested = learner
    if isinstance(learner, mf.learners.Reptile):
        learner.inner_batch = TEST_BATCH[ways]
        if "transductive" not in cell:
            tested = OneQueryAtATime(learner)
    result = mf.evaluate(
        tested,
        test,
        ways=ways,
        shots=shots,
        queries=protocol.queries or shots,
        episodes=tested_tasks(protocol, options),
        progress=not options.quiet,
    )
    return {
        "cell": cell,
        "training": name,
        "published": CELLS[cell],
        "accuracy": 100 * result.accuracy,
        "ci95": 100 * result.ci95,
        "iterations": history.iterations,
        "of": training.iterations,
        "minutes": options.minutes,
        "hours": history.seconds / 3600,
        "hours_for_all": history.seconds / history.iterations * training.iterations / 3600,
        "tasks": len(result.accuracies),
        "of_tasks": protocol.tasks,
        "queries": result.queries,
        "norm": result.norm,
        "transductive": result.transductive,
    }


def tested_tasks(protocol: Protocol, options: argparse.Namespace) -> int:
    return min(protocol.tasks, options.tasks or protocol.tasks)


def finished(cell: str, path: Path, options: argparse.Namespace) -> bool:
    """Whether the cell was tested already, after as many minutes and on as many tasks."""
    if not path.is_file():
        return False
    row = read_record(path)
    tasks = tested_tasks(TRAININGS[training_of(cell)].protocol, options)
    return (row["minutes"], row["tasks"]) == (options.minutes, tasks)


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as text."""
    lines = [f"{'cell':<26} {'published':>13} {'here':>14} {'iterations':>17} {'tasks':>13}  hours"]
    for row in rows:
        here = f"{row['accuracy']:.2f} ± {row['ci95']:.2f}"
        iterations = f"{row['iterations']:,} / {row['of']:,}"
        tasks = f"{row['tasks']:,} / {row['of_tasks']:,}"
        hours = f"{row['hours']:.2f} / {row['hours_for_all']:.1f}"
        lines.append(
            f"{row['cell']:<26} {row['published']:>13} {here:>14} {iterations:>17} {tasks:>13}  "
            f"{hours}"
        )
    if any(row["iterations"] < row["of"] for row in rows):
        lines.append("iterations: run / of the protocol; where fewer, schedules were scaled along")
    return "\n".join(lines)


def collect(out: Path) -> list[dict[str, Any]]:
    """Write results.json from the cells that are finished; returns their rows."""
    found = {p.stem: read_record(p) for p in out.glob("*/cell-*.json")}
    rows = [found[f"cell-{cell}"] for cell in CELLS if f"cell-{cell}" in found]
    write_json(out / "results.json", {"threads": torch.get_num_threads(), "rows": rows})
    return rows


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--zip", action="append", required=True, help="both Omniglot zips")
    parser.add_argument(
        "--cells",
        nargs="+",
        choices=list(CELLS),
        default=MAIN_CELLS,
        metavar="C",
        help="of " + ", ".join(CELLS),
    )
    parser.add_argument("--minutes", type=float, help="of each training; default: all iterations")
    parser.add_argument("--tasks", type=int, help="at most so many test tasks")
    parser.add_argument("--out", type=Path, default=Path("omniglot"))
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    options = parser.parse_args(arguments)

    faces = characters(options.zip)
    for cell in options.cells:
        path = options.out / training_of(cell) / f"cell-{cell}.json"
        if not finished(cell, path, options):
            try:
                write_record(path, run(cell, faces, options))
            except (Interrupted, CheckpointError) as stopped:
                sys.exit(str(stopped))
        print(table(collect(options.out)), flush=True)


if __name__ == "__main__":
    main()

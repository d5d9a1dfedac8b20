"""What adapting a pretrained network to another kind of photograph is worth, and what is safe.

python benchmarks/adaptation.py att=att_faces.zip sketch=synthetic:sketch --out adaptation

From the published MobileFaceNet (norms pinned), on each domain NAME=SOURCE (photographs, whose
faces are aligned, or synthetic:DOMAIN): not adapted (class means), heads on its features, plain
fine-tuning to each task, and meta-training on the domain's own people. All that is to be chosen
(rates, steps, which part learns, how far to go from the pretrained weights) is chosen on validation
people; "safe" is what is best there, not adapting included. A third of the test people is never
enrolled: strangers. Each (domain, seed, learner) is a file in --out; run it again to go on.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

import metaface as mf
from metaface._json import read_record, write_json, write_record
from metaface._progress import track
from metaface.episodes.sampler import scale_pixels
from metaface.experiments.protocols import align_people
from metaface.faces.detect import YuNet
from metaface.learners import FeatureLearner, MetaLearner
from metaface.metrics.intervals import Estimate, estimate_share_over_seeds
from metaface.metrics.one_to_many import FALSE_POSITIVES
from metaface.metrics.rejection import measure_rejection
from metaface.recognition import Network, Preprocessing, models

FINETUNE = (("full", 1e-4), ("full", 1e-3), ("norm", 1e-3))
PASSES = 30  # photographs through the network and back, an iteration of --iterations
VAL_SHOTS = (1, 5)  # what is chosen at one serves the shots from there on
QUERIES, STRANGERS = 5, 64  # a person; photographs of strangers, a task
PLAIN, FIRST = "finetune", "not adapted"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("domains", nargs="+", metavar="NAME=SOURCE")
    parser.add_argument("--out", default="adaptation", help="folder; default: adaptation")
    parser.add_argument("--models", help="folder of the model files")
    parser.add_argument("--least", type=float, default=0.6, help="score of a face; default: 0.6")
    parser.add_argument("--learners", nargs="+", default=list(LEARNERS), choices=LEARNERS)
    parser.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        default=[0, 1, 2],
        help="of splits and trainings; default: 0 1 2",
    )
    parser.add_argument("--ways", type=int, default=5, help="default: 5")
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 2, 5, 10, 20])
    parser.add_argument("--tasks", type=int, default=12, help="1-shot; fewer of more; default: 12")
    parser.add_argument("--val-tasks", type=int, default=8, help="the same; default: 8")
    parser.add_argument("--iterations", type=int, default=20, help="meta-training; default: 20")
    parser.add_argument("--steps", type=int, default=4, help="of fine-tuning; default: 4")
    parser.add_argument("--people", type=int, default=60, help="most, of a domain; default: 60")
    parser.add_argument("--photos", type=int, default=30, help="most, of a person; default: 30")
    parser.add_argument(
        "--device",
        default="cpu",
        help="default: cpu; where there is a GPU, give more --tasks and --val-tasks, too",
    )
    o = parser.parse_args()
    o.shots = sorted(set(o.shots))
    out = Path(o.out)
    sources = dict(text.split("=", 1) for text in o.domains)
    check_settings(out, {n: v for n, v in vars(o).items() if n in CHANGES_RESULTS})
    for shots in o.shots:
        print(f"{shots}-shot: {count(o.tasks, shots)} tasks a seed, {o.ways}-way", flush=True)
    units = [(d, s, n) for d in sources for s in o.seeds for n in o.learners]
    bar = track(units, unit="unit")
    domain: Domain | None = None
    for name, seed, learner in bar:
        path = out / name / str(seed) / f"{learner.replace(' ', '-')}.json"
        if path.exists():
            continue
        bar.set_postfix_str(f"{name}, seed {seed}, {learner}")
        if domain is None or domain.name != name:
            domain = Domain(name, load(sources[name], out / f"{name}.npz", o), o)
        write_record(path, measure_unit(domain, learner, seed, o))
    results = {name: summary(out / name, o) for name in sources}
    write_json(out / "results.json", {"settings": vars(o), "domains": results})
    for name, rows in results.items():
        print(f"\n{table(name, rows)}")
    print(f"\n{verdict(results)}\n{out / 'results.json'}")


CHANGES_RESULTS = (
    "ways",
    "tasks",
    "val_tasks",
    "iterations",
    "steps",
    "people",
    "photos",
    "shots",
    "least",
)


def check_settings(out: Path, settings: dict[str, Any]) -> None:
    path = out / "settings.json"
    if path.exists() and (there := read_record(path)) != settings:
        raise SystemExit(f"{out} was made with {there}, now {settings}: use another --out")
    write_record(path, settings)


def count(tasks: int, shots: int) -> int:
    """How many tasks of so many shots: more shots cost more and vary less."""
    return max(2, round(tasks / shots**0.6))


# -- photographs -----------------------------------------------------------------------------


def load(source: str, cache: Path, o: argparse.Namespace) -> mf.FaceSet:
    """Aligned faces, 112 pixels; real ones are looked for once, and kept in ``cache``."""
    if source.split(":")[0] == "synthetic":
        faces = mf.data.load(source, image_size=112, people=o.people, photos=o.photos)
    elif cache.exists():
        with np.load(cache) as found:
            faces = mf.FaceSet.from_arrays(found["crops"], found["person"], name=cache.stem)
    else:
        net = Network(pretrained(o).cpu(), Preprocessing(), name="start", architecture="112x96")
        real = align_people(source, YuNet(models.find("yunet", o.models), o.least), net)
        np.savez(cache, crops=real.crops, person=real.person)
        faces = real.faces()
    random = np.random.default_rng(0)
    rows = random.permutation(len(faces))
    photos = faces.photos()
    most = np.argsort(-photos, kind="stable")[: o.people]
    most = most[photos[most] > 1]
    return faces.take(
        np.sort(np.concatenate([rows[faces.person[rows] == p][: o.photos] for p in most]))
    )


def spec_of(learner: str = "imprinting", **options: Any) -> mf.ModelSpec:
    return mf.ModelSpec(
        learner, options, embedding="mobilefacenet-112x96", norm="pinned", image_size=112
    )


def pretrained(o: argparse.Namespace) -> nn.Module:
    start = models.find("mobilefacenet_casia", o.models)
    return spec_of().build(start=start).embedding.to(o.device)


class Features:
    """What a network makes of photographs, each looked at once."""

    def __init__(self, net: nn.Module, store: np.ndarray) -> None:
        self.net, self.store = net.eval(), store
        self.device = next(net.parameters()).device
        self.known = np.zeros(len(store), bool)
        self.found: Tensor | None = None

    @torch.no_grad()
    def __call__(self, rows: Tensor) -> Tensor:
        """float ``[..., D]`` of rows ``[...]``."""
        new = np.unique(rows.numpy())
        for part in np.array_split(new[~self.known[new]], max(1, len(new) // 32)):
            if len(part):
                pictured = images_of(self.store, torch.from_numpy(part), self.device)
                made = self.net(pictured).cpu()
                if self.found is None:
                    self.found = made.new_zeros(len(self.store), made.shape[1])
                self.found[part] = made
        self.known[new] = True
        assert self.found is not None
        return self.found[rows]


def images_of(store: np.ndarray, rows: Tensor, device: torch.device) -> Tensor:
    return scale_pixels(torch.from_numpy(store[rows.numpy()]).to(device))


@dataclass
class Tasks:
    """Rows of the store: support ``[B, N*K]``, query ``[B, N*Q]``, strangers ``[B, U]``."""

    shots: int
    people: Tensor
    support: Tensor
    query: Tensor
    strangers: Tensor

    @classmethod
    def draw(
        cls,
        faces: mf.FaceSet,
        others: mf.FaceSet | None,
        ways: int,
        shots: int,
        count: int,
        seed: int,
    ) -> "Tasks | None":
        """None: too few people have the photographs."""
        photos = faces.photos()[faces.person_ids]
        ways = min(ways, len(photos))
        queries = min(QUERIES, int(np.sort(photos)[-ways]) - shots)
        if queries < 1 or ways < 2:
            return None
        sampler = mf.EpisodeSampler(faces, ways, shots, queries, seed=seed, stream=f"{shots}")
        people, support, query = sampler.rows(np.arange(count))
        rows: list[np.ndarray] = [np.empty(0, np.int64)] * count
        if others is not None:
            random = np.random.default_rng([seed, shots])
            rows = [random.permutation(others.rows)[:STRANGERS] for _ in range(count)]
        return cls(shots, people, support, query, torch.from_numpy(np.stack(rows)))


class Domain:
    """A domain's photographs; their features by the pretrained network are shared by all."""

    def __init__(self, name: str, faces: mf.FaceSet, o: argparse.Namespace) -> None:
        self.name, self.faces, self.o = name, faces, o
        self.store = np.asarray(faces.store)
        self.start = pretrained(o)
        self.features = Features(self.start, self.store)
        tqdm.write(faces.describe())

    def split(self, seed: int) -> tuple[mf.FaceSet, mf.FaceSet, mf.FaceSet, mf.FaceSet]:
        """Train, validation, enrolled test people and strangers: nobody is in two."""
        train, val, test = self.faces.split(seed, val=0.2, test=0.4)
        order = np.random.default_rng(seed).permutation(test.person_ids)
        third = max(1, len(order) // 3)
        return train, val, test.of_people(order[third:]), test.of_people(order[:third])


# -- answers ---------------------------------------------------------------------------------


@torch.no_grad()
def logits(
    learner: MetaLearner, tasks: Tasks, features: Features | None, store: np.ndarray
) -> Iterator[tuple[Tensor, Tensor]]:
    """Each task's logits of its queries and of the strangers."""
    ways = tasks.people.shape[1]
    labels = torch.arange(ways).repeat_interleave(tasks.support.shape[1] // ways)[None]
    device = next(learner.parameters()).device
    bar = track(range(len(tasks.people)), desc=f"{tasks.shots}-shot", leave=False, unit="task")
    with learner.predicting():
        for i in bar:
            support, probes = tasks.support[i], torch.cat([tasks.query[i], tasks.strangers[i]])
            if features is not None and isinstance(learner, FeatureLearner):
                state = learner.fit_head(features(support)[None], labels, ways)
                found = learner.score_head(state, features(probes)[None])[0]
            else:
                shown = images_of(store, support, device)[None]
                state = learner.fit(learner.theta(), shown, labels.to(device), ways)
                found = learner.score(state, images_of(store, probes, device)[None])[0].cpu()
            yield found[: len(tasks.query[i])], found[len(tasks.query[i]) :]


def truth(tasks: Tasks) -> Tensor:
    ways = tasks.people.shape[1]
    return torch.arange(ways).repeat_interleave(tasks.query.shape[1] // ways)


def accuracy(
    learner: MetaLearner, tasks: Tasks, features: Features | None, store: np.ndarray
) -> float:
    own = truth(tasks)
    found = [
        (q.argmax(1) == own).float().mean() for q, _ in logits(learner, tasks, features, store)
    ]
    return float(torch.stack(found).mean())


def tested(
    learner: MetaLearner, tasks: Tasks, features: Features | None, store: np.ndarray
) -> dict[str, Any]:
    """Sums by person: of queries, those named rightly, shares of strangers that score less, and
    those named rightly at the threshold."""
    answers = list(logits(learner, tasks, features, store))
    known = torch.cat([q for q, _ in answers])
    right = (known.argmax(1) == truth(tasks).repeat(len(answers))).numpy()
    strangers = torch.cat([s for _, s in answers]).max(1).values.numpy()
    below, named = measure_rejection(known.max(1).values.numpy(), right, strangers)
    queries = tasks.query.shape[1] // tasks.people.shape[1]
    person = tasks.people.repeat_interleave(queries, 1).flatten().numpy()
    sums = {
        key: np.bincount(person, values).tolist()
        for key, values in (("right", right), ("below", below), ("named", named))
    }
    return {"trials": np.bincount(person).tolist(), **sums, "strangers": len(strangers)}


# -- learners --------------------------------------------------------------------------------

Candidate = tuple[dict[str, Any], MetaLearner, Features | None]
Unit = tuple[Domain, int, mf.FaceSet, list[Tasks]]


def heads(name: str, settings: list[dict[str, Any]], unit: Unit) -> list[Candidate]:
    """Heads on the features of the pretrained network."""
    domain = unit[0]
    return [(s, mf.learners.build(name, domain.start, **s), domain.features) for s in settings]


def finetune(unit: Unit) -> list[Candidate]:
    """Of all of the network, or its norms, to each task."""
    found: list[Candidate] = []
    for how, rate in FINETUNE:
        options = {"tune": how, "inner_lr": rate, "steps": unit[0].o.steps}
        found.append(
            (options, mf.learners.build("finetune", pretrained(unit[0].o), **options), None)
        )
    return found


def meta(
    name: str,
    options: dict[str, Any],
    steps: tuple[str, tuple[int, ...]] | None,
    recipe: dict[str, Any],
    passes: int,
    unit: Unit,
) -> list[Candidate]:
    """Meta-trained on the domain's people, as far from the pretrained weights as pays, adapting
    by so many steps; ``passes`` of photographs a step of training."""
    domain, seed, train, val = unit
    learner = mf.learners.build(name, pretrained(domain.o), **options)
    most = len(train.person_ids)
    queries = 2 if np.sort(train.photos())[-min(most, recipe["ways"])] > 2 else 1
    budget = max(1, round(domain.o.iterations * PASSES / passes))
    mf.train(
        learner,
        train,
        shots=1,
        iterations=budget,
        task=mf.training.Task(
            **{**recipe, "ways": min(most, recipe["ways"])},
            queries=queries,
        ),
        run=mf.training.Run(seed=seed, device=domain.o.device, progress=False),
    )
    heads_alone = isinstance(learner, FeatureLearner)

    def judged(net: nn.Module) -> float:
        judge = mf.learners.build(
            *((name, net) if heads_alone else ("imprinting", net)),
            **(options if heads_alone else {}),
        )
        features = Features(net, domain.store)
        return float(np.mean([accuracy(judge, tasks, features, domain.store) for tasks in val]))

    net, choice = mf.training.weight_interpolation.interpolate(
        domain.start, learner.embedding, judged
    )
    tries = [{steps[0]: n} for n in steps[1]] if steps else [{}]
    features = Features(net, domain.store) if heads_alone else None
    return [
        ({"share": choice.share, **s}, mf.learners.build(name, net, **(options | s)), features)
        for s in tries
    ]


LEARNERS: dict[str, Callable[[Unit], list[Candidate]]] = {
    FIRST: partial(heads, "imprinting", [{}]),
    "linear-probe": partial(heads, "linear-probe", [{"strength": 10.0**k} for k in range(4)]),
    "cosine-classifier": partial(heads, "cosine-classifier", [{"steps": n} for n in (10, 100)]),
    "prototypical": partial(
        meta,
        "prototypical",
        {"distance": "cosine", "scale": 20.0},
        None,
        {"ways": 10, "meta_batch": 1, "lr": 3e-4},
        30,
    ),
    "anil": partial(
        meta,
        "anil",
        {},
        ("inner_steps", (3, 10, 30)),
        {"ways": 5, "meta_batch": 2, "lr": 1e-4},
        30,
    ),
    PLAIN: finetune,
    "reptile": partial(
        meta,
        "reptile",
        {"inner_optimizer": "sgd", "inner_lr": 0.01, "inner_batch": None, "inner_steps": 4},
        ("test_steps", (1, 3)),
        {"ways": 5},
        60,
    ),
}


def measure_unit(domain: Domain, name: str, seed: int, o: argparse.Namespace) -> dict[str, Any]:
    """Candidates on validation people, and the best of each shot on test people."""
    began = time.monotonic()
    train, val, test, others = domain.split(seed)
    of_val = [
        Tasks.draw(val, None, o.ways, shots, count(o.val_tasks, shots), seed) for shots in VAL_SHOTS
    ]
    judged = [tasks for tasks in of_val if tasks is not None]
    if not judged:
        raise SystemExit(f"{domain.name}: validation people have too few photographs for a task")
    candidates = LEARNERS[name]((domain, seed, train, judged))
    chosen: dict[int, tuple[float, Candidate]] = {}
    for tasks in judged:
        found = [accuracy(c[1], tasks, c[2], domain.store) for c in candidates]
        best = int(np.argmax(found))
        chosen[tasks.shots] = found[best], candidates[best]
    rows = {}
    for shots in o.shots:
        tests = Tasks.draw(test, others, o.ways, shots, count(o.tasks, shots), seed)
        if tests is None:
            continue
        at = max((k for k in chosen if k <= shots), default=min(chosen))
        validation, (settings, learner, features) = chosen[at]
        rows[str(shots)] = {
            "validation": validation,
            "settings": settings,
            **tested(learner, tests, features, domain.store),
        }
    return {"seconds": time.monotonic() - began, "shots": rows}


# -- figures ---------------------------------------------------------------------------------


def summary(folder: Path, o: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each shot and learner, and for the safe choice among them."""
    units = {
        name: {
            seed: read_record(folder / str(seed) / f"{name.replace(' ', '-')}.json")["shots"]
            for seed in o.seeds
        }
        for name in o.learners
    }
    rows = []
    for shots in map(str, o.shots):
        there = [s for s in o.seeds if all(shots in found[s] for found in units.values())]
        if not there:
            continue
        cells = {name: [found[s][shots] for s in there] for name, found in units.items()}
        # of equals the one that is best at all shots, then the first: rather not to adapt
        picks = [
            max(cells, key=lambda n: (units[n][s][shots]["validation"], on_validation(units[n][s])))
            for s in there
        ]
        cells["safe"] = [cells[name][i] for i, name in enumerate(picks)]
        for name, found in cells.items():
            row: dict[str, Any] = {"shots": int(shots), "learner": name}
            row["accuracy"] = over(found, "right")
            row["auroc"] = over(found, "below")
            strangers = sum(cell["strangers"] for cell in found)
            enough = 0.01 * strangers >= FALSE_POSITIVES
            row["dir"] = over(found, "named") if enough else None
            for other in (PLAIN, FIRST):
                if other in cells:
                    row[f"less {other}"] = over(found, "right", cells[other])
                    row[f"auroc less {other}"] = over(found, "below", cells[other])
            row["settings"] = picks if name == "safe" else [cell["settings"] for cell in found]
            rows.append(row)
    return rows


def on_validation(rows: dict[str, Any]) -> float:
    return float(np.mean([row["validation"] for row in rows.values()]))


def over(
    found: list[dict[str, Any]], key: str, other: list[dict[str, Any]] | None = None
) -> Estimate:
    """Over people and seeds; the difference to ``other``, which met the same tasks."""
    width = max(len(cell["trials"]) for cell in found)
    trials, sums = (padded(found, name, width) for name in ("trials", key))
    return estimate_share_over_seeds(
        sums if other is None else sums - padded(other, key, width), trials
    )


def padded(found: list[dict[str, Any]], key: str, width: int) -> np.ndarray:
    return np.array([np.pad(np.array(c[key], float), (0, width - len(c[key]))) for c in found])


def table(name: str, rows: list[dict[str, Any]]) -> str:
    def text(value: Estimate | None, sign: str = "") -> str:
        if value is None:
            return ""
        shown = [format(100 * v, f"{sign}.1f") for v in value]
        return f"{shown[0]} [{shown[1]}, {shown[2]}]"

    lines = [
        f"{name}, % [95% interval over people and seeds]",
        "",
        f"| shots | learner | accuracy | less {PLAIN} | less {FIRST} | AUROC | DIR at FPIR 1% |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [
            str(row["shots"]),
            row["learner"],
            text(row["accuracy"]),
            *(text(row.get(f"less {other}"), "+") for other in (PLAIN, FIRST)),
            text(row["auroc"]),
            text(row["dir"]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def verdict(results: dict[str, list[dict[str, Any]]]) -> str:
    """Of the safe choice, domain by domain and shot by shot."""
    cells = [row for rows in results.values() for row in rows if row["learner"] == "safe"]
    lines = []
    for other in (PLAIN, FIRST):
        found = [row[f"less {other}"] for row in cells if f"less {other}" in row]
        worse, better = sum(f.high < 0 for f in found), sum(f.low > 0 for f in found)
        lines.append(
            f"safe against {other}: better by more than the interval in {better} of {len(found)} "
            f"(domain, shots), worse in {worse}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()

"""MetaFace beside learn2learn 0.2.0, easyfsl 1.5, TorchOpt 0.7 and JAX, in one run.

python benchmarks/peers.py --json peers.json          # the reference case, within 10 minutes
python benchmarks/peers.py --json full.json --full    # other sizes too: hours; goes on where it was
python benchmarks/peers.py --precision bf16 --only order  # MetaFace's convolutions in bfloat16
python benchmarks/peers.py --only sampling            # the cases whose name contains it

The reference case: conv4-64 with max-pool and batch statistics, 28x28x1, 5-way 1-shot, 5 queries a
person, 5 inner steps, meta-batch 16. All sides have the same weights, the same tasks and the same
number of threads (torch's; OMP_NUM_THREADS sets it); where they can be compared, they are first
shown to compute the same. They take turns, A B A B ..., after a warm-up; figures are medians of the
rounds with quartiles, and a ratio is the median of the rounds' ratios, to the fastest peer. What
each side does exactly: benchmarks/sides.py. Memory is the peak of a fresh process over two steps
above what it held after imports, data and, for JAX, compiling. JAX's compiling is no part of its
rate; how long it took is told apart.

"Of matmul" is the share of the machine's matrix-product rate (float32, 2048x2048, measured in turn
with the sides) that a side's tasks/s amount to, if a task takes the operations counted by
torch.utils.flop_counter on one task of a plain-torch peer: the same number for every side.

Needs the peers: python tools/build_learn2learn.py; pip install 'metaface[peers]'. Without some of
them the rows against the others still run.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import math
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from sides import REMEDIES, SIDES, Case, Work, missing, takes_part
from torch.utils.flop_counter import FlopCounterMode

from metaface import machine
from metaface._json import read_record, write_record
from metaface._progress import track
from metaface.nets.conv import PRECISIONS, Precision

warnings.simplefilter("ignore")

TITLES = {
    "maml": "MAML, second order",
    "fomaml": "MAML, first order",
    "reptile": "Reptile",
    "prototypical": "Prototypical, data included",
    "prototypical-memory": "Prototypical, tasks in memory",
    "sampling": "Sampling alone",
    "evaluation": "Evaluation on features",
    "sweep": "MAML, second order, bounded memory",
}
INNER = ("maml", "fomaml", "reptile", "sweep")  # have inner steps
TRAINING = (*INNER, "prototypical", "prototypical-memory")  # their operations are counted
LONG, SWEPT = Case("sweep", steps=20), Case("sweep", steps=1)
REFERENCE = [
    *(Case(kind) for kind in SIDES if kind not in ("evaluation", "sweep")),
    Case("evaluation", size=8),  # 64 numbers a photograph
    SWEPT,
    LONG,
]
# MetaFace's rate over the fastest peer's, at the reference case
TARGETS = {"maml": 3.0, "fomaml": 2.5, "reptile": 2.5, "prototypical": 3.0, "evaluation": 5.0}
GPU_TARGETS = dict.fromkeys(("maml", "fomaml", "reptile", "prototypical"), 10.0)
GROWTH_TARGET, SHARE_TARGET, SPEED_TARGET = 1.3, 0.5, 0.8  # of bounded memory
MATMUL = 2048


def full_cases() -> list[Case]:
    """The grid: every size, way and number of steps at meta-batch 16, and meta-batch 4 and 64 at
    five steps."""
    cases = []
    for (size, channels), ways in itertools.product(((28, 1), (84, 3)), (5, 20)):
        shape: dict[str, Any] = {"size": size, "channels": channels, "ways": ways}
        for kind, steps, tasks in itertools.product(INNER, (1, 5, 20), (4, 16, 64)):
            if steps == 5 or (tasks == 16 and kind != "reptile"):
                cases.append(Case(kind, steps=steps, tasks=tasks, **shape))
        for kind, tasks in itertools.product(("prototypical", "prototypical-memory"), (4, 16, 64)):
            cases.append(Case(kind, tasks=tasks, **shape))
        cases.append(Case("sampling", **shape))
    return REFERENCE + [case for case in cases if case not in REFERENCE]


def in_precision(cases: list[Case], precision: Precision) -> list[Case]:
    """Those of ``cases`` that train, where ``precision`` is not that of all."""
    if precision == "float32":
        return cases
    return [replace(case, precision=precision) for case in cases if case.kind in TRAINING]


def name(case: Case) -> str:
    shape = f"{case.size}x{case.size}x{case.channels}"
    parts = [f"{shape}, {case.ways}-way {case.shots}-shot"]
    if case.kind in INNER:
        parts.append(f"{case.steps} step{'s' if case.steps > 1 else ''}")
    if case.kind != "evaluation":
        parts.append(f"{case.tasks} tasks")
    if case.precision != "float32":
        parts.append(f"MetaFace in {case.precision}")
    return f"{TITLES[case.kind]}: {', '.join(parts)}"


def target(case: Case, device: torch.device) -> float | None:
    if case not in REFERENCE:
        return None
    if case == LONG:
        return SPEED_TARGET
    return (GPU_TARGETS if device.type == "cuda" else TARGETS).get(case.kind)


# -- measuring -----------------------------------------------------------------------------------


def check(case: Case, sides: list[str], device: torch.device) -> None:
    """Stops where sides that can be compared do not come to the same on two tasks.

    In float64 to 1e-6. In float32 both are held against that, loosely: where rounding turns a ReLU
    or a maximum over, the inner loop makes a percent of it, more in larger pictures. Not Reptile:
    Adam's first step is the sign of the gradient, and rounding decides a tiny one's. Nor JAX, which
    would compile once more for it. Of the Prototypical sides JAX alone does what MetaFace does.
    """
    small = replace(case, tasks=2, reptile_batch=None, precision="float32")
    if case.kind == "prototypical-memory":
        sides = [side for side in sides if side in ("metaface", "jax")]
    if case.kind in (*INNER, "prototypical-memory") and len(sides) > 1:
        exact = {side: outcome(small, side, device, torch.float64) for side in sides}
        for peer in sides[1:]:
            same(case, peer, distance(exact["metaface"], exact[peer]), 1e-6)
        if case.kind in ("reptile", "prototypical-memory"):
            return
        sides = [side for side in sides if side != "jax"]
        rounded = {side: outcome(small, side, device, torch.float32) for side in sides}
        for peer in sides[1:]:
            allowed = max(0.03, 5 * distance(rounded[peer], exact[peer]))
            same(case, peer, distance(rounded["metaface"], exact[peer]), allowed)
    elif case.kind == "evaluation":
        accuracy = {side: outcome(small, side, device, torch.float32) for side in sides}
        for peer in sides[1:]:  # each has episodes of its own
            same(case, peer, distance(accuracy["metaface"], accuracy[peer]), 0.03)


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


def same(case: Case, peer: str, error: float, allowed: float) -> None:
    if not error <= allowed:
        sys.exit(
            f"{name(case)}: MetaFace and {peer} do not compute the same: they differ by "
            f"{error:.2g}, at most {allowed:.2g} expected. Nothing is measured."
        )


def outcome(case: Case, side: str, device: torch.device, precision: torch.dtype) -> torch.Tensor:
    """What one step of a side comes to."""
    torch.set_default_dtype(precision)
    try:
        with torch.backends.cudnn.flags(allow_tf32=False):  # float32 that deserves its name
            work = SIDES[case.kind][side](case, device)
            work.step()
    finally:
        torch.set_default_dtype(torch.float32)
    assert work.outcome is not None
    return work.outcome()


def peak_memory(case: Case, side: str, device: torch.device) -> float:
    """Peak of two steps above imports and data, MB; to be called in a fresh process."""
    with suppress(OSError):  # if memory runs out, this process goes and not the one that waits
        Path("/proc/self/oom_score_adj").write_text("1000")
    work = SIDES[case.kind][side](case, device)
    gc.collect()
    machine.reset_peak()
    held = machine.peak_mb(device)
    work.step()
    work.step()
    return machine.peak_mb(device) - held


def peak_memory_apart(case: Case, side: str, device: torch.device) -> float:
    """``peak_memory`` of a fresh process; inf where memory does not suffice."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        try:
            return pool.submit(peak_memory, case, side, device).result()
        except (BrokenProcessPool, torch.OutOfMemoryError):
            return math.inf
        except RuntimeError as error:
            if "memory" in str(error):  # of torch's CPU allocator
                return math.inf
            raise


def operations(case: Case, sides: list[str], device: torch.device) -> float | None:
    """Floating-point operations of one task, counted on the last side that torch can count."""
    countable = [side for side in sides if side != "jax" and "vmap" not in side]
    if case.kind not in TRAINING or not countable:
        return None
    work = SIDES[case.kind][countable[-1]](replace(case, tasks=1), device)
    with FlopCounterMode(display=False) as counter:
        work.step()
    return float(counter.get_total_flops())


def matmul(device: torch.device) -> Work:
    """The yardstick: ``step`` returns GFLOP."""
    a = torch.rand(MATMUL, MATMUL, device=device)

    def step() -> int:
        torch.mm(a, a)
        return round(2 * MATMUL**3 / 1e9)

    return Work(step)


def rates(
    works: dict[str, Work],
    device: torch.device,
    rounds: int,
    seconds: float,
    tell: Callable[[str], object] = lambda text: None,
) -> dict[str, list[float]]:
    """Each side's units a second in every round; each turn takes ``seconds`` or one step."""

    def turn(work: Work, steps: int) -> tuple[float, float]:
        began = time.perf_counter()
        done = sum(work.step() for _ in range(steps))
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return done, time.perf_counter() - began

    steps, whole = {}, 0.0
    for side, work in works.items():
        tell(f"warm-up of {side}")
        _, took = turn(work, 1)
        if took < seconds:  # the first step is slower than the rest
            _, took = turn(work, max(1, int(seconds / 4 / took)))
            _, took = turn(work, 1)
        steps[side] = max(1, math.ceil(seconds / took))
        whole += steps[side] * took
    if whole > 20:
        rounds = min(rounds, 3)
    found: dict[str, list[float]] = {side: [] for side in works}
    for k in range(rounds):
        for side, work in works.items():
            tell(f"round {k + 1} of {rounds}: {side}")
            done, took = turn(work, steps[side])
            found[side].append(done / took)
    return found


def measure(
    case: Case, device: torch.device, absent: list[str], quick: bool, tell: Callable[[str], object]
) -> dict[str, Any] | None:
    """The row of one case; None where no peer for it is installed."""
    sides = [
        side
        for side in SIDES[case.kind]
        if not side.startswith(tuple(absent)) and takes_part(side, case, device)
    ]
    if sides == ["metaface"]:
        return None
    tell("same result")
    check(case, sides, device)
    peaks: dict[str, float] = {}
    if not quick:
        for side in sides:
            tell(f"memory of {side}")
            peaks[side] = peak_memory_apart(case, side, device)
    fits = [side for side in sides if peaks.get(side, 0.0) < math.inf]
    tell("building")
    works = {side: SIDES[case.kind][side](case, device) for side in fits}
    compile_s = {side: w.compile_s for side, w in works.items() if w.compile_s is not None}
    flops = operations(case, fits, device)
    works["matmul"] = matmul(device)
    seconds, rounds = (0.0, 1) if quick else (1.0, 5)
    found = rates(works, device, rounds, seconds, tell)
    yardstick = statistics.median(found.pop("matmul"))
    return row(case, device, found, peaks, flops, yardstick) | {"compile_s": compile_s}


def row(
    case: Case,
    device: torch.device,
    found: dict[str, list[float]],
    peaks: dict[str, float],
    flops: float | None,
    yardstick: float,
) -> dict[str, Any]:
    medians = {side: statistics.median(values) for side, values in found.items()}
    peers = [side for side in medians if side != "metaface"]
    peer = max(peers, key=medians.__getitem__, default=None)
    ours, theirs = found.get("metaface"), found[peer] if peer else None
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)] if ours and theirs else None

    def share(values: list[float] | None) -> float | None:
        return statistics.median(values) * flops / 1e9 / yardstick if values and flops else None

    def ratio_to(theirs: list[float]) -> float:
        return statistics.median(a / b for a, b in zip(ours or [], theirs, strict=True))

    def finite(peak: float | None) -> float | None:
        return None if peak is None or peak == math.inf else round(peak, 1)

    return {
        "case": name(case),
        "kind": case.kind,
        "metaface": statistics.median(ours) if ours else None,
        "peer": statistics.median(theirs) if theirs else None,
        "peer_name": peer,
        "ratio": statistics.median(ratios) if ratios else None,
        "target": target(case, device),
        "unit": "tasks/s",
        "metaface_quartiles": quartiles(ours),
        "peer_quartiles": quartiles(theirs),
        "ratio_quartiles": quartiles(ratios),
        "rounds": len(next(iter(found.values()))),
        "others": {side: medians[side] for side in peers if side != peer},
        "ratios": {side: ratio_to(found[side]) for side in peers} if ours else {},
        "peaks_mb": {side: finite(peak) for side, peak in peaks.items()},
        "mflop_per_task": flops / 1e6 if flops else None,
        "matmul_gflops": yardstick,
        "metaface_of_matmul": share(ours),
        "peer_of_matmul": share(theirs),
        "metaface_peak_mb": finite(peaks.get("metaface")),
        "peer_peak_mb": finite(peaks.get(peer)) if peer else None,
        "out_of_memory": [side for side, peak in peaks.items() if peak == math.inf],
    }


def quartiles(values: list[float] | None) -> list[float] | None:
    if not values:
        return None
    if len(values) == 1:
        return [values[0], values[0]]
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return [first, third]


def bounded_memory(rows: list[dict[str, Any]]) -> dict[str, float] | None:
    """What the sweep's rows say together; None where one of them is missing."""
    by_name = {r["case"]: r for r in rows}
    long, short = by_name.get(name(LONG)), by_name.get(name(SWEPT))
    if long is None or short is None or not long["peer_peak_mb"] or not short["metaface_peak_mb"]:
        return None
    return {
        "peak_20_steps_over_1_step": long["metaface_peak_mb"] / short["metaface_peak_mb"],
        "peak_over_learn2learns": long["metaface_peak_mb"] / long["peer_peak_mb"],
        "speed_over_learn2learns": long["ratio"],
    }


# -- telling -------------------------------------------------------------------------------------


def table(rows: list[dict[str, Any]]) -> str:
    def number(value: float | None, form: str = ".0f", unit: str = "") -> str:
        return "-" if value is None else f"{value:{form}}{unit}"

    head = ("", "MetaFace", "peer", "", "ratio", "quartiles", "target", "of matmul", "peak MB")
    lines = [head]
    for r in rows:
        spread = r["ratio_quartiles"]
        shares = [r["metaface_of_matmul"], r["peer_of_matmul"]]
        peaks = [r["metaface_peak_mb"], r["peer_peak_mb"]]
        lines.append(
            (
                r["case"],
                number(r["metaface"], ".4g"),
                number(r["peer"], ".4g"),
                r["peer_name"] or f"out of memory: {', '.join(r['out_of_memory'])}",
                number(r["ratio"], ".2f"),
                f"{spread[0]:.2f} to {spread[1]:.2f}" if spread else "-",
                number(r["target"], ".1f"),
                " / ".join(number(s, ".0%") for s in shares),
                " / ".join(number(p) for p in peaks),
            )
        )
    return aligned(lines, left=(0, 3))


def every_peer(rows: list[dict[str, Any]]) -> str:
    """A line for each peer of each row."""

    def number(value: float | None, form: str) -> str:
        return "-" if value is None else f"{value:{form}}"

    lines = [("", "peer", "tasks/s", "MetaFace's times", "peak MB", "compiling s")]
    for r in rows:
        for peer, rate in sorted(({r["peer_name"]: r["peer"]} | r["others"]).items(), key=str):
            if peer is None:
                continue
            # rows of an older file have less
            ratio, peak = r.get("ratios", {}).get(peer), r.get("peaks_mb", {}).get(peer)
            compiling = r.get("compile_s", {}).get(peer)
            shown = (number(rate, ".4g"), number(ratio, ".2f"), number(peak, ".0f"))
            lines.append((r["case"], peer, *shown, number(compiling, ".0f")))
    return aligned(lines, left=(0, 1))


def aligned(lines: Sequence[Sequence[str]], left: Collection[int]) -> str:
    """Columns, those of ``left`` from the left."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            text.ljust(width) if i in left else text.rjust(width)
            for i, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def plot(rows: list[dict[str, Any]], device_name: str, path: Path) -> None:
    """Bars of the ratios, with the targets."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    shown = [r for r in rows if r["ratio"]][::-1]
    figure, axes = plt.subplots(figsize=(9, 1.5 + 0.45 * len(shown)), layout="constrained")
    for i, r in enumerate(shown):
        low, high = r["ratio_quartiles"]
        reached = r["target"] is None or r["ratio"] >= r["target"]
        axes.barh(i, r["ratio"], color="tab:blue" if reached else "tab:orange")
        axes.plot([low, high], [i, i], color="black", linewidth=1.5)
        axes.text(max(high, r["ratio"]) * 1.05, i, f"{r['ratio']:.2f}", va="center", fontsize=8)
        if r["target"]:
            axes.plot([r["target"]] * 2, [i - 0.45, i + 0.45], color="tab:red")
    axes.set_yticks(range(len(shown)), [f"{r['case']}\n{r['peer_name']}" for r in shown])
    axes.tick_params(axis="y", labelsize=7)
    axes.axvline(1, color="grey", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xlim(right=1.3 * axes.get_xlim()[1])  # room for the figures
    for side in ("major", "minor"):
        getattr(axes.xaxis, f"set_{side}_formatter")(lambda value, _: f"{value:g}")
    axes.tick_params(axis="x", which="both", labelsize=7)
    axes.set_xlabel(
        "MetaFace's tasks/s over the fastest peer's (black: quartiles; red: target)", fontsize=8
    )
    axes.set_title(device_name, fontsize=9)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="rows found there are kept")
    parser.add_argument("--plot", metavar="FILE.png", type=Path, help="default: beside the json")
    parser.add_argument("--only", metavar="SUBSTRING", default="", help="of a case's name")
    parser.add_argument("--full", action="store_true", help="the whole grid: hours")
    parser.add_argument("--again", action="store_true", help="measure the rows in FILE afresh")
    parser.add_argument("--precision", choices=PRECISIONS, default="float32", help="of MetaFace")
    parser.add_argument("--quick", action="store_true", help="does it run? No figure to quote")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    options = parser.parse_args()
    device: torch.device = options.device

    reasons = {peer: missing(peer) for peer in REMEDIES}
    absent = [peer for peer, reason in reasons.items() if reason]
    for reason in filter(None, reasons.values()):
        print(reason, file=sys.stderr)
    cases = [
        case
        for case in in_precision(full_cases() if options.full else REFERENCE, options.precision)
        if options.only.lower() in name(case).lower()
    ]
    if options.quick:
        cases = list(dict.fromkeys(replace(case, tasks=2) for case in cases))
    if not cases:
        sys.exit(f"--only {options.only}: no case's name contains it")
    if len(absent) == len(REMEDIES):
        sys.exit("no peer to measure against")

    kept: dict[str, dict[str, Any]] = {}
    if options.json and options.json.is_file():
        kept = {r["case"]: r for r in read_record(options.json)["rows"]}
    again = {name(case) for case in cases} if options.again else set()
    todo = [case for case in cases if name(case) not in kept or name(case) in again]
    if len(todo) < len(cases):
        print(f"{len(cases) - len(todo)} rows are in {options.json}: --again measures them afresh")

    yardstick = rates({"matmul": matmul(device)}, device, 3, 0.0 if options.quick else 1.0)
    about = machine.describe(device) | {"matmul_gflops": statistics.median(yardstick["matmul"])}
    with track(todo, unit="case") as bar:
        for case in bar:
            bar.set_description(name(case))
            measured = measure(case, device, absent, options.quick, bar.set_postfix_str)
            if measured is None:
                bar.write(f"{name(case)}: left out, its peer is missing", file=sys.stderr)
                continue
            kept[name(case)] = measured
            if options.json:
                write(options.json, about, list(kept.values()))

    rows = [kept[name(case)] for case in cases if name(case) in kept]
    print(table(rows))
    print(f"\n{every_peer(rows)}\n")
    print(
        f"{about['device']}, {about['threads']} threads, torch {about['torch']}, "
        f"matrix product {about['matmul_gflops']:.0f} GFLOP/s"
    )
    if together := bounded_memory(rows):
        growth, share, speed = together.values()
        print(
            f"bounded memory: peak at 20 steps {growth:.2f} times that at 1 step (target: at most "
            f"{GROWTH_TARGET}), {share:.2f} of learn2learn's (at most {SHARE_TARGET}), at "
            f"{speed:.2f} of its speed (at least {SPEED_TARGET})"
        )
    picture = options.plot or (options.json and options.json.with_suffix(".png"))
    if picture:
        plot(rows, str(about["device"]), picture)


def write(path: Path, about: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """A run that is stopped goes on from here."""
    write_record(path, {"machine": about, "rows": rows, "bounded_memory": bounded_memory(rows)})


if __name__ == "__main__":
    main()

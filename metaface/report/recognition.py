"""Verification, identification and detection as curves, and as one self-contained page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from scipy.special import ndtri

from metaface.metrics.detection import Detection
from metaface.metrics.intervals import Estimate
from metaface.metrics.one_to_many import OpenSet
from metaface.metrics.one_to_one import Verification
from metaface.report.page import write_page
from metaface.report.plots import COLOURS, chart, svg

BLUE, RED, GREEN = COLOURS[:3]
DET_TICKS = (0.0001, 0.001, 0.01, 0.05, 0.2, 0.4)
BINS = 80
Row = tuple[str, str, str]


@dataclass(frozen=True)
class _Section:
    title: str
    about: str
    rows: list[Row]
    plots: list[tuple[str, Markup]]


def write_recognition(
    path: str | Path, results: Mapping[str, Verification | OpenSet | Detection]
) -> None:
    """Write a page of results, a section each under its title.

    Args:
        path: the HTML file; plots are inside it, nothing is fetched.
        results: title, such as "LFW, 5000 pairs", to result.
    """
    sections = [_section(title, result) for title, result in results.items()]
    write_page(path, "recognition.html", sections=sections)


def roc(result: Verification) -> Markup:
    """True accept rate against false accept rate, the latter on a logarithmic scale."""
    figure, axes = chart("false accept rate (FMR)", "true accept rate (1 - FNMR), %")
    # a curve on a logarithmic scale begins at the first false match
    start = int(np.searchsorted(result.fmr, 0, side="right")) - 1
    fmr = result.fmr[start:].clip(min=0.5 / (~result.same).sum())
    axes.step(fmr, 100 * (1 - result.fnmr[start:]), where="post", color=BLUE)
    for point in result.at:
        _bar(axes, point.far, point.tar)
    axes.set_xscale("log")
    axes.set_xlim(fmr[0], 1)
    _too_few(axes, result.smallest_far, "fewer than 10 false matches")
    return svg(figure)


def det(result: Verification) -> Markup:
    """FNMR against FMR on normal-deviate axes (Martin et al. 1997): Gaussian scores, a line."""
    figure, axes = chart("false match rate, %", "false non-match rate, %")
    seen = (result.fmr > 0) & (result.fmr < 1) & (result.fnmr > 0) & (result.fnmr < 1)
    axes.plot(ndtri(result.fmr[seen]), ndtri(result.fnmr[seen]), color=BLUE)
    ends = ndtri([DET_TICKS[0], 0.5])
    axes.plot(ends, ends, color="#999999", linewidth=0.8, linestyle=":")
    if 0 < result.eer < 1:
        axes.plot(*[ndtri(result.eer)] * 2, "o", color=RED, label=f"EER {100 * result.eer:.2f}%")
        axes.legend(frameon=False)
    names = [f"{100 * t:g}" for t in DET_TICKS]
    axes.set_xticks(ndtri(DET_TICKS), names)
    axes.set_yticks(ndtri(DET_TICKS), names)
    axes.set_xlim(*ends)
    axes.set_ylim(*ends)
    _too_few(axes, ndtri(min(0.5, result.smallest_far)), "fewer than 10 false matches")
    return svg(figure)


def dir_at_fpir(result: OpenSet) -> Markup:
    """DIR against FPIR, the latter on a logarithmic scale; red: what calibration came to."""
    figure, axes = chart(
        "false-positive identification rate (FPIR)", "detection and identification rate, %"
    )
    axes.plot(result.curve_fpir, 100 * result.curve_dir, color=BLUE)
    for point in result.at:
        _bar(axes, point.reached, point.dir)
    fpir = result.realised_fpir
    if fpir.value > 0:
        _bar(
            axes,
            fpir.value,
            result.realised_dir,
            fpir,
            color=RED,
            label=f"calibrated for {100 * result.asked:g}%",
        )
        axes.legend(frameon=False, loc="lower right")
    axes.axvline(result.asked, color=RED, linewidth=0.8, linestyle=":")
    axes.set_xscale("log")
    return svg(figure)


def score_histogram(result: Verification | OpenSet) -> Markup:
    """How scores are spread, a kind a colour, and where the threshold lies."""
    if isinstance(result, Verification):
        kinds = {
            "one person": result.scores[result.same],
            "two people": result.scores[~result.same],
        }
    else:
        kinds = {
            "enrolled, with themselves": result.genuine_scores,
            "enrolled, best other person": result.other_scores,
            "strangers, best person": result.impostor_scores,
        }
    figure, axes = chart("score", "density")
    finite = {name: scores[np.isfinite(scores)] for name, scores in kinds.items()}
    finite = {name: scores for name, scores in finite.items() if len(scores)}
    bins = np.histogram_bin_edges(np.concatenate(list(finite.values())), BINS)
    for (name, scores), colour in zip(finite.items(), (GREEN, BLUE, RED), strict=False):
        axes.hist(
            scores, bins, density=True, histtype="stepfilled", label=name, color=colour, alpha=0.45
        )
    cuts = result.thresholds[np.isfinite(result.thresholds)]
    if len(cuts):
        axes.axvspan(cuts.min(), cuts.max(), color="#444444", alpha=0.3, linewidth=0)
        axes.axvline(np.median(cuts), color="#444444", linewidth=1, label="threshold")
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return svg(figure)


def precision_recall(result: Detection) -> Markup:
    """Precision against recall."""
    figure, axes = chart("recall, %", "precision, %")
    axes.plot(100 * result.recall, 100 * result.precision, color=BLUE)
    axes.set_xlim(0, 101)
    axes.set_ylim(0, 101)
    return svg(figure)


def _bar(
    axes: Any,
    x: float,
    y: Estimate,
    across: Estimate | None = None,
    color: str = BLUE,
    label: str | None = None,
) -> None:
    """A point in percent with its interval, and that of x where there is one."""
    low_high = [[100 * (y.value - y.low)], [100 * (y.high - y.value)]]
    wide = None if across is None else [[x - across.low], [across.high - x]]
    axes.errorbar(
        x,
        100 * y.value,
        yerr=low_high,
        xerr=wide,
        fmt="o",
        color=color,
        capsize=3,
        markersize=4,
        label=label,
    )


def _too_few(axes: Any, below: float, why: str) -> None:
    """Shade the part of the curve that rests on too few."""
    left = axes.get_xlim()[0]
    if left < below:
        axes.axvspan(left, below, color="#999999", alpha=0.15, linewidth=0, label=why)
        axes.legend(frameon=False)


def _section(title: str, result: Verification | OpenSet | Detection) -> _Section:
    if isinstance(result, Verification):
        return _verification(title, result)
    if isinstance(result, OpenSet):
        return _open_set(title, result)
    about = (
        f"{result.photographs} photographs, {result.faces} faces that count and "
        f"{result.ignored} that neither count nor harm. A face is found by a box with an "
        f"intersection over union of {result.iou:g} or more. The interval draws photographs."
    )
    rows = [
        _row("average precision", result.ap),
        _row("recall, every box kept", float(result.recall.max(initial=0))),
    ]
    return _Section(title, about, rows, [("Precision against recall", precision_recall(result))])


def _verification(title: str, result: Verification) -> _Section:
    about = (
        f"{int(result.same.sum())} pairs of one person and {int((~result.same).sum())} of two, in "
        f"{len(result.accuracies)} folds; each fold is decided at the threshold that is best on "
        "the others. True accept rates are given down to the false accept rate that ten false "
        "matches make."
    )
    accuracy, half = result.accuracy, result.ci95
    rows = [
        _row("accuracy", Estimate(accuracy, accuracy - half, min(1.0, accuracy + half))),
        *(_row(f"TAR at FAR {100 * p.far:g}%", p.tar) for p in result.at),
        _row("equal error rate", result.eer),
    ]
    plots = [
        ("ROC: true against false accept rate", roc(result)),
        ("DET: both errors on normal-deviate axes", det(result)),
        ("Scores", score_histogram(result)),
    ]
    return _Section(title, about, rows, plots)


def _open_set(title: str, result: OpenSet) -> _Section:
    design = result.design
    about = (
        f"{design.galleries} random galleries of {design.enrolled} people with {design.shots} "
        f"photographs; as probes the rest of theirs and {design.strangers} strangers' "
        f"photographs, thresholds calibrated on {design.cohort} other people. Intervals draw "
        "galleries; the grey band is where their thresholds lie."
    )
    rows = [
        _row(f"FPIR realised where {100 * result.asked:g}% was asked", result.realised_fpir),
        _row("DIR there", result.realised_dir),
        *(
            _row(f"DIR at FPIR {100 * p.fpir:g}%, threshold from the strangers", p.dir)
            for p in result.at
        ),
        _row("rank 1, no strangers", result.rank1),
    ]
    plots = [
        ("DIR against FPIR", dir_at_fpir(result)),
        ("Best scores", score_histogram(result)),
    ]
    return _Section(title, about, rows, plots)


def _row(name: str, value: Estimate | float) -> Row:
    if isinstance(value, Estimate):
        return name, f"{100 * value.value:.2f}", f"{100 * value.low:.2f} to {100 * value.high:.2f}"
    return name, f"{100 * value:.2f}", ""

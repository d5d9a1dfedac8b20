"""Verification, identification and detection as curves, and as one self-contained page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from metaface.report.plots import BLUE, GREEN, GREY, RED, add_legend, chart, svg

_DET_TICKS = (0.0001, 0.001, 0.01, 0.05, 0.2, 0.4)
_BINS = 80
Section = dict[str, Any]
"""Of a page: ``title``, ``about``, ``rows`` (see :func:`format_rate`), ``plots`` by caption."""


def write_recognition(
    path: str | Path,
    results: Mapping[str, Verification | OpenSet | Detection],
    notes: Sequence[str] = (),
) -> None:
    """Write a page of results, a section each under its title.

    Args:
        path: the HTML file; plots are inside it, nothing is fetched.
        results: title, such as "LFW, 5000 pairs", to result.
        notes: what was changed for want of photographs, a sentence each.

    Example:
        >>> import numpy as np
        >>> from metaface.metrics import verification
        >>> from metaface.report import write_recognition
        >>> scores, same = np.linspace(0, 1, 40), np.arange(40) >= 20
        >>> result = verification(scores, same, fold=np.arange(40) % 10)
        >>> write_recognition("pairs.html", {"Made-up pairs": result})
    """
    write_sections(path, [_describe(title, result) for title, result in results.items()], notes)


def write_sections(
    path: str | Path, sections: Sequence[Section], notes: Sequence[str] = ()
) -> None:
    """Write a page of sections: a heading, a paragraph, a table of rates, plots; then notes."""
    write_page(path, "recognition.html", sections=sections, results={"notes": list(notes)})


def format_rate(name: str, rate: Estimate | float) -> list[str]:
    """A line of a section's table: the name, the rate and its interval in percent."""
    if isinstance(rate, Estimate):
        value, low, high = (f"{100 * x:.2f}" for x in rate)
        return [name, value, f"{low} to {high}"]
    return [name, f"{100 * rate:.2f}", ""]


def draw_roc(result: Verification) -> Markup:
    """True accept rate against false accept rate, the latter on a logarithmic scale."""
    figure, axes = chart("false accept rate (FMR)", "true accept rate (1 - FNMR), %")
    # a curve on a logarithmic scale begins at the first false match
    start = int(np.searchsorted(result.fmr, 0, side="right")) - 1
    fmr = result.fmr[start:].clip(min=0.5 / (~result.same).sum())
    axes.step(fmr, 100 * (1 - result.fnmr[start:]), where="post", color=BLUE)
    for point in result.at:
        _draw_point(axes, point.far, point.tar)
    axes.set_xscale("log")
    axes.set_xlim(fmr[0], 1)
    _shade_uncertain(axes, result.smallest_far, "fewer than 10 false matches")
    return svg(figure)


def draw_det(result: Verification) -> Markup:
    """FNMR against FMR on normal-deviate axes (Martin et al. 1997): Gaussian scores, a line."""
    figure, axes = chart("false match rate, %", "false non-match rate, %")
    seen = (result.fmr > 0) & (result.fmr < 1) & (result.fnmr > 0) & (result.fnmr < 1)
    axes.plot(ndtri(result.fmr[seen]), ndtri(result.fnmr[seen]), color=BLUE)
    ends = ndtri([_DET_TICKS[0], 0.5])
    axes.plot(ends, ends, color=GREY, linewidth=0.8, linestyle=":")
    if 0 < result.eer < 1:
        axes.plot(*[ndtri(result.eer)] * 2, "o", color=RED, label=f"EER {100 * result.eer:.2f}%")
        axes.legend(frameon=False)
    names = [f"{100 * t:g}" for t in _DET_TICKS]
    axes.set_xticks(ndtri(_DET_TICKS), names)
    axes.set_yticks(ndtri(_DET_TICKS), names)
    axes.set_xlim(*ends)
    axes.set_ylim(*ends)
    _shade_uncertain(axes, ndtri(min(0.5, result.smallest_far)), "fewer than 10 false matches")
    return svg(figure)


def draw_dir(result: OpenSet) -> Markup:
    """DIR against FPIR, the latter on a logarithmic scale; red: what calibration came to."""
    figure, axes = chart(
        "false-positive identification rate (FPIR)", "detection and identification rate, %"
    )
    axes.plot(result.curve_fpir, 100 * result.curve_dir, color=BLUE)
    for point in result.at:
        _draw_point(axes, point.reached, point.dir)
    fpir = result.realised_fpir
    if fpir.value > 0:
        _draw_point(
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


def draw_scores(result: Verification | OpenSet) -> Markup:
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
    bins = np.histogram_bin_edges(np.concatenate(list(finite.values())), _BINS)
    for (name, scores), colour in zip(finite.items(), (GREEN, BLUE, RED), strict=False):
        axes.hist(
            scores, bins, density=True, histtype="stepfilled", label=name, color=colour, alpha=0.45
        )
    cuts = result.thresholds[np.isfinite(result.thresholds)]
    if len(cuts):
        axes.axvspan(cuts.min(), cuts.max(), color="#444444", alpha=0.3, linewidth=0)
        axes.axvline(np.median(cuts), color="#444444", linewidth=1, label="threshold")
    add_legend(axes)
    return svg(figure)


def draw_precision_recall(result: Detection) -> Markup:
    """Precision against recall."""
    figure, axes = chart("recall, %", "precision, %")
    axes.plot(100 * result.recall, 100 * result.precision, color=BLUE)
    axes.set_xlim(0, 101)
    axes.set_ylim(0, 101)
    return svg(figure)


def _draw_point(
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


def _shade_uncertain(axes: Any, below: float, why: str) -> None:
    """Shade the part of the curve that rests on too few."""
    left = axes.get_xlim()[0]
    if left < below:
        axes.axvspan(left, below, color=GREY, alpha=0.15, linewidth=0, label=why)
        axes.legend(frameon=False)


def _describe(title: str, result: Verification | OpenSet | Detection) -> Section:
    if isinstance(result, Verification):
        return _describe_verification(title, result)
    if isinstance(result, OpenSet):
        return _describe_open_set(title, result)
    about = (
        f"{result.photographs} photographs, {result.faces} faces that count and "
        f"{result.ignored} that neither count nor harm. A face is found by a box with an "
        f"intersection over union of {result.iou:g} or more. The interval draws photographs."
    )
    rows = [
        format_rate("average precision", result.ap),
        format_rate("recall, every box kept", float(result.recall.max(initial=0))),
    ]
    plots = {"Precision against recall": draw_precision_recall(result)}
    return {"title": title, "about": about, "rows": rows, "plots": plots}


def _describe_verification(title: str, result: Verification) -> Section:
    about = (
        f"{int(result.same.sum())} pairs of one person and {int((~result.same).sum())} of two, in "
        f"{len(result.accuracies)} folds; each fold is decided at the threshold that is best on "
        "the others. True accept rates are given down to the false accept rate that ten false "
        "matches make."
    )
    accuracy, half = result.accuracy, result.ci95
    rows = [
        format_rate("accuracy", Estimate(accuracy, accuracy - half, min(1.0, accuracy + half))),
        *(format_rate(f"TAR at FAR {100 * p.far:g}%", p.tar) for p in result.at),
        format_rate("equal error rate", result.eer),
    ]
    plots = {
        "ROC: true against false accept rate": draw_roc(result),
        "DET: both errors on normal-deviate axes": draw_det(result),
        "Scores": draw_scores(result),
    }
    return {"title": title, "about": about, "rows": rows, "plots": plots}


def _describe_open_set(title: str, result: OpenSet) -> Section:
    design = result.design
    about = (
        f"{design.galleries} random galleries of {design.enrolled} people with {design.shots} "
        f"photographs; as probes the rest of theirs and {design.strangers} strangers' "
        f"photographs, thresholds calibrated on {design.cohort} other people. Intervals draw "
        "galleries; the grey band is where their thresholds lie."
    )
    rows = [
        format_rate(f"FPIR realised where {100 * result.asked:g}% was asked", result.realised_fpir),
        format_rate("DIR there", result.realised_dir),
        *(
            format_rate(f"DIR at FPIR {100 * p.fpir:g}%, threshold from the strangers", p.dir)
            for p in result.at
        ),
        format_rate("rank 1, no strangers", result.rank1),
    ]
    plots = {"DIR against FPIR": draw_dir(result), "Best scores": draw_scores(result)}
    return {"title": title, "about": about, "rows": rows, "plots": plots}

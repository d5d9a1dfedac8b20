"""Results as people look at them: tables, plots, one page. Plain dicts and arrays come in."""

from metaface.report.annotations import draw_annotations
from metaface.report.benchmark import format_benchmark, write_benchmark
from metaface.report.cross_domain import format_matrix, write_cross_domain
from metaface.report.groups import format_slices, write_slices
from metaface.report.joint import format_joint, write_joint
from metaface.report.pictures import draw_grid
from metaface.report.recognition import write_recognition
from metaface.report.robustness import write_robustness
from metaface.report.sweep import tabulate_sweep, write_sweep

__all__ = [
    "draw_annotations",
    "draw_grid",
    "format_benchmark",
    "format_joint",
    "format_matrix",
    "format_slices",
    "tabulate_sweep",
    "write_benchmark",
    "write_cross_domain",
    "write_joint",
    "write_recognition",
    "write_robustness",
    "write_slices",
    "write_sweep",
]

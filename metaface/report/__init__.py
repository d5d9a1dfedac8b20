"""Results as people look at them: a table, pictures, one page."""

from metaface.report.annotated import sheet
from metaface.report.cross_domain import matrix, write_cross_domain
from metaface.report.page import write
from metaface.report.pictures import contact_sheet, episode_picture
from metaface.report.recognition import write_recognition
from metaface.report.sweep import sweep_lines, write_sweep
from metaface.report.text_table import table

__all__ = [
    "contact_sheet",
    "episode_picture",
    "matrix",
    "sheet",
    "sweep_lines",
    "table",
    "write",
    "write_cross_domain",
    "write_recognition",
    "write_sweep",
]

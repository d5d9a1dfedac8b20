"""The options of every job and command: typed, documented, and imported without torch or numpy."""

from metaface.options.jobs import (
    BenchmarkSettings,
    CrossDomainSettings,
    JobSettings,
    JointSettings,
    MultitaskSettings,
    SweepSettings,
    TrainSettings,
)
from metaface.options.texts import parse_domains, parse_options

__all__ = [
    "BenchmarkSettings",
    "CrossDomainSettings",
    "JobSettings",
    "JointSettings",
    "MultitaskSettings",
    "SweepSettings",
    "TrainSettings",
    "parse_domains",
    "parse_options",
]

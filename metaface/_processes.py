"""Whether this is one of several processes that train together, started by torchrun."""

from __future__ import annotations

import os

_VARIABLES = {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}


def launched() -> bool:
    """Whether this process was started as one of several."""
    several = os.environ.get("WORLD_SIZE", "1") != "1"
    return several and os.environ.keys() >= _VARIABLES

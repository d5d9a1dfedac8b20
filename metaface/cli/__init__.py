"""The command line: ``metaface train``, ``metaface identify`` and the others; see ``--help``."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status, one of those that ``--help`` lists.

    With METAFACE_DEBUG=1 in the environment, an error is shown with its traceback.
    """
    try:  # imports, too, take long enough to be interrupted
        from metaface.cli.app import run

        return run(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:
        print("metaface: interrupted", file=sys.stderr)
        return 130

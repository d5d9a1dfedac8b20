"""Lines of a process that may be killed, for another that reads along."""

import os


def say(line: object) -> None:
    """Write a line to standard output by one call, so that no part of it stands alone.

    ``print`` writes the end of the line by itself where PYTHONUNBUFFERED is set.
    """
    os.write(1, f"{line}\n".encode())

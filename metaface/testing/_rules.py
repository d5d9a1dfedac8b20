"""How a broken rule is said."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def require(holds: Any, rule: str, found: str, why: str) -> None:
    """Raise an AssertionError of three sentences, unless ``holds``.

    Args:
        rule: what must be.
        found: what is.
        why: what goes wrong without it, and how to keep it.
    """
    if not holds:
        raise AssertionError(f"broken rule: {rule}. Found: {found}. {why}")


def require_refusal(call: Callable[[], object], rule: str, *said: str) -> None:
    """``call`` must raise a ValueError whose message says all of ``said``."""
    try:
        call()
    except ValueError as error:
        require(
            all(text in str(error) for text in said),
            rule,
            f"the message {str(error)!r}, which does not say {' and '.join(map(repr, said))}",
            "A user must read from the message what to change.",
        )
        return
    except Exception as error:
        found = f"{type(error).__name__}: {error}"
    else:
        found = "no error"
    require(False, rule, found, f"It must be a ValueError that says {' and '.join(said)}.")

"""The command `dialer-engine`.

Every command but `run`, `demo` and `simulate` speaks with Redis alone, by the store's verbs, and so works from any
host that reaches Redis; the daemons obey what then stands there. Data goes to standard output, words to standard error.

Exit codes: 0 done, 1 refused or not found, 2 usage, 69 Redis unavailable, 78 configuration.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from dialer_engine.cli.application import app
from dialer_engine.cli.session import tell
from dialer_engine.errors import ConfigError, Conflict, DialerError, Invalid, Unavailable

__all__ = ["main"]

REFUSED = 1


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command line (None: this process's own) and exit."""
    try:
        app(arguments)
    except DialerError as exc:
        sys.exit(_told(exc))
    sys.exit()


def _told(exc: DialerError) -> int:
    match exc:
        case ConfigError():
            tell("the configuration cannot be used:", *(f"  {problem}" for problem in exc.problems))
            return os.EX_CONFIG
        case Invalid():
            tell("refused:", *(f"  {problem}" for problem in exc.problems))
            return REFUSED
        case Unavailable():
            tell(str(exc))
            return os.EX_UNAVAILABLE
        case Conflict(allowed=[_, *_]):
            tell(f"{exc}; possible now: {', '.join(exc.allowed)}")
            return REFUSED
        case _:
            tell(str(exc))
            return REFUSED

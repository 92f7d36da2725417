"""The command `dialer-engine`.

Every command but `run` speaks with Redis alone, by the store's verbs, and so works from any host that reaches
Redis; the daemons obey what then stands there. Data goes to standard output, words to standard error.

Exit codes: 0 done, 1 refused or not found, 2 usage, 69 Redis unavailable, 78 configuration.
"""

from __future__ import annotations

import sys

from dialer_engine.cli.application import app
from dialer_engine.cli.session import tell
from dialer_engine.daemon import Exit
from dialer_engine.errors import ConfigError, DialerError, Invalid, Unavailable

__all__ = ["main"]


def main() -> None:
    """Run the command line of this process and exit."""
    try:
        app()
    except DialerError as exc:
        sys.exit(_told(exc))


def _told(exc: DialerError) -> Exit:
    match exc:
        case ConfigError():
            tell("the configuration cannot be used:", *(f"  {problem}" for problem in exc.problems))
            return Exit.CONFIG
        case Invalid():
            tell("refused:", *(f"  {problem}" for problem in exc.problems))
            return Exit.FAILED
        case Unavailable():
            tell(str(exc))
            return Exit.UNAVAILABLE
        case _:
            tell(str(exc))
            return Exit.FAILED

"""`python -m dialer_engine`: the same as the command `dialer-engine`."""

from __future__ import annotations

from dialer_engine.cli import main

main()

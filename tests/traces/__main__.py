"""See `record`."""

from __future__ import annotations

import sys

from .record import main

sys.exit(main())

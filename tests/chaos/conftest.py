"""The same lab as everybody else's."""

from __future__ import annotations

# By its full name: the module of another name would start a second lab.
from tests.lab.fixtures import lab

__all__ = ["lab"]

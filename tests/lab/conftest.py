"""The lab's own tests use the same fixture as everybody else's."""

from __future__ import annotations

# By its full name: the module of another name would start a second lab.
from tests.lab.fixtures import lab, sipp

__all__ = ["lab", "sipp"]

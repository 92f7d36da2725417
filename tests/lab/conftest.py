"""The lab's own tests use the same fixture as everybody else's."""

from __future__ import annotations

from .fixtures import lab

__all__ = ["lab"]

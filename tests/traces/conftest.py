"""The traces use the same lab as everybody else."""

from __future__ import annotations

from tests.lab.fixtures import lab

__all__ = ["lab"]

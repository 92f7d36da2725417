"""The connection: scripts and commands of one turn of the loop in one pipeline, and errors in our words."""

from __future__ import annotations


class Link: ...

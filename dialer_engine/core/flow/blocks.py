"""What a flow is made of: the blocks of a validated document. They say where they lead and do nothing.

The JSON names are in the parser's table (parse.py), the meaning of a block in the interpreter (interpret.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

KEYS = "0123456789*#ABCD"


class Operator(StrEnum):
    EQ = "eq"
    NE = "ne"
    IN = "in"
    NOT_IN = "notIn"
    LT = "lt"
    LE = "le"
    GT = "gt"
    GE = "ge"
    MATCHES = "matches"


@dataclass(frozen=True, slots=True)
class Condition:
    """One way out of a branch. Whatever is given must hold: the text, the time of day, the weekday."""

    next: str
    name: str | None = None  # an attribute or a variable
    operator: Operator | None = None
    value: str | tuple[str, ...] = ""
    start_seconds: int | None = None  # of the local day; a window over midnight belongs to the day it starts on
    end_seconds: int | None = None
    week_days: frozenset[int] | None = None  # 1 = Monday .. 7 = Sunday


@dataclass(frozen=True, slots=True)
class PlayBlock:
    media: tuple[str, ...]
    next: str
    barge_in: bool = True
    timeout_seconds: float | None = None  # a play that takes longer is ended


@dataclass(frozen=True, slots=True)
class MenuBlock:
    keys: Mapping[str, str]
    invalid: str
    no_input: str
    media: tuple[str, ...] = ()
    barge_in: bool = True
    timeout_seconds: float = 5
    retries: int = 2


@dataclass(frozen=True, slots=True)
class ReadBlock:
    variable: str
    next: str
    invalid: str
    no_input: str
    media: tuple[str, ...] = ()
    barge_in: bool = True
    min_length: int = 1
    max_length: int = 20
    terminator: str = "#"  # "" for none
    timeout_seconds: float = 5  # for the first key and between two
    retries: int = 2


@dataclass(frozen=True, slots=True)
class SetBlock:
    variables: Mapping[str, str]
    next: str


@dataclass(frozen=True, slots=True)
class BranchBlock:
    conditions: tuple[Condition, ...]
    otherwise: str


@dataclass(frozen=True, slots=True)
class WaitBlock:
    seconds: float
    next: str


@dataclass(frozen=True, slots=True)
class ResultBlock:
    next: str
    ext_status: str | None = None
    values: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OptOutBlock:
    next: str


@dataclass(frozen=True, slots=True)
class QueueBlock:
    """To the agents of a queue. `next` is for whom the queue gives back, with or without having talked."""

    next: str
    queue: str | None = None  # None: the queue of the campaign
    timeout_seconds: int = 60


@dataclass(frozen=True, slots=True)
class GotoBlock:
    next: str


@dataclass(frozen=True, slots=True)
class HangUpBlock:
    pass


PromptBlock = PlayBlock | MenuBlock | ReadBlock
Block = (
    PlayBlock
    | MenuBlock
    | ReadBlock
    | SetBlock
    | BranchBlock
    | WaitBlock
    | ResultBlock
    | OptOutBlock
    | QueueBlock
    | GotoBlock
    | HangUpBlock
)


@dataclass(frozen=True, slots=True)
class Flow:
    """A validated flow: every target is there, every block can be reached, every loop waits somewhere."""

    name: str
    start: str
    blocks: Mapping[str, Block]
    description: str = ""

    @property
    def unnamed_queue(self) -> str | None:
        """A block that leads to the queue of the campaign, whatever that is."""
        unnamed = (
            name for name, block in self.blocks.items() if isinstance(block, QueueBlock) and block.queue is None
        )
        return next(unnamed, None)

    def has_played(self, path: Iterable[str]) -> bool:
        """Is there something to hear on the way through these blocks?"""
        blocks = (self.blocks.get(name) for name in path)
        return any(isinstance(block, PromptBlock) and bool(block.media) for block in blocks)

"""Tables that people have, read in pieces as they come, and results written as one.

Nothing here waits or touches Redis. A line is told by its number in the file, from 1.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from dialer_engine.errors import Invalid, Problem
from dialer_engine.store.contract import ATTRIBUTE_NAME, TOLD_PROBLEMS

NUMBER_COLUMNS = ("number", "phone", "phone_number", "telephone", "msisdn")
LONGEST_RECORD = 65_536
"""Characters, over all its lines."""
LINE_END = "\r\n"
"""Of what is written (RFC 4180): the csv module quotes a text with a CR only if the lines end in one."""
RESULT_COLUMNS = (
    "number", "status", "extStatus", "attempt", "run", "callList", "attributes", "values", "path", "cause",
    "sipCode", "agent", "recording", "originatedAt", "ringingAt", "answeredAt", "leftIvrAt", "connectedAt",
    "endedAt", "redialAt", "queue",
)  # fmt: skip

_ATTRIBUTE = re.compile(ATTRIBUTE_NAME)
_CLOSING = re.compile(r'(?:[^"]++|"")*+"')

Line = tuple[int, str, Mapping[str, str]]
"""On which line it begins, number, the other columns by name."""


class Lines:
    """Whole lines out of pieces of a text."""

    def __init__(self) -> None:
        self.line = 0
        self._rest = ""

    def feed(self, text: str, *, last: bool = False) -> Iterator[str]:
        """Those that are whole now; `line` is the number of the one given last. Raises Invalid for one too long."""
        lines = (self._rest + text).split("\n")
        self._rest = lines.pop()
        if last and self._rest:
            lines.append(self._rest)
            self._rest = ""
        for line in lines:
            self.line += 1
            yield line
        if len(self._rest) > LONGEST_RECORD:
            raise Invalid([Problem(f"line {self.line + 1}", f"has more than {LONGEST_RECORD} characters")])


class Csv:
    """A table with comma, semicolon or tab.

    With a header, the column called `number` (or phone, telephone, msisdn) is the number and the others are told by
    their names; those without one, as spreadsheets leave them at the end, are left out. Our own tables begin with
    `number`; an attribute of that name may follow. A table that begins with a number has no header: its first column
    counts and the rest is left.

    attributes: the others are attributes of a contact, so a name that none can have refuses the whole table, where it
    would spoil every row.
    """

    def __init__(self, *, attributes: bool = True) -> None:
        self._attributes = attributes
        self._lines = Lines()
        self._record = ""  # lines of one with a quoted text that has not ended
        self._quoted = False
        self._begins = 1
        self._delimiter = ","
        self._names: list[str] | None = None
        self._place = 0  # of the number; the names count only with a header

    def feed(self, text: str, *, last: bool = False) -> Iterator[Line]:
        """The rows that end in this piece. Raises Invalid for what is no table."""
        for line in self._lines.feed(text, last=last):
            self._record = f"{self._record}\n{line}" if self._quoted else line
            if self._names is None:
                self._delimiter = max(",;\t", key=self._record.count)
            self._quoted = _goes_on(line, self._delimiter, quoted=self._quoted)
            if self._quoted:
                if len(self._record) > LONGEST_RECORD:
                    break
                continue
            yield from self._row(self._record)
            self._begins = self._lines.line + 1
        if self._quoted and (last or len(self._record) > LONGEST_RECORD):
            raise Invalid([Problem(f"line {self._begins}", "a quoted text begins here and does not end")])

    def _row(self, record: str) -> Iterator[Line]:
        try:
            row = next(csv.reader((record,), delimiter=self._delimiter), [])
        except csv.Error as exc:
            raise Invalid([Problem(f"line {self._begins}", f"is no CSV: {exc}")]) from exc
        if self._names is None:
            yield from self._header([name.strip() for name in row])
        elif row and self._names:
            named = enumerate(zip(self._names, row, strict=False))
            others = {name: text for place, (name, text) in named if name and place != self._place}
            yield self._begins, row[self._place] if self._place < len(row) else "", others
        elif row:
            yield self._begins, row[0], {}

    def _header(self, names: list[str]) -> Iterator[Line]:
        place = self._number_place(names)
        if place is not None:
            if self._attributes:
                self._check([name for column, name in enumerate(names) if name and column != place])
            self._names, self._place = names, place
        elif names and any(character.isdigit() for character in names[0]):
            self._names = []
            yield self._begins, names[0], {}
        elif names:
            told = ", ".join(names)[:200]
            raise Invalid([Problem(f"line {self._begins}", f"names no column `number`, only {told}")])

    def _check(self, attributes: Sequence[str]) -> None:
        """Raises Invalid for names that no attribute can have, and for two of one name."""
        reasons: list[str] = []
        for name, columns in Counter(attributes).items():
            if not _ATTRIBUTE.fullmatch(name):
                reasons.append(f"`{name[:80]}` is no name for an attribute: letters, digits and _, at most 40")
            elif columns > 1:
                reasons.append(f"`{name}` is the name of {columns} columns")
        if reasons:
            raise Invalid([Problem(f"line {self._begins}", one) for one in reasons[:TOLD_PROBLEMS]])

    def _number_place(self, names: Sequence[str]) -> int | None:
        if names[:1] == ["number"]:
            return 0
        lower = [name.lower() for name in names]
        called = next((name for name in NUMBER_COLUMNS if name in lower), None)
        if called is None:
            return None
        if lower.count(called) > 1:
            raise Invalid([Problem(f"line {self._begins}", f"names two columns `{called}`")])
        return lower.index(called)


def _goes_on(line: str, delimiter: str, *, quoted: bool) -> bool:
    """Is there a quoted text that does not end in this line? A quote opens one only where a column begins."""
    at = 0
    while True:
        if quoted or line.startswith('"', at):
            closing = _CLOSING.match(line, at if quoted else at + 1)
            if closing is None:
                return True
            at, quoted = closing.end(), False
        at = line.find(delimiter, at) + 1
        if not at:
            return False


def cells(item: Mapping[str, object]) -> list[object]:
    """A result as a row under RESULT_COLUMNS."""
    return [_cell(item.get(column)) for column in RESULT_COLUMNS]


def _cell(value: object) -> object:
    """Structured values as JSON; a text that a spreadsheet would run as a formula gets an apostrophe."""
    match value:
        case dict() | list():
            return json.dumps(value, ensure_ascii=False) if value else ""
        case str() if value[:1] in ("=", "@", "\t", "\r") or (
            value[:1] in ("+", "-") and not value[1:].isdigit()
        ):
            return "'" + value
        case _:
            return value

"""Long bodies on their way in: read while they come, checked in a worker thread, never in memory as a whole.

A list as JSON is all or nothing: every mistake in it is told and nothing is written. Lines of CSV and NDJSON that
cannot be used are left out and told with their numbers.
"""

from __future__ import annotations

import asyncio
import codecs
import json
import re
from collections.abc import AsyncIterable, AsyncIterator, Callable, Collection, Generator, Iterator
from typing import Generic, NoReturn, TypeVar

from fastapi import HTTPException, Request

from dialer_engine.api.problems import JSON, media_type
from dialer_engine.api.requests import CSV, NDJSON
from dialer_engine.core.compliance import NumberPolicy
from dialer_engine.errors import Invalid, Problem
from dialer_engine.store.contract import TOLD_PROBLEMS, contact_row, from_json, told
from dialer_engine.store.imports import NumberedRow
from dialer_engine.store.tables import Csv, Lines

LONGEST_BODY = 64 * 1024 * 1024
"""Bytes of a list as JSON; CSV and NDJSON may be of any length."""
LONGEST_VALUE = 65_536
"""Characters of one contact, however it is spaced; the JSON parser holds everybody up while it reads one."""
FED_BYTES = 32_768
FED_LINES_BYTES = 2048
"""Some hundred lines: a millisecond or two in which the loop, should it have something to do, has to wait for the
interpreter."""
ROWS_AT_ONCE = 500

_Result = TypeVar("_Result")
_Entry = TypeVar("_Entry")
Steps = Generator[None, None, _Result]
"""Gives way (yields) when the text read so far ends too early."""

_BLANKS = re.compile(r"[ \t\r\n]*")


class JsonList:
    """A document with a member `numbers`, read piece by piece. Raises HTTPException 400 where it is no JSON.

    `members` are those of the others that may be there (`known`), and `problems` is what is wrong with the contacts
    and with members nobody knows: both complete behind the last row.
    """

    def __init__(self, policy: NumberPolicy, known: Collection[str]) -> None:
        self.members: dict[str, object] = {}
        self.has_numbers = False
        self.problems: list[Problem] = []
        self._policy = policy
        self._known = known
        self._count = 0
        self._decode = codecs.getincrementaldecoder("utf-8")().decode
        self._text, self._at, self._is_last = "", 0, False
        self._found: list[NumberedRow] = []
        self._reading = self._document()

    def rows(self, chunks: AsyncIterable[bytes]) -> AsyncIterator[list[NumberedRow]]:
        """(identity, row) in batches; none any more behind the first problem."""
        return _batches(_not_too_long(chunks), self.feed, FED_BYTES)

    def feed(self, chunk: bytes, *, last: bool = False) -> list[NumberedRow]:
        """The contacts that end in this piece of the document."""
        try:
            piece = self._decode(chunk, last)
        except UnicodeDecodeError as exc:
            raise _malformed(f"it is not UTF-8 text: {exc.reason}") from exc
        self._text, self._at, self._is_last = self._text[self._at :] + piece, 0, last
        next(self._reading, None)
        found, self._found = self._found, []
        return found

    def _document(self) -> Steps[None]:
        if (yield from self._peek()) != "{":
            yield from self._value()
            self._wrong(Problem("", "must be an object"))
            yield from self._rest()
            return
        yield from self._mark("{")
        mark = yield from self._mark('}"')
        while mark != "}":
            self._at -= mark == '"'
            yield from self._member()
            mark = yield from self._mark(",}")
        yield from self._rest()

    def _member(self) -> Steps[None]:
        name = yield from self._value()
        if not isinstance(name, str):
            raise _malformed("the name of a member is a text")
        yield from self._mark(":")
        if name == "numbers":
            yield from self._numbers()
        else:
            value = yield from self._value()
            if name in self._known:
                self.members[name] = value
            else:  # there may be a million: who takes numbers for names must not fill the memory
                self._wrong(*told([([name], "Extra inputs are not permitted")]))

    def _numbers(self) -> Steps[None]:
        if self.has_numbers:
            raise _malformed("it names its numbers twice")
        self.has_numbers = True
        if (yield from self._peek()) != "[":
            yield from self._value()
            self._wrong(Problem("numbers", "must be a list"))
            return
        mark = yield from self._mark("[")
        if (yield from self._peek()) == "]":
            mark = yield from self._mark("]")
        while mark != "]":
            self._take((yield from self._value()))
            mark = yield from self._mark(",]")

    def _take(self, contact: object) -> None:
        try:
            row = contact_row(contact, self._policy)
        except Invalid as exc:
            for problem in exc.problems:
                place = f"numbers.{self._count}.{problem.place}".rstrip(".")
                self._wrong(Problem(place, problem.reason))
        else:
            if not self.problems:
                self._found.append(row)
        self._count += 1

    def _wrong(self, problem: Problem) -> None:
        if len(self.problems) < TOLD_PROBLEMS:
            self.problems.append(problem)
        elif len(self.problems) == TOLD_PROBLEMS:
            self.problems.append(Problem("", "and more mistakes"))

    def _rest(self) -> Steps[None]:
        """Nothing but blanks may follow."""
        while not self._is_last or self._at < len(self._text):
            self._skip_blanks()
            if self._at < len(self._text):
                raise _malformed("something stands behind its end")
            yield

    def _value(self) -> Steps[object]:
        """The next value, once it is whole."""
        yield from self._peek()
        while True:
            length = len(self._text) - self._at
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as exc:
                if self._is_last:
                    raise _malformed(exc.msg) from exc
            except (ValueError, RecursionError) as exc:
                raise _malformed(str(exc)) from exc
            else:
                length = end - self._at
                # A number that ends where the text does may go on.
                if length <= LONGEST_VALUE and (
                    end < len(self._text) or self._is_last or self._text[end - 1] in '"}]'
                ):
                    self._at = end
                    return value
            if length > LONGEST_VALUE:
                raise _malformed(f"a value has more than {LONGEST_VALUE} characters, or is none")
            yield

    def _mark(self, wanted: str) -> Steps[str]:
        """One of these characters: which?"""
        found = yield from self._peek()
        if found not in wanted:
            raise _malformed(f"{' or '.join(wanted)} is expected, not {found}")
        self._at += 1
        return found

    def _peek(self) -> Steps[str]:
        """The next character that is no blank."""
        self._skip_blanks()
        while self._at == len(self._text):
            if self._is_last:
                raise _malformed("it ends too early")
            yield
            self._skip_blanks()
        return self._text[self._at]

    def _skip_blanks(self) -> None:
        blanks = _BLANKS.match(self._text, self._at)
        self._at = blanks.end() if blanks else self._at


class LineReader(Generic[_Entry]):
    """CSV or NDJSON of any length. `take` makes of {"number", ...} what is to be stored, or raises Invalid.

    columns: a CSV's columns beside the number are told as {"number", "attributes": {...}}, or, when named here,
    by these names alone, blank ones left out.
    """

    def __init__(
        self, form: str, take: Callable[[object], _Entry], columns: Collection[str] | None = None
    ) -> None:
        self.rejected = 0
        self.problems: list[Problem] = []
        """The first of them, each at its line."""
        self._table: Csv | Lines = Csv(attributes=columns is None) if form == CSV else Lines()
        self._take = take
        self._columns = columns
        self._decode = codecs.getincrementaldecoder(
            "utf-8-sig"
        )().decode  # spreadsheets write a byte order mark

    def entries(self, chunks: AsyncIterable[bytes]) -> AsyncIterator[list[_Entry]]:
        """In batches. Raises Invalid for what is no table at all, and HTTPException 400 for what is no text."""
        return _batches(chunks, self.feed, FED_LINES_BYTES)

    def feed(self, chunk: bytes, *, last: bool = False) -> list[_Entry]:
        """What the lines that end in this piece hold."""
        try:
            text = self._decode(chunk, last)
        except UnicodeDecodeError as exc:
            raise HTTPException(400, f"the body is not UTF-8 text: {exc.reason}") from exc
        found = []
        for line, document in self._documents(text, last=last):
            try:
                found.append(self._take(from_json(document) if isinstance(document, str) else document))
            except Invalid as exc:
                self._reject(line, exc)
        return found

    def told(self) -> dict[str, object]:
        """What was left out, as shapes.Rejecting describes it."""
        if not self.rejected:
            return {}
        errors = [{"path": one.place, "detail": one.reason} for one in self.problems]
        return {"rejected": self.rejected, "errors": errors}

    def _documents(self, text: str, *, last: bool) -> Iterator[tuple[int, object]]:
        """With their lines; those of NDJSON are not read yet."""
        if isinstance(self._table, Lines):
            yield from ((self._table.line, line) for line in self._table.feed(text, last=last) if line.strip())
            return
        for line, number, others in self._table.feed(text, last=last):
            if self._columns is None:
                yield line, {"number": number, "attributes": others}
            else:
                named = {name: others[name] for name in self._columns if others.get(name)}
                yield line, {"number": number, **named}

    def _reject(self, line: int, exc: Invalid) -> None:
        self.rejected += 1
        if len(self.problems) < TOLD_PROBLEMS:
            self.problems.append(Problem(f"line {line}", str(exc)))


async def _not_too_long(chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    length = 0
    async for chunk in chunks:
        length += len(chunk)
        if length > LONGEST_BODY:
            raise HTTPException(413, f"a list as JSON has at most {LONGEST_BODY} bytes")
        yield chunk


async def _batches(
    chunks: AsyncIterable[bytes], feed: Callable[..., list[_Entry]], fed_bytes: int
) -> AsyncIterator[list[_Entry]]:
    """What `feed` makes of the body, fed in a worker thread a little at a time."""
    batch: list[_Entry] = []
    async for chunk in chunks:
        for start in range(0, len(chunk), fed_bytes):
            batch += await asyncio.to_thread(feed, chunk[start : start + fed_bytes])
            if len(batch) >= ROWS_AT_ONCE:
                yield batch
                batch = []
    batch += await asyncio.to_thread(feed, b"", last=True)
    if batch:
        yield batch


def form_of(request: Request) -> str:
    """How the body is written. Raises HTTPException 415 for what is none of them."""
    form = media_type(request)
    if form not in (JSON, CSV, NDJSON):
        raise HTTPException(415, f"the body must be {JSON}, {CSV} or {NDJSON}")
    return form


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def _malformed(reason: str) -> HTTPException:
    return HTTPException(400, f"the body is no JSON: {reason}")


def need_json(request: Request) -> None:
    """Raises HTTPException 415 for another type of body."""
    if media_type(request) != JSON:
        raise HTTPException(415, f"the body must be {JSON}")

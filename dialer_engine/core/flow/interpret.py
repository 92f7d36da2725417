"""The interpreter: (flow, position, event) -> (new position, actions). No clock, no channel, no memory.

One step runs through every block that needs nobody (set, branch, result, goto) up to one that waits. The
caller records the position before it carries out the actions: so what the callee said is safe before the next
block is heard. An event that answers another action than the one under way changes nothing.

A pressed key is never lost: it goes to `position.keys`, and menus and reads take from there. A prompt with
barge-in is left out as long as a key waits; that is typing ahead, and it is also how a read goes on after a
crash without asking for the digits again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from decimal import Decimal

from dialer_engine.core.flow import media
from dialer_engine.core.flow.blocks import (
    KEYS,
    Block,
    BranchBlock,
    Condition,
    Flow,
    GotoBlock,
    HangUpBlock,
    MenuBlock,
    Operator,
    OptOutBlock,
    PlayBlock,
    PromptBlock,
    QueueBlock,
    ReadBlock,
    ResultBlock,
    SetBlock,
    WaitBlock,
)
from dialer_engine.core.flow.position import (
    MAX_NOTES,
    MAX_PATH,
    Action,
    Done,
    Enqueue,
    Event,
    Failed,
    HangUp,
    HungUp,
    Key,
    OptOut,
    Play,
    Played,
    Position,
    Returned,
    Step,
    StopPlay,
    Timer,
    TimerFired,
)

PLAY_SECONDS = 300.0  # a play of which nobody hears that it has ended is over by then
MAX_KEYS = 64  # keys that wait; what is pressed beyond is dropped

QUEUE_STATUS = "queueStatus"
"""The variable that says why a queue has given the callee back, for a branch."""

_STATUS = re.compile(r"[A-Z]{1,20}")
_PLAIN_NUMBER = re.compile(r"[+-]?[0-9]{1,30}(\.[0-9]{1,30})?")


def begin(flow: Flow, attributes: Mapping[str, str], *, now: datetime) -> Step:
    """The call is up and in our hands. `now` is the local time of the campaign (for branches)."""
    run = _Run(flow, Position(block=flow.start), attributes, now)
    run.go_on(flow.start)
    return run.step()


def resume(flow: Flow, position: Position, attributes: Mapping[str, str], *, now: datetime) -> Step:
    """Another process takes over: the block last recorded begins again; keys, tries and answers are kept.

    Who was on his way to a queue is sent there (again); only for a call that is in our hands.
    """
    run = _Run(flow, replace(position, life=position.life + 1, action=0, stage="", medium=0), attributes, now)
    if position.play:
        run.act(StopPlay(position.play))
    run.put(play="", timer="", job="")
    if position.end in ("completed", "failed"):
        run.act(HangUp(run.new_id()))
    elif not position.end and position.block not in flow.blocks:
        run.fail(f"there is no block named {position.block!r} any more")
    elif not position.end:
        run.go_on(run.enter())
    return run.step()


def come_back(
    flow: Flow, position: Position, status: str, attributes: Mapping[str, str], *, now: datetime
) -> Step:
    """The queue has given back who was sent there with this position, perhaps by another process."""
    if position.stage == "queue" and isinstance(flow.blocks.get(position.block), QueueBlock):
        return feed(flow, position, Returned(position.job, status), attributes, now=now)
    return resume(flow, position, attributes, now=now)  # the flow was edited meanwhile


def feed(flow: Flow, position: Position, event: Event, attributes: Mapping[str, str], *, now: datetime) -> Step:
    """What follows from the event."""
    if position.end:
        return Step(position)
    run = _Run(flow, position, attributes, now)
    match event:
        case Key():
            run.key(event.digit)
        case Played() if event.id == position.play != "":
            run.played(ok=event.ok)
        case TimerFired() if event.id == position.timer != "":
            run.timed_out()
        case Done() if event.id == position.job != "":
            run.done(ok=event.ok)
        case Returned() if event.id == position.job != "":
            run.returned(event.status)
        case HungUp():
            run.put(end="hungup", stage="", play="", timer="", job="")
        case Failed():
            run.fail(event.reason)
        case _:
            pass  # a late answer to an action that no longer matters
    return run.step()


class _Run:
    """One step. The methods that run a block return the next block's name, or None while it waits."""

    def __init__(self, flow: Flow, position: Position, attributes: Mapping[str, str], now: datetime) -> None:
        self._flow = flow
        self._attributes = attributes
        self._now = now
        self._at = position
        self._actions: list[Action] = []

    def step(self) -> Step:
        return Step(self._at, tuple(self._actions))

    # --- the position ---

    def put(self, **changes: object) -> None:
        self._at = replace(self._at, **changes)  # type: ignore[arg-type]

    def act(self, action: Action) -> None:
        self._actions.append(action)

    def new_id(self) -> str:
        self.put(action=self._at.action + 1)
        return f"{self._at.life}-{self._at.action}"

    def note(self, text: str) -> None:
        if len(self._at.notes) < MAX_NOTES:
            self.put(notes=(*self._at.notes, f"{self._at.block}: {text}"))

    def fail(self, reason: str) -> None:
        self._end("failed")
        self.put(failure=reason)

    def _end(self, how: str) -> None:
        self.put(end=how, stage="", play="", timer="", job="")
        self.act(HangUp(self.new_id()))

    def _look(self, name: str) -> str:
        """A variable goes before an attribute of the same name; a name that nobody has set is an empty text."""
        return self._at.variables.get(name, self._attributes.get(name, ""))

    def _fill(self, text: str) -> str:
        return media.fill(text, self._look)

    def _filled(self, old: Mapping[str, str], new: Mapping[str, str]) -> dict[str, str]:
        """All new texts see the old values: the order of names in an object means nothing."""
        return {**old, **{name: self._fill(text) for name, text in new.items()}}

    def _start_timer(self, seconds: float, stage: str) -> None:
        timer = self.new_id()
        self.put(timer=timer, stage=stage)
        self.act(Timer(timer, seconds))

    # --- from block to block ---

    def go_on(self, name: str | None) -> None:
        """Begin the named block, and those after it until one waits. The parser saw to it that one does."""
        while name is not None:
            path = self._at.path if len(self._at.path) >= MAX_PATH else (*self._at.path, name)
            self.put(block=name, path=path, stage="", play="", timer="", job="", medium=0, tries=0)
            name = self.enter()

    @property
    def _block(self) -> Block:
        return self._flow.blocks[self._at.block]

    def enter(self) -> str | None:
        block = self._block
        match block:
            case PlayBlock() | MenuBlock() | ReadBlock():
                return self._prompt(block)
            case BranchBlock():
                return self._branch(block)
            case SetBlock():
                self.put(variables=self._filled(self._at.variables, block.variables))
            case ResultBlock():
                self.put(values=self._filled(self._at.values, block.values))
                self.put(ext_status=block.ext_status or self._at.ext_status)
            case GotoBlock():
                pass
            case _:
                self._wait_for(block)
                return None
        return block.next

    def _wait_for(self, block: WaitBlock | OptOutBlock | QueueBlock | HangUpBlock) -> None:
        match block:
            case WaitBlock():
                self._start_timer(block.seconds, "time")
            case OptOutBlock():
                job = self.new_id()
                self.put(job=job, stage="job", opted_out=True)
                self.act(OptOut(job))
            case QueueBlock():
                job = self.new_id()
                self.put(job=job, stage="queue", keys="")
                self.act(Enqueue(job, block.queue, block.timeout_seconds))
            case HangUpBlock():
                self._end("completed")

    # --- prompts and keys ---

    def _prompt(self, block: PromptBlock) -> str | None:
        """Play what is left of the media, one after the other; then the keys' turn."""
        while self._at.medium < len(block.media) and not (block.barge_in and self._at.keys):
            template = block.media[self._at.medium]
            self.put(medium=self._at.medium + 1)
            uri = media.medium(template, self._look)
            if uri is None:
                self.note(f"{template} was left out: what was filled in does not fit")
                continue
            play = self.new_id()
            self.put(play=play)
            self.act(Play(play, (uri,)))
            self._start_timer(self._longest(block), "playing")
            return None
        return self._prompted(block)

    @staticmethod
    def _longest(block: PromptBlock) -> float:
        if isinstance(block, PlayBlock) and block.timeout_seconds is not None:
            return block.timeout_seconds
        return PLAY_SECONDS

    def _stop(self, block: PromptBlock) -> None:
        """Asterisk cannot stop what it spells (it answers 500): that plays on, the next play waits for it."""
        if not block.media[self._at.medium - 1].startswith(media.SPELT):
            self.act(StopPlay(self._at.play))

    def _prompted(self, block: PromptBlock) -> str | None:
        self.put(play="", timer="", stage="")
        match block:
            case PlayBlock():
                return block.next
            case MenuBlock():
                return self._choose(block)
            case ReadBlock():
                return self._read(block)

    def _choose(self, block: MenuBlock) -> str | None:
        if not self._at.keys:
            self._start_timer(block.timeout_seconds, "keys")
            return None
        key, rest = self._at.keys[0], self._at.keys[1:]
        if key not in block.keys:
            return self._ask_again(block, block.invalid)
        self.put(keys=rest)
        return block.keys[key]

    def _read(self, block: ReadBlock) -> str | None:
        keys = self._at.keys
        end = keys.find(block.terminator) if block.terminator else -1
        if 0 <= end <= block.max_length:
            self.put(keys=keys[end + 1 :])
            return self._accept(block, keys[:end])
        if len(keys) >= block.max_length:
            self.put(keys=keys[block.max_length :])
            return self._accept(block, keys[: block.max_length])
        self._start_timer(block.timeout_seconds, "keys")
        return None

    def _accept(self, block: ReadBlock, digits: str) -> str | None:
        if len(digits) < block.min_length:
            return self._ask_again(block, block.invalid)
        self.put(variables={**self._at.variables, block.variable: digits})
        return block.next

    def _ask_again(self, block: MenuBlock | ReadBlock, at_last: str) -> str | None:
        """What was typed ahead is dropped: it answered a question that was not understood."""
        self.put(keys="")
        if self._at.tries >= block.retries:
            return at_last
        self.put(tries=self._at.tries + 1, medium=0, stage="", timer="")
        return self._prompt(block)

    # --- events ---

    def key(self, digit: str) -> None:
        if len(digit) != 1 or digit not in KEYS or self._at.stage == "queue":
            return
        if len(self._at.keys) < MAX_KEYS:
            self.put(keys=self._at.keys + digit)
        block = self._block
        if self._at.stage == "playing" and isinstance(block, PromptBlock) and block.barge_in:
            self._stop(block)
            self.go_on(self._prompted(block))
        elif self._at.stage == "keys" and isinstance(block, MenuBlock | ReadBlock):
            self.go_on(self._prompted(block))

    def played(self, *, ok: bool) -> None:
        block = self._block
        if isinstance(block, PromptBlock):
            if not ok:
                self.note(f"{block.media[self._at.medium - 1]} could not be played")
            self.put(play="", timer="")
            self.go_on(self._prompt(block))

    def timed_out(self) -> None:
        block = self._block
        match block:
            case PlayBlock() | MenuBlock() | ReadBlock() if self._at.stage == "playing":
                self._end_play(block)
            case MenuBlock():
                self.go_on(self._ask_again(block, block.no_input))
            case ReadBlock():
                self.go_on(self._read_timed_out(block))
            case WaitBlock():
                self.go_on(block.next)
            case _:
                pass

    def _end_play(self, block: PromptBlock) -> None:
        """A tone is meant to be ended; anything else should have ended by itself."""
        if not (isinstance(block, PlayBlock) and block.timeout_seconds is not None):
            self.note(f"{block.media[self._at.medium - 1]} did not end in {self._longest(block):g} s")
        self._stop(block)
        self.put(play="", timer="")
        self.go_on(self._prompt(block))

    def _read_timed_out(self, block: ReadBlock) -> str | None:
        digits = self._at.keys
        if not digits:
            return self._ask_again(block, block.no_input)
        self.put(keys="")
        return self._accept(block, digits)

    def done(self, *, ok: bool) -> None:
        block = self._block
        if isinstance(block, OptOutBlock):
            if not ok:
                self.note("the do-not-call list refused the number")
            self.go_on(block.next)

    def returned(self, status: str) -> None:
        block = self._block
        if isinstance(block, QueueBlock):
            known = status if _STATUS.fullmatch(status) else "UNKNOWN"
            self.put(variables={**self._at.variables, QUEUE_STATUS: known})
            self.go_on(block.next)

    # --- branches ---

    def _branch(self, block: BranchBlock) -> str:
        for condition in block.conditions:
            if self._holds(condition):
                return condition.next
        return block.otherwise

    def _holds(self, condition: Condition) -> bool:
        name, operator = condition.name, condition.operator
        if (
            name is not None
            and operator is not None
            and not self._is(self._look(name), operator, condition.value)
        ):
            return False
        return _is_time(condition, self._now)

    def _is(self, text: str, operator: Operator, value: str | tuple[str, ...]) -> bool:
        wanted = [self._fill(each) for each in ((value,) if isinstance(value, str) else value)]
        match operator:
            case Operator.EQ | Operator.IN:
                return text in wanted
            case Operator.NE | Operator.NOT_IN:
                return text not in wanted
            case Operator.MATCHES:
                return matches(text, value if isinstance(value, str) else "")
            case _:
                return _ordered(text, operator, wanted[0])


def _ordered(text: str, operator: Operator, other: str) -> bool:
    """Numbers only: a text that is none is neither below nor above anything."""
    text, other = text.strip(), other.strip()
    if not (_PLAIN_NUMBER.fullmatch(text) and _PLAIN_NUMBER.fullmatch(other)):
        return False
    left, right = Decimal(text), Decimal(other)
    match operator:
        case Operator.LT:
            return left < right
        case Operator.LE:
            return left <= right
        case Operator.GT:
            return left > right
        case _:
            return left >= right


def matches(text: str, pattern: str) -> bool:
    """Shell-like: * is any text, ? any one character. Not a regular expression, which a hostile text could
    keep busy for hours; this takes at most len(text) x len(pattern) comparisons."""
    at = in_pattern = 0
    star, mark = -1, 0
    while at < len(text):
        if in_pattern < len(pattern) and pattern[in_pattern] == "*":
            star, mark = in_pattern, at
            in_pattern += 1
        elif in_pattern < len(pattern) and pattern[in_pattern] in ("?", text[at]):
            at += 1
            in_pattern += 1
        elif star >= 0:
            mark += 1
            at, in_pattern = mark, star + 1
        else:
            return False
    return all(char == "*" for char in pattern[in_pattern:])


def _is_time(condition: Condition, now: datetime) -> bool:
    """Like an active period: what begins before midnight belongs to the day on which it begins."""
    start, end = condition.start_seconds, condition.end_seconds
    seconds = now.hour * 3600 + now.minute * 60 + now.second
    day = now.isoweekday()
    if start is not None and end is not None:
        if start < end:
            if not start <= seconds < end:
                return False
        elif seconds < end:
            day = 7 if day == 1 else day - 1
        elif seconds < start:
            return False
    return condition.week_days is None or day in condition.week_days

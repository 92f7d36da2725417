"""Campaigns: their definitions, their states, and the commands that move them (spec section 2)."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from dialer_engine.core.model import (
    Campaign,
    CampaignId,
    CampaignState,
    Command,
    IvrId,
    ListId,
    TrunkName,
)
from dialer_engine.errors import Conflict, Invalid, NotFound, Problem, Rejected, Stale
from dialer_engine.store.contract import (
    DEFINITION_BYTES,
    CampaignDefinition,
    from_json,
    missing,
    parse_campaign,
    parse_command,
)
from dialer_engine.store.link import Link
from dialer_engine.store.records import CampaignView, ControlReply, PinnedList, RunCounts, Snapshot
from dialer_engine.store.server import Argument

PLAN = {"at", "originate", "limit", "inputs", "nextAt", "text"}
PLAN_SECONDS = 15
"""A plan told is forgotten after so long."""
ID_DIGITS = 16
"""Longer ones are no ids: Lua's numbers and JSON's end before."""


@dataclass(frozen=True, slots=True)
class _Read:
    """A definition's text and what it says."""

    text: str
    definition: CampaignDefinition | None
    noun: Campaign | None
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class _Pins:
    """The lists a run reads from now on, as a script takes them, or why there are none."""

    lists: str  # "3.1,5.2": list and generation, in reading order
    rows: int  # in all of them
    invalid: Invalid | None = None


class Campaigns:
    def __init__(self, link: Link, default_timezone: str) -> None:
        self._link = link
        self._default_timezone = default_timezone
        self._known: dict[CampaignId, _Read] = {}

    async def load(self, *, trunks: Sequence[TrunkName] = (), now: float) -> Snapshot:
        """All campaigns as they stand, in one round trip; definitions are parsed only when their text changed.

        A definition naming a missing list or IVR has `definition=None` and the reason in `problems`.
        """
        stopped, commands, trunk_live, lists, ivrs, found = await self._link.run("snapshot", now, "", *trunks)
        there = frozenset(numbers(lists)), frozenset(ivrs)
        views = {CampaignId(int(fields[0])): self._view(fields, *there) for fields in found}
        self._known = {campaign: self._known[campaign] for campaign in views}  # forget what was deleted
        return Snapshot(
            campaigns=dict(sorted(views.items())),
            trunk_live=dict(zip(trunks, trunk_live, strict=True)),
            stopped=bool(stopped),
            commands=commands,
        )

    async def view(self, campaign: CampaignId, *, now: float) -> CampaignView:
        """One campaign as it stands. Raises NotFound."""
        *_, lists, ivrs, found = await self._link.run("snapshot", now, campaign)
        if not found:
            raise _no_campaign(campaign)
        return self._view(found[0], frozenset(numbers(lists)), frozenset(ivrs))

    async def reserve(self) -> CampaignId:
        """An id nobody has, for `save`."""
        while True:
            campaign = CampaignId(await self._link.do("INCR", self._link.key("next:campaign")))
            if not await self._link.do("SISMEMBER", self._link.key("campaigns"), campaign):
                return campaign  # another program may have written one without asking the counter

    async def save(
        self,
        definition: CampaignDefinition,
        *,
        campaign: CampaignId | None = None,
        reserved: CampaignId | None = None,
        expected: str | None = None,
        by: str,
        now: float,
    ) -> CampaignId:
        """Store a definition (a new campaign when `campaign` is None) and keep it as a version.

        reserved: the new campaign's id, from `reserve`; once it is there, asking again changes nothing.
        expected: the text the caller has seen; another one there raises Stale. A missing list or IVR raises
        Invalid, an unknown campaign NotFound. An INVALID campaign returns to the state before.
        """
        await self.check(definition)
        number = campaign or reserved or await self.reserve()
        text = definition.text()
        version = orjson.dumps({"at": now, "by": by, "definition": orjson.Fragment(text)}).decode()
        seen = () if expected is None else (expected,)
        answer = await self._link.run("save", number, text, version, int(campaign is None), by, now, *seen)
        if answer == "MISSING":
            raise _no_campaign(number)
        if answer == "CHANGED":
            raise _edited(number)
        return number

    async def check(self, definition: CampaignDefinition) -> None:
        """Raises Invalid naming the lists and the IVR that are missing."""
        lists, ivrs = await self._link.many(
            [("SMEMBERS", self._link.key("lists")), ("SMEMBERS", self._link.key("ivrs"))]
        )
        if problems := missing(definition, frozenset(numbers(lists)), ivrs):
            raise Invalid(problems)

    async def read(self, campaign: CampaignId) -> str:
        """The definition as stored. Raises NotFound."""
        text: str | None = await self._link.do("GET", self._link.campaign_key(campaign, "definition"))
        if text is None:
            raise _no_campaign(campaign)
        return text

    async def versions(self, campaign: CampaignId) -> list[dict[str, object]]:
        """[{at, by, definition}], oldest first; `at` in seconds since 1970."""
        _, versions = await self.versions_page(campaign, 0, 0)
        return versions

    async def versions_page(
        self, campaign: CampaignId, offset: int, count: int
    ) -> tuple[int, list[dict[str, object]]]:
        """How many versions there are, and some of them (count 0: all from there on)."""
        key = self._link.campaign_key(campaign, "versions")
        total, texts = await self._link.many(
            [("LLEN", key), ("LRANGE", key, offset, offset + count - 1 if count else -1)]
        )
        return total, [read_object(text) for text in texts]

    async def delete(self, campaign: CampaignId, *, expected: str | None = None, by: str, now: float) -> None:
        """Raises Conflict while it is RUNNING or PAUSED or has live calls, NotFound, and Stale as `save` does."""
        seen = () if expected is None else (expected,)
        answer, why = await self._link.run("delete", campaign, by, now, *seen)
        if answer == "MISSING":
            raise _no_campaign(campaign)
        if answer == "CHANGED":
            raise _edited(campaign)
        if answer == "CONFLICT":
            raise Conflict(why, allowed=(Command.REMOVE,))

    async def add_call(self, campaign: CampaignId, row: str, *, at: float, now: float, token: str = "") -> int:
        """One call into the run under way, due at `at` (now, if that is over); its number in the run, from 1.

        row: as a call list has it. token: the same one again adds nothing and gives the same number, for a day.
        Raises NotFound, and Conflict when no run is under way.
        """
        answer, *rest = await self._link.run("add", campaign, row, at, now, token)
        if answer == "MISSING":
            raise _no_campaign(campaign)
        if answer == "CONFLICT":
            refusal = f"campaign {campaign} is {rest[0]}: only a run under way takes calls"
            mends = Command.RELOAD if rest[0] == CampaignState.INVALID else Command.START
            raise Conflict(refusal, allowed=(mends,))
        return int(rest[0])

    async def command(
        self, campaign: CampaignId, command: Command, *, by: str, now: float, request: str = ""
    ) -> ControlReply:
        """Carry out a command. Raises Conflict(allowed=...), NotFound, Invalid (start or reload of a definition
        that cannot be used: the campaign is INVALID then). The same `request` again gives the same answer.
        """
        answer = await self._send(campaign, command, by=by, now=now, request=request)
        if answer is None:
            raise AssertionError("only a queued command can be taken by another daemon")
        return answer

    async def obey(self, *, now: float) -> list[ControlReply | Conflict | Invalid | NotFound | Rejected]:
        """Carry out what other programs have pushed to the queue of commands, each exactly once."""
        done: list[ControlReply | Conflict | Invalid | NotFound | Rejected] = []
        while (text := await self._link.do("LINDEX", self._link.key("commands"), 0)) is not None:
            try:
                answer = await self._obey_one(text, now)
            except (Conflict, Invalid, NotFound, Rejected) as error:
                done.append(error)
            else:
                done += [] if answer is None else [answer]
        return done

    async def set_invalid(self, campaign: CampaignId, reason: str, *, now: float) -> bool:
        """The definition cannot be used: INVALID, keeping run, place and the state before. False: as it was."""
        return bool(await self._link.run("validity", campaign, reason or "it cannot be used", now))

    async def set_valid(self, campaign: CampaignId, *, now: float) -> bool:
        """Back from INVALID to the state before. False: it was not INVALID."""
        return bool(await self._link.run("validity", campaign, "", now))

    async def complete(self, campaign: CampaignId, run: int, read: Sequence[PinnedList], *, now: float) -> bool:
        """RUNNING -> COMPLETED, if nothing waits or lives and the lists stand at `read`, their ends."""
        places = ",".join(f"{one.call_list}.{one.generation}.{one.cursor}" for one in read)
        return bool(await self._link.run("complete", campaign, run, places, now))

    async def tell_plans(self, owner: str, plans: Mapping[CampaignId, Mapping[str, object]]) -> None:
        """What daemon `owner` has decided last, as the API shows a plan; forgotten when nobody tells it again."""
        commands: list[tuple[Argument, ...]] = []
        for campaign, decided in plans.items():
            key = self._link.campaign_key(campaign, "plan")
            commands += [("HSET", key, owner, orjson.dumps(decided).decode()), ("EXPIRE", key, PLAN_SECONDS)]
        await self._link.many(commands)

    async def plans(self, campaign: CampaignId) -> dict[str, dict[str, object]]:
        """The last decision of each daemon that dials this campaign, by the daemon's name."""
        told = await self._link.do("HGETALL", self._link.campaign_key(campaign, "plan"))
        plans = {owner: read_object(text) for owner, text in told.items()}
        return {owner: plan for owner, plan in plans.items() if plan.keys() >= PLAN}

    async def naming(self, *, call_list: ListId | None = None, ivr: IvrId | None = None) -> list[CampaignId]:
        """The campaigns whose definition names this list or this IVR."""
        await self.load(now=0.0)
        return [
            campaign
            for campaign, read in self._known.items()
            if read.definition and (call_list in read.definition.lists or read.definition.ivr == ivr)
        ]

    async def _obey_one(self, text: str, now: float) -> ControlReply | None:
        try:
            queued = parse_command(text)
        except Invalid:
            if await self._link.run("refuse", text):
                raise
            return None
        campaign = CampaignId(queued.campaign)
        try:
            return await self._send(campaign, queued.command, by=queued.by, now=now, queued=text)
        except Rejected:  # a key of the campaign is of another type: the commands behind must not wait for it
            await self._link.run("refuse", text)
            raise

    async def _send(
        self,
        campaign: CampaignId,
        command: Command,
        *,
        by: str,
        now: float,
        request: str = "",
        queued: str = "",
    ) -> ControlReply | None:
        """None: another daemon has taken this queued command."""
        reads_lists = command in (Command.START, Command.RELOAD)
        try:
            pins = await self._pins(campaign) if reads_lists else _Pins("", 0)
        except Rejected as exc:  # another program has stored what is no definition, or no list
            pins = _Pins("", 0, Invalid([Problem("", str(exc))]))
        problem = str(pins.invalid) if pins.invalid else ""
        answer, *rest = await self._link.run(
            "command", campaign, command, by, now, request, queued, pins.lists, pins.rows, problem
        )
        if answer == "OK":
            state, run, message = rest
            return ControlReply(campaign, CampaignState(state), message, whole(run))
        if answer == "INVALID" and pins.invalid:
            raise pins.invalid
        if answer == "MISSING":
            raise _no_campaign(campaign)
        if answer == "CONFLICT":
            state, allowed = rest
            refusal = f"campaign {campaign} is {state}: {command} is not possible"
            raise Conflict(refusal, allowed=allowed.split(","))
        return None

    async def _pins(self, campaign: CampaignId) -> _Pins:
        """The lists of the definition at their generations of now."""
        key = self._link.campaign_key(campaign, "definition")
        text, lists, ivrs = await self._link.many(
            [
                ("GETRANGE", key, 0, DEFINITION_BYTES),
                ("SMEMBERS", self._link.key("lists")),
                ("SMEMBERS", self._link.key("ivrs")),
            ]
        )
        read = self._parse(campaign, text)
        problems = _problems(read, frozenset(numbers(lists)), ivrs)
        if read.definition is None or problems:
            return _Pins("", 0, Invalid(problems))
        bases = [self._link.list_base(call_list) for call_list in read.definition.lists]
        asked = await self._link.many([("HGET", f"{base}:meta", "generation") for base in bases])
        generations = [whole(generation or "1") for generation in asked]
        rows = await self._link.many(
            [("LLEN", f"{base}:rows:{one}") for base, one in zip(bases, generations, strict=True)]
        )
        pinned = zip(read.definition.lists, generations, strict=True)
        return _Pins(",".join(f"{call_list}.{generation}" for call_list, generation in pinned), sum(rows))

    def _parse(self, campaign: CampaignId, text: str) -> _Read:
        read = self._known.get(campaign)
        if read is None or read.text != text:
            read = self._known[campaign] = _parsed(campaign, text, self._default_timezone)
        return read

    def _view(self, fields: Sequence[Any], lists: Container[int], ivrs: Container[str]) -> CampaignView:
        number, text, state_fields, run_fields, fresh, due, due_now, next_due, live, served = fields
        state, run = _pairs(state_fields), _pairs(run_fields)
        read = self._parse(CampaignId(int(number)), text)
        problems = _problems(read, lists, ivrs)
        its_state, pinned = state_in(state.get("state", CampaignState.NEW)), _pinned(run)
        if its_state is None or pinned is None:
            unread = "state" if its_state is None else "run"
            problems = (*problems, Problem("", f"its {unread} cannot be read: another program has written it"))
        return CampaignView(
            id=CampaignId(int(number)),
            state=its_state or CampaignState.INVALID,
            run=whole(state.get("run", "0")),
            definition=None if problems else read.noun,
            problems=problems,
            text=text,
            reason=state.get("reason", ""),
            lists=pinned or (),
            counts=RunCounts(*(whole(run.get(name, "0")) for name in ("read", "refused", "repeats", "closed"))),
            fresh=fresh,
            due=due,
            due_now=due_now,
            next_due_at=float(next_due) if next_due else None,
            live=live,
            served=served,
            document=read.definition,
            started_at=_instant(state.get("started_at")),
            changed_at=_instant(state.get("changed_at")),
            changed_by=state.get("changed_by", ""),
        )


def _no_campaign(campaign: CampaignId) -> NotFound:
    return NotFound(f"there is no campaign {campaign}")


def _edited(campaign: CampaignId) -> Stale:
    return Stale(f"campaign {campaign} has been edited meanwhile")


def _instant(text: str | None) -> float | None:
    """What another program wrote there that is no instant is none."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def numbers(members: Iterable[str]) -> Iterator[int]:
    """The ids in a set of Redis; what another program put there that is none stands for nothing."""
    return (int(one) for one in members if one.isascii() and one.isdigit() and len(one) < ID_DIGITS)


def whole(text: str) -> int:
    """What another program wrote there that is no number is the 0 of nothing."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < ID_DIGITS else 0


def state_in(text: str) -> CampaignState | None:
    """None: another program wrote something else there."""
    return CampaignState(text) if text in CampaignState.__members__ else None


def read_object(text: str) -> dict[str, Any]:
    """JSON of ours; what another program wrote there that is none is empty."""
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def _parsed(campaign: CampaignId, text: str, default_timezone: str) -> _Read:
    if len(text) > DEFINITION_BYTES:
        return _Read(
            text, None, None, (Problem("", f"the definition is longer than {DEFINITION_BYTES} bytes"),)
        )
    try:
        definition = parse_campaign(from_json(text))
    except Invalid as error:
        return _Read(text, None, None, error.problems)
    return _Read(text, definition, definition.noun(campaign, default_timezone), ())


def _problems(read: _Read, lists: Container[int], ivrs: Container[str]) -> tuple[Problem, ...]:
    return read.problems if read.definition is None else tuple(missing(read.definition, lists, ivrs))


def _pairs(flat: Sequence[str]) -> dict[str, str]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _pinned(run: dict[str, str]) -> tuple[PinnedList, ...] | None:
    """None: another program has spoilt them."""
    pins = [pin.partition(".") for pin in filter(None, run.get("lists", "").split(","))]
    try:
        return tuple(
            PinnedList(ListId(int(call_list)), int(generation), int(run[f"cursor:{call_list}"]))
            for call_list, _, generation in pins
        )
    except (ValueError, KeyError):
        return None

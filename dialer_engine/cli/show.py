"""A campaign that a person watches while it dials, and the table at its end.

`dialer-engine demo` and `make lab` show it. All but the count of calls is read from Redis, as any other program would.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dialer_engine.cli.comparison import PAGE, Line, Result, SeenCall, counted, recorded, words
from dialer_engine.cli.crowd import CHOICES, Person
from dialer_engine.cli.wallboard import Wallboard
from dialer_engine.core.model import CampaignId, CampaignState, Status
from dialer_engine.errors import Unavailable
from dialer_engine.store import Store

LOOK_SECONDS = 0.25
PLAIN_LINE_SECONDS = 5.0
PACE_SECONDS = 5.0
"""Calls per second are those of so long."""
OVERLAP_SECONDS = 2.0
"""Results are read again so far back: they are found by their instants, and told apart by their attempts."""
WIDE, VERY_WIDE = 72, 100
"""Columns from which there is room beside the numbers."""
PLAIN_COLUMNS = 160
LAST_RESULTS = 7
TOLD_DIFFERENCES = 5
"""In each row."""
NAME_COLUMNS, BAR_COLUMNS = 14, 16
LONGEST_STATUS = 28
"""With a count before it."""

PHASES: Mapping[str, str] = {
    "CLAIMED": "about to be dialed",
    "SENT": "dialed",
    "RINGING": "ringing",
    "ANSWERED": "in the flow",
    "QUEUED": "in the queue",
    "CONNECTED": "with an agent",
}
MEANINGS: Mapping[str, str] = {
    Status.TERMINATED: "answered",
    Status.RS_BUSY: "busy",
    Status.RS_NOANSWER: "no answer",
    Status.RS_NUMBER: "no such number",
    Status.RS_REJECTED: "refused",
    Status.RS_ERROR: "failed",
    Status.RS_BLACKLIST: "not to be called",
}


def standard_output() -> Console:
    """As wide as the terminal; wide when it is none, for nothing is to be folded then."""
    is_free = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(width=PLAIN_COLUMNS if is_free else None, highlight=False)


class Picture:
    """What a person sees while the campaign dials."""

    def __init__(
        self,
        store: Store,
        campaign: CampaignId,
        people: Sequence[Person],
        calls: Callable[[], Sequence[SeenCall]],
        *,
        title: str,
        beside: Wallboard | None = None,
    ) -> None:
        """`beside`: another campaign, for agents."""
        self._beside = beside
        self._store = store
        self._campaign = campaign
        self._people = {person.number: person for person in people}
        self._calls = calls
        self._title = title
        self._begun_at = self._looked_at = time.time()
        self._results: dict[str, Result] = {}  # by attempt
        self.state, self.closed = CampaignState.NEW, 0
        self.limit, self.sentence = "-", ""
        self.phases: Counter[str] = Counter()
        self.called, self.pace = 0, 0.0

    async def look(self) -> None:
        """Read everything anew. Raises Unavailable."""
        store, campaign, at = self._store, self._campaign, time.time()
        views = (await store.campaigns.load(now=at)).campaigns
        view = views[campaign]
        if self._beside is not None:
            await self._beside.look(views[self._beside.campaign], at)
        self.state, self.closed = view.state, view.counts.closed
        self.limit, self.sentence = "-", ""
        if self.state is not CampaignState.COMPLETED:
            for plan in (await store.campaigns.plans(campaign)).values():
                self.limit, self.sentence = str(plan["limit"]), str(plan["text"])
        live = await store.calls.live(campaign)
        self.phases = Counter(PHASES.get(attempt.phase, attempt.phase) for attempt in live)
        page = await store.results.read(campaign, since=self._looked_at - OVERLAP_SECONDS, count=PAGE)
        self._results |= {str(item["attempt"]): item for item in page.items}
        calls = self._calls()
        self.called = len(calls)
        lately = sum(call.invited_at > at - PACE_SECONDS for call in calls)
        self.pace = lately / min(PACE_SECONDS, max(1.0, self.seconds))
        self._looked_at = at

    @property
    def over(self) -> bool:
        return self.state is CampaignState.COMPLETED and (self._beside is None or self._beside.over)

    @property
    def reasons(self) -> list[tuple[str, str]]:
        """Of the pace of each campaign: the limit and its sentence."""
        return [(self.limit, self.sentence), *([self._beside.plan] if self._beside is not None else [])]

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.time() - self._begun_at

    def render(self, width: int) -> RenderableType:
        """For a terminal of so many columns; on one of 80 it has fewer than 24 lines."""
        total, wide = len(self._people), width >= WIDE
        facts = Table.grid(padding=(0, 2))
        facts.add_column(no_wrap=True, style="dim")
        facts.add_row("campaign", f"[bold]{self.state}[/] for {self.seconds:.0f} s")
        facts.add_row("contacts", f"{self.closed} of {total} are done")
        facts.add_row("", ProgressBar(total=total, completed=self.closed, width=40 if wide else None))
        facts.add_row("calls", f"{self.called} so far, {self.pace:.1f} a second")
        facts.add_row("live now", counted(self.phases))
        facts.add_row("limit", f"[bold]{self.limit}[/]  {self.sentence}")
        facts.add_row("keys", counted(self._choices()))
        for row in self._beside.rows(names=width >= VERY_WIDE) if self._beside is not None else ():
            facts.add_row(*row)
        below: RenderableType = self._statuses(bars=False)
        if wide:
            below = beside = Table.grid(padding=(0, 2))
            beside.add_row(self._statuses(bars=width >= VERY_WIDE), self._last_results())
        gap = [Text()] if self._beside is None else []
        return Panel(Group(facts, *gap, below), title=self._title)

    def line(self) -> str:
        """The same in a line for each campaign."""
        statuses = Counter(str(result["status"]) for result in self._results.values())
        line = (
            f"{self.seconds:4.0f} s  {self.state}  {self.limit}  {self.closed} of {len(self._people)} done  "
            f"{self.pace:.1f} calls/s  live: {counted(self.phases)}  results: {counted(statuses)}"
        )
        return line if self._beside is None else f"{line}\n{self._beside.line()}"

    def _choices(self) -> Counter[str]:
        blocks = (block for result in self._results.values() for block in result["path"])
        return Counter(CHOICES[block] for block in blocks if block in CHOICES)

    def _statuses(self, *, bars: bool) -> Table:
        table = Table(box=None, padding=(0, 1), pad_edge=False)
        table.add_column("results", style="bold", no_wrap=True)
        table.add_column("", justify="right", min_width=3)
        table.add_column("", style="dim", no_wrap=True)
        statuses = Counter(str(result["status"]) for result in self._results.values())
        most = max(statuses.values(), default=1)
        for status, meaning in MEANINGS.items():
            count = statuses[status]
            bar = [ProgressBar(total=most, completed=count, width=BAR_COLUMNS)] if bars else []
            table.add_row(status, str(count), meaning, *bar)
        return table

    def _last_results(self) -> Table:
        table = Table(box=None, padding=(0, 1), pad_edge=False)
        table.add_column("the last", no_wrap=True, min_width=NAME_COLUMNS)
        table.add_column("", no_wrap=True, overflow="ellipsis")
        for result in [*self._results.values()][-LAST_RESULTS:]:
            person = self._people.get(str(result["number"]))
            table.add_row(person.name if person else str(result["number"]), words(recorded(result)))
        return table


async def watch(picture: Picture, console: Console, *, patience_seconds: float) -> None:
    """Until the campaign has completed. Raises Unavailable when it has not by then."""
    if not console.is_terminal or console.is_dumb_terminal:
        await _until_over(picture, _Lines(picture, console).show, patience_seconds)
        return
    with Live(picture.render(console.width), console=console, auto_refresh=False) as live:

        async def show() -> None:  # in a thread: a terminal that is held must not hold the callees
            await asyncio.to_thread(live.update, picture.render(console.width), refresh=True)

        await _until_over(picture, show, patience_seconds)


async def _until_over(picture: Picture, show: Callable[[], Awaitable[None]], patience_seconds: float) -> None:
    while not picture.over:
        if picture.seconds > patience_seconds:
            raise Unavailable("the campaign", f"not completed in {patience_seconds:.0f} s: {picture.line()}")
        await asyncio.sleep(LOOK_SECONDS)
        await picture.look()
        await show()


class _Lines:
    """For what is no terminal: a line every few seconds, and whenever another limit binds."""

    def __init__(self, picture: Picture, console: Console) -> None:
        self._picture = picture
        self._console = console
        self._said_at = 0.0
        self._limits: dict[int, str] = {}

    async def show(self) -> None:
        picture = self._picture
        for campaign, (limit, sentence) in enumerate(picture.reasons):
            if sentence and limit != self._limits.get(campaign):
                self._limits[campaign] = limit
                self._say(f"{picture.seconds:4.0f} s  {limit}: {sentence}")
        if time.monotonic() - self._said_at >= PLAIN_LINE_SECONDS or picture.over:
            self._said_at = time.monotonic()
            self._say(picture.line())

    def _say(self, line: str) -> None:
        self._console.print(line, soft_wrap=True, markup=False)


def tell(lines: Iterable[Line], console: Console, *, witness: str) -> bool:
    """The comparison; True when all is equal. `witness`: in whose log stands what the callees did."""
    lines = [*lines]
    console.print("[bold]What the callees did, and what the daemon recorded[/]")
    if console.width >= WIDE:
        table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
        table.add_column("callee", overflow="fold")
        table.add_column(f"by {witness}", overflow="fold")
        # rich makes the widest columns narrower first, which would be those of the statuses
        table.add_column("by the daemon", width=None if console.width >= VERY_WIDE else LONGEST_STATUS)
        table.add_column("", no_wrap=True)
        for line in lines:
            table.add_row(line.name, line.did, line.said, _verdict(line.equal))
        console.print(table)
    else:
        for line in lines:
            console.print(f"{_verdict(line.equal)}  {line.name}: {line.did}; {line.said}")
    for line in lines:
        for one in line.differs[:TOLD_DIFFERENCES]:
            console.print(f"{line.name}: {one}", style="red", markup=False)
    all_equal = all(line.equal for line in lines)
    console.print("[bold green]all equal[/]" if all_equal else "[bold red]not all equal[/]")
    return all_equal


def _verdict(equal: bool) -> str:
    return "[green]equal[/]" if equal else "[bold red]NOT EQUAL[/]"

"""A campaign for agents as the supervisor sees it: who is free, who waits, what was lost, and what sets the pace."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

from dialer_engine.cli.comparison import counted
from dialer_engine.core.model import CampaignId, CampaignState
from dialer_engine.store import Store
from dialer_engine.store.records import CampaignView
from dialer_engine.store.stats import Tally

ORDER = ("talking", "ringing", "on the telephone", "free", "wrapping up", "paused", "away")


class Wallboard:
    """`doing` says what each agent does, by his name and the PBX; all else is read from Redis."""

    def __init__(
        self, store: Store, campaign: CampaignId, size: int, doing: Callable[[], Mapping[str, str]]
    ) -> None:
        self.campaign = campaign
        self._store = store
        self._size = size
        self._doing = doing
        self.agents: Mapping[str, str] = {}
        self.state, self.closed, self.waiting = CampaignState.NEW, 0, 0
        self.plan = ("-", "")
        """The limit and its sentence."""
        self.tally = Tally()

    async def look(self, view: CampaignView, at: float) -> None:
        """Read everything anew. Raises Unavailable."""
        self.agents = self._doing()
        self.state, self.closed = view.state, view.counts.closed
        self.plan, self.waiting = ("-", ""), 0
        for plan in {} if self.over else (await self._store.campaigns.plans(self.campaign)).values():
            self.plan = str(plan["limit"]), str(plan["text"])
            inputs = plan["inputs"]
            self.waiting = int(inputs.get("waiting") or 0) if isinstance(inputs, dict) else 0
        self.tally = (await self._store.stats.read(self.campaign, view.run, hours=1, now=at)).whole

    @property
    def over(self) -> bool:
        return self.state is CampaignState.COMPLETED

    def rows(self, *, names: bool) -> list[tuple[str, str]]:
        """For the table of facts; `names`: there is room for those of the agents."""
        agents = self._named() if names else counted(Counter(self.agents.values()))
        limit, sentence = self.plan
        return [
            ("for agents", f"[bold]{self.state}[/]  {self.closed} of {self._size} done; {self._calls()}"),
            ("agents", agents),
            ("pace", f"[bold]{limit}[/]  {sentence}"),
        ]

    def line(self) -> str:
        """The same in a line."""
        return (
            f"        for agents  {self.state}  {self.plan[0]}  {self.closed} of {self._size} done  "
            f"agents: {counted(Counter(self.agents.values()))}  {self._calls()}"
        )

    def _named(self) -> str:
        of = {what: [name for name, does in self.agents.items() if does == what] for what in ORDER}
        return "; ".join(f"{what}: {', '.join(names)}" for what, names in of.items() if names)

    def _calls(self) -> str:
        tally, rate = self.tally, self.tally.abandon_rate
        abandoned = "-" if rate is None else f"{100 * rate:.0f} %"
        return f"{tally.connected} connected, {self.waiting} waiting, abandoned {abandoned}"

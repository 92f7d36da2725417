"""Whole runs of random telephones, faults and commands: whatever happens, the books are right."""

from __future__ import annotations

import os
from itertools import pairwise
from typing import Any

from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from dialer_engine.core.model import CampaignId, ListId
from tests.engine.fate import When
from tests.engine.pbx import BUSY, CARRIER_FAILS, NO_ENDPOINT, NOT_IN_USE, RINGS_OUT, answers
from tests.engine.world import HELLO, SURVEY, VIRTUAL, Daemon, World, numbers, rule, trunk

pytestmark = VIRTUAL

CAPACITY = 6

TELEPHONES = {
    "busy": BUSY,
    "not in use": NOT_IN_USE,
    "rings out": RINGS_OUT,
    "no endpoint": NO_ENDPOINT,
    "carrier fails": CARRIER_FAILS,
    "answers": answers(0.5),
    "answers late": answers(3.0),
    "presses 1": answers(0.3, keys=[(1.5, "1")]),
    "opts out": answers(0.3, keys=[(1.5, "9")]),
    "hangs up": answers(0.5, talks=0.7),
    "reply lost": answers(0.5).but(fault="lost"),
    "lost unmade": BUSY.but(fault="lost unmade"),
    "reply hung": RINGS_OUT.but(fault="hung"),
    "not sent": BUSY.but(fault="not sent"),
    "busy told twice": BUSY.but(twice=True),
    "start lost": answers(0.5).but(loses=frozenset({"StasisStart"})),
    "end lost": BUSY.but(loses=frozenset({"ChannelDestroyed"})),
    "slow reply": answers(0.5).but(reply_seconds=2.0),
}
telephones = st.lists(st.sampled_from(sorted(TELEPHONES)), min_size=1, max_size=3)
rules = st.lists(
    st.builds(
        lambda status, after, times: rule(status, after=after, times=times),
        st.sampled_from(["RS_BUSY", "RS_NOANSWER", "RS_REJECTED", "RS_ERROR", "TERMINATED"]),
        st.sampled_from([0, 1, 7]),
        st.integers(0, 2),
    ),
    max_size=4,
    unique_by=lambda one: str(one["status"]),
)
verbs = st.sampled_from(
    ["claim", "mark_sent", "progress", "settle", "release", "accept", "peek", "recover", "extend"]
)
lasting = st.sampled_from([0.1, 1.0, 7.0, 21.0])
events = st.one_of(
    st.tuples(
        st.sampled_from(["pause", "reload", "kill", "append", "replace", "forbid", "strike", "stop", "spoil"])
    ),
    st.tuples(st.just("redis"), st.sampled_from(["away", "hung", "full"]), lasting),
    st.tuples(st.just("requests"), st.sampled_from(["rest_down", "hung"]), lasting),
    st.tuples(st.sampled_from(["socket", "restart"]), lasting),
    st.tuples(st.just("fault"), verbs, st.sampled_from(["before", "after"])),
    st.tuples(st.just("kill at"), st.integers(1, 30)),
    st.tuples(st.just("channels"), st.integers(1, 8)),
)
script = st.lists(st.tuples(st.sampled_from([0.0, 0.05, 0.6, 2.0]), events), max_size=8)


START_SECONDS = 0.3
"""A process does not start sooner after a death; a new one knows nothing of the spacing before it."""


class Run:
    """One campaign, one daemon at a time, and an operator who does what the script says."""

    def __init__(self, world: World, campaign: CampaignId, rows: ListId, listed: list[str]) -> None:
        self.world, self.campaign, self.rows, self.listed = world, campaign, rows, listed
        self.daemon: Daemon

    async def start(self) -> None:
        for daemon in self.world.daemons:
            await daemon.kill()
        self.daemon = await self.world.daemon()

    async def do(self, event: tuple[Any, ...]) -> None:
        what, *how = event
        await getattr(self, "do_" + what.replace(" ", "_"))(*how)

    async def do_pause(self) -> None:
        """Or the end of it."""
        state = self.world.state(self.campaign)
        if state in ("RUNNING", "PAUSED"):
            await self.world.command(self.campaign, "pause" if state == "RUNNING" else "unpause")

    async def do_reload(self) -> None:
        if self.world.state(self.campaign) != "INVALID":
            await self.world.command(self.campaign, "reload")

    async def do_kill(self) -> None:
        await self.daemon.kill()
        await self.world.sleep(0.3)
        await self.start()

    async def do_kill_at(self, step: int) -> None:
        self.daemon.fate.dies_at = len(self.daemon.fate.steps) + step

    async def do_append(self) -> None:
        more = numbers(3, 604_000_001 + len(self.listed))
        await self.world.append(self.rows, more)
        self.listed += more

    async def do_replace(self) -> None:
        self.listed[:] = [*self.listed[::2], *numbers(4, 605_000_001 + 100 * len(self.world.log))]
        await self.world.replace(self.rows, self.listed)

    async def do_forbid(self) -> None:
        await self.world.forbid(self.listed[-1])

    async def do_strike(self) -> None:
        if len(self.listed) == 1:
            return
        struck = self.listed.pop()
        await self.world.store.lists.strike_out(self.rows, struck, lambda number: number == struck)

    async def do_stop(self) -> None:
        await self.world.stop_everything()

    async def do_spoil(self) -> None:
        self.world.spoil(self.campaign)

    async def do_redis(self, how: str, seconds: float) -> None:
        await self._for(self.daemon.redis, how, seconds)

    async def do_requests(self, how: str, seconds: float) -> None:
        await self._for(self.world.pbx, how, seconds)

    async def do_socket(self, seconds: float) -> None:
        self.world.pbx.lose_socket()
        await self.world.sleep(seconds)
        self.world.pbx.restore_socket()

    async def do_restart(self, seconds: float) -> None:
        self.world.pbx.restart()
        await self.world.sleep(seconds)
        self.world.pbx.restore_socket()

    async def do_fault(self, verb: str, when: When) -> None:
        self.daemon.fate.faults.append((verb, when))

    async def do_channels(self, count: int) -> None:
        await self.world.edit(self.campaign, maxChannels=count)

    async def _for(self, port: object, how: str, seconds: float) -> None:
        setattr(port, how, True)
        await self.world.sleep(seconds)
        setattr(port, how, False)

    async def heal(self) -> None:
        """Everything is put right, and the campaign told to go on to its end."""
        world = self.world
        self.daemon.fate.faults.clear()
        await world.store.resume(by="test", now=world.epoch())
        await world.edit(self.campaign)
        if world.state(self.campaign) == "PAUSED":
            await world.command(self.campaign, "unpause")
        await world.command(self.campaign, "reload")
        await world.edit(self.campaign, whenDone="complete")
        for _ in range(40):
            if self.daemon.fate.dead:
                await world.sleep(START_SECONDS)
                await self.start()
            await world.sleep(5)
            if world.state(self.campaign) == "COMPLETED":
                return
            await self.daemon.audit()
        state = (
            world.state(self.campaign),
            world.limit(self.campaign),
            world.census(self.campaign),
            world.live(),
        )
        raise AssertionError(f"it does not come to its end: {state}")


@given(
    callees=st.lists(telephones, min_size=1, max_size=14),
    rescheduling=rules,
    flow=st.sampled_from([HELLO, SURVEY]),
    channels=st.integers(1, 8),
    rate=st.sampled_from([None, None, 5.0, 60.0]),
    happens=script,
)
@settings(
    max_examples=int(os.environ.get("DIALER_RUNS", "10")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
async def test_whatever_happens_every_contact_is_in_one_place_and_every_originate_has_one_result(
    *,
    callees: list[list[str]],
    rescheduling: list[dict[str, Any]],
    flow: dict[str, Any],
    channels: int,
    rate: float | None,
    happens: list[tuple[float, tuple[Any, ...]]],
) -> None:
    async with World(trunks=[trunk(capacity=CAPACITY, rate=rate)]) as world:
        listed = numbers(len(callees))
        for number, names in zip(listed, callees, strict=True):
            world.pbx.callees[number] = [*(TELEPHONES[name] for name in names), BUSY]
        rows = await world.a_list(listed)
        campaign = await world.campaign(
            rows, flow=flow, rules=rescheduling, maxChannels=channels, dialTimeout=15, whenDone="wait"
        )
        run = Run(world, campaign, rows, listed)
        await run.start()
        for pause, event in happens:
            await world.sleep(pause)
            note(f"{world.at:.3f} {event}")
            await run.do(event)
            world.census(campaign)
            if run.daemon.fate.dead:
                await world.sleep(START_SECONDS)
                await run.start()
        await run.heal()
        await world.sleep(3)
        world.check_at_rest(campaign)
        assert set(listed) <= world.statuses(campaign).keys(), "somebody was forgotten"
        assert world.pbx.most["carrier"] <= CAPACITY
        assert max(world.pbx.most_by_number.values(), default=0) <= 1
        if rate is not None:
            assert (
                min([later - earlier for earlier, later in pairwise(world.pbx.times())], default=9)
                > 1 / rate - 0.001
            )

"""What becomes of calls that ring, are answered or fail while our event socket is away.

The experiment behind the decision to originate into the shipped dialplan and not straight into the application.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator

import pytest

from tests.lab import number
from tests.lab.bare_ari import BareAri
from tests.lab.lab import Lab
from tests.lab.world import WorldCall

pytestmark = pytest.mark.lab

_serials = itertools.count(500_001)
INTO_THE_DIALPLAN: dict[str, str | int] = {"context": "dialer-answered", "extension": "dialer", "priority": 1}


@pytest.fixture
async def ari(lab: Lab) -> AsyncIterator[BareAri]:
    async with BareAri(lab) as connected:
        yield connected
    lab.hang_up_everything()


async def ring(ari: BareAri, answered_after: float, **query: str | int) -> tuple[str, str]:
    """A call that will be answered: its id and number."""
    serial = next(_serials)
    identifier, dialled = f"g{serial:020d}", number.stays(ring=answered_after, serial=serial)
    assert await ari.originate(identifier, f"PJSIP/{dialled}@carrier", **query) == 200
    return identifier, dialled


async def seen(lab: Lab, dialled: str, field: str) -> WorldCall:
    return await asyncio.to_thread(
        lab.wait_for_world, dialled, lambda call: getattr(call, field) is not None, 15.0
    )


async def test_straight_into_the_application_an_answered_call_is_dropped_in_silence(
    lab: Lab, ari: BareAri
) -> None:
    _, dialled = await ring(ari, 0.5)
    await ari.disconnect()
    call = await seen(lab, dialled, "ended_at")
    assert call.ended_by == "pbx"
    assert call.duration is not None
    assert call.duration < 0.7  # Asterisk's Answer() alone takes half a second here


async def test_naming_both_application_and_dialplan_does_not_help(lab: Lab, ari: BareAri) -> None:
    """Asterisk takes the request, and the application wins."""
    _, dialled = await ring(ari, 0.5, app="dialer", **INTO_THE_DIALPLAN)
    await ari.disconnect()
    call = await seen(lab, dialled, "ended_at")
    assert call.duration is not None
    assert call.duration < 0.7


async def test_in_the_shipped_dialplan_it_waits_for_us(lab: Lab, ari: BareAri) -> None:
    calls = [await ring(ari, answered_after, **INTO_THE_DIALPLAN) for answered_after in (0.3, 0.8, 1.3, 2.5)]
    await ari.disconnect()
    for _, dialled in calls[:3]:
        await seen(lab, dialled, "answered_at")
    await asyncio.sleep(0.5)
    await ari.connect()
    for identifier, _ in calls:
        await ari.wait(identifier, "StasisStart", within=4)
    assert [lab.world_calls(dialled)[-1].ended_at for _, dialled in calls] == [None] * 4


async def test_when_we_do_not_come_back_the_callee_hears_an_apology(lab: Lab, ari: BareAri) -> None:
    lab.pbx.cli("dialplan set global DIALER_PATIENCE 2")
    try:
        _, dialled = await ring(ari, 0.3, **INTO_THE_DIALPLAN)
        await ari.disconnect()
        call = await seen(lab, dialled, "ended_at")
    finally:
        lab.pbx.cli("dialplan set global DIALER_PATIENCE 24")
    assert call.duration is not None
    assert call.duration > 2.5


async def test_a_channel_already_in_the_application_stays(lab: Lab, ari: BareAri) -> None:
    """And its later events come to whoever connects under the name; a new StasisStart does not."""
    identifier, dialled = await ring(ari, 0.1, **INTO_THE_DIALPLAN)
    await ari.wait(identifier, "StasisStart")
    await ari.disconnect()
    await asyncio.sleep(0.5)
    await ari.connect()
    before = len(ari.events)
    await ari.request("DELETE", f"channels/{identifier}")
    await ari.wait(identifier, "StasisEnd")
    assert "StasisStart" not in {event["type"] for event in ari.events[before:]}
    assert (await seen(lab, dialled, "ended_at")).ended_by == "pbx"


async def test_a_second_application_watches_a_trunk_from_the_first_event_on(lab: Lab) -> None:
    """Originates into the dialplan tell our application nothing before the answer, so another one watches.

    It must be another: an application that has a channel twice, by its trunk and by Stasis, hears keys twice.
    """
    async with BareAri(lab) as ari, BareAri(lab, "dialer-watch") as watch:
        status, _ = await watch.request(
            "POST", "applications/dialer-watch/subscription", eventSource="endpoint:PJSIP/carrier"
        )
        assert status == 200
        busy = [f"w{next(_serials):020d}" for _ in range(100)]
        dialled = number.rejects(486, serial=next(_serials))
        await asyncio.gather(*(ari.originate(i, f"PJSIP/{dialled}@carrier", **INTO_THE_DIALPLAN) for i in busy))
        for identifier in busy:
            await watch.wait(identifier, "ChannelDestroyed")
            assert [e["dialstatus"] for e in watch.of(identifier, "Dial")] == ["", "BUSY"]
        assert not any(ari.of(identifier) for identifier in busy)

        keys = f"w{next(_serials):020d}"
        presses = number.presses("12", after=0.5, ring=0.1, serial=next(_serials) % 1000)
        await ari.originate(keys, f"PJSIP/{presses}@carrier", **INTO_THE_DIALPLAN)
        await ari.until(lambda: len(ari.of(keys, "ChannelDtmfReceived")) == 2)
        await asyncio.sleep(0.2)
        assert [event["digit"] for event in ari.of(keys, "ChannelDtmfReceived")] == ["1", "2"]

        await watch.disconnect()  # the subscription outlives the socket
        await watch.connect()
        last = f"w{next(_serials):020d}"
        await ari.originate(last, f"PJSIP/{dialled}@carrier", **INTO_THE_DIALPLAN)
        await watch.wait(last, "ChannelDestroyed")
    lab.hang_up_everything()


async def test_a_socket_that_watches_everything_misses_nothing_of_local_channels(
    lab: Lab, ari: BareAri
) -> None:
    """Local channels belong to no endpoint; to subscribe to each after the POST is too late for quick failures."""
    async with BareAri(lab, "dialer-watch-all", subscribe_all=True) as watch:
        pairs = [(f"n{next(_serials):020d}", f"f{next(_serials):020d}") for _ in range(50)]
        local = f"Local/{number.rejects(486, serial=next(_serials))}@from-internal"
        await asyncio.gather(
            *(ari.originate(near, local, otherChannelId=far, **INTO_THE_DIALPLAN) for near, far in pairs)
        )
        for near, far in pairs:
            await watch.wait(near, "ChannelDestroyed")
            await watch.wait(far, "ChannelDestroyed")
            leg = next(event["peer"]["id"] for event in watch.of(far, "Dial") if event.get("caller"))
            end = await watch.wait(leg, "ChannelDestroyed")
            assert (end["cause"], end.get("tech_cause", 486)) == (17, 486)  # what the Local halves do not tell


async def test_a_channel_from_the_dialplan_is_followed_to_its_end_only_when_subscribed(ari: BareAri) -> None:
    """An originate into the dialplan leaves no subscription behind: we hear of the channel only while in Stasis.

    A subscription to the channel itself, unlike one to its trunk, does not double what is heard.
    """
    loose, followed = (f"s{next(_serials):020d}" for _ in range(2))
    for identifier in (loose, followed):
        dialled = number.presses("12", after=0.5, ring=0.1, serial=next(_serials) % 1000)
        await ari.originate(identifier, f"PJSIP/{dialled}@carrier", **INTO_THE_DIALPLAN)
        await ari.wait(identifier, "StasisStart")
    status, _ = await ari.request("POST", "applications/dialer/subscription", eventSource=f"channel:{followed}")
    assert status == 200
    await ari.until(lambda: all(len(ari.of(i, "ChannelDtmfReceived")) >= 2 for i in (loose, followed)))
    await asyncio.sleep(0.2)
    assert [event["digit"] for event in ari.of(followed, "ChannelDtmfReceived")] == ["1", "2"]
    for identifier in (loose, followed):
        await ari.request("DELETE", f"channels/{identifier}")
    assert (await ari.wait(followed, "ChannelDestroyed"))["cause"] == 16
    assert not ari.of(loose, "ChannelDestroyed")

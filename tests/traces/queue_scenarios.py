"""Scenarios with agents: what ARI and AMI say of a caller who is sent into a queue.

Each has a queue of its own and telephones of its own, so that all can run beside each other. A telephone's extension
says how it answers (the lab's docstring), `talks` when it hangs up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from tests.lab import number

from .scenarios import scenario
from .wire import Wire


async def _crew(
    wire: Wire,
    queue: str,
    *extensions: int,
    talks: float | None = None,
    local: bool = False,
    paused: bool = False,
) -> None:
    """These log in to the queue."""
    for extension in extensions:
        await asyncio.to_thread(wire.manager.place.talk, extension, talks)
        interface = f"Local/{extension}@from-queue/n" if local else f"PJSIP/{extension}"
        state = f"hint:{extension}@ext-local" if local else interface
        await wire.manager.do(
            "QueueAdd",
            Queue=queue,
            Interface=interface,
            StateInterface=state,
            MemberName=f"Agent {extension}",
            Paused=str(paused).lower(),
        )


async def _send(
    wire: Wire, call: str, queue: str, patience: int | None = None, context: str = "dialer-queue"
) -> None:
    """As a flow's queue block does it."""
    variables = {
        "DIALER_APP": wire.app,
        "DIALER_QUEUE_TIMEOUT": "" if patience is None else str(patience),
        "__DIALER_ATTEMPT": call,
    }
    await wire.ask("POST", f"/channels/{call}/variables", {"variables": variables})
    place = {"context": context, "extension": queue, "priority": 1}
    await wire.ask("POST", f"/channels/{call}/continue", place)


async def _back(wire: Wire, *calls: str) -> None:
    """They come back from the queue, and we hang up."""
    for call in calls:
        await wire.event(call, "StasisStart", 2)
    for call in calls:
        await wire.hang_up(call)
    await wire.end(*calls)


async def _stays(wire: Wire, *labels: str) -> list[str]:
    dialled: Iterable[str] = (number.stays(0.2, wire.serial) for _ in labels)
    return [*await asyncio.gather(*map(wire.answered, labels, dialled))]


@scenario(managed="red")
async def an_agent_talks_and_hangs_up(wire: Wire) -> None:
    """His telephone answers by itself; the caller comes back to the application."""
    await _crew(wire, "red", 1031, talks=1.2)
    (call,) = await _stays(wire, "call")
    await _send(wire, call, "red")
    await _back(wire, call)


@scenario("dialplan", managed="white")
async def we_hang_up_on_an_agent(wire: Wire) -> None:
    """A call that the daemon made as it does, with a second one waiting behind it."""
    await _crew(wire, "white", 1032)
    talks, waits = await _stays(wire, "talks", "waits")
    await _send(wire, talks, "white", 20)
    await wire.manager.event("AgentConnect", Queue="white")
    await _send(wire, waits, "white", 20)
    await wire.manager.event("QueueCallerJoin", 2, Queue="white")
    for call in (waits, talks):
        await wire.hang_up(call)
    await wire.end(talks, waits)
    await wire.manager.event("QueueMemberStatus", 2, Queue="white")


@scenario(managed="green")
async def an_agent_rings_before_he_answers(wire: Wire) -> None:
    """For three seconds; then the caller hangs up on him, and he wraps up."""
    await _crew(wire, "green", 2006)
    call = await wire.answered("call", number.answers(0.2, 5.0, wire.serial))
    await _send(wire, call, "green", 20)
    await wire.end(call)
    await wire.manager.event("AgentComplete", Queue="green")


@scenario(managed="black")
async def an_agent_does_not_answer(wire: Wire) -> None:
    """Until the caller's time in the queue is over."""
    await _crew(wire, "black", 3001)
    (call,) = await _stays(wire, "call")
    await _send(wire, call, "black", 3)
    await _back(wire, call)


@scenario(managed="grey")
async def an_agent_is_busy(wire: Wire) -> None:
    """A telephone that is busy is tried again, its device is never anything but free."""
    await _crew(wire, "grey", 4001)
    call = await wire.answered("call", number.answers(0.2, 1.6, wire.serial))
    await _send(wire, call, "grey", 20)
    await wire.end(call)
    await wire.manager.event("QueueCallerLeave", Queue="grey")


@scenario(managed="pink")
async def a_caller_gives_up(wire: Wire) -> None:
    """Nobody is logged in, then somebody is paused; and a second caller's time is over."""
    await _crew(wire, "pink", 1033, paused=True)
    call = await wire.answered("call", number.answers(0.2, 1.4, wire.serial))
    await _send(wire, call, "pink", 20)
    await wire.end(call)
    await wire.manager.event("QueueCallerLeave", Queue="pink")
    (late,) = await _stays(wire, "late")
    await _send(wire, late, "pink", 2)
    await _back(wire, late)


@scenario(managed="cyan")
async def a_caller_gives_up_while_it_rings(wire: Wire) -> None:
    """No event says that the telephone has rung in vain."""
    await _crew(wire, "cyan", 3002)
    call = await wire.answered("call", number.answers(0.2, 1.6, wire.serial))
    await _send(wire, call, "cyan", 20)
    await wire.end(call)
    await wire.manager.event("QueueMemberStatus", 2, Queue="cyan")


@scenario(managed="navy")
async def a_local_member(wire: Wire) -> None:
    """As FreePBX makes them: the telephone is one leg further on, and its hint tells whether it is free."""
    await _crew(wire, "navy", 1034, talks=1.2, local=True)
    (call,) = await _stays(wire, "call")
    await _send(wire, call, "navy", 20)
    await _back(wire, call)
    await wire.manager.event("QueueMemberStatus", 2, Queue="navy")


@scenario(managed="lime")
async def a_queue_that_hangs_up(wire: Wire) -> None:
    """FreePBX's: after an agent, and when its own time is over."""
    await _crew(wire, "lime", 1035, talks=1.2)
    (call,) = await _stays(wire, "call")
    await _send(wire, call, "lime", 20, "ext-queues")
    await wire.end(call)
    await wire.manager.event("QueueMemberStatus", 2, Queue="lime")
    await wire.manager.do("QueuePause", Queue="lime", Interface="PJSIP/1035", Paused="true", Reason="lunch")
    (late,) = await _stays(wire, "late")
    await _send(wire, late, "lime", 20, "ext-queues")
    await wire.end(late)


@scenario(managed="blue violet")
async def an_agent_of_two_queues_wraps_up(wire: Wire) -> None:
    """Five seconds, in both of them; a second caller waits for him meanwhile."""
    await wire.manager.do("QueueReset", Queue="blue")
    await _crew(wire, "blue", 1036, talks=1.2)
    await _crew(wire, "violet", 1036, talks=1.2)
    first, second = await _stays(wire, "first", "second")
    await _send(wire, first, "blue", 20)
    await wire.manager.event("AgentConnect", Queue="blue")
    await _send(wire, second, "blue", 20)
    await wire.manager.event("QueueCallerJoin", 2, Queue="blue")
    await wire.manager.do("QueueStatus", Queue="blue")
    await wire.manager.do("QueueSummary", Queue="blue")
    await _back(wire, first, second)


@scenario(managed="shipped")
async def an_agent_who_does_not_answer_is_paused(wire: Wire) -> None:
    """The shipped queue's autopause; its telephones ring their whole time, whatever the caller's is."""
    await _crew(wire, "shipped", 4001)
    (call,) = await _stays(wire, "call")
    await _send(wire, call, "shipped", 2)
    await _back(wire, call)


@scenario(managed="teal")
async def an_agent_is_called_directly(wire: Wire) -> None:
    """Past any queue; then he is logged off while he talks."""
    await _crew(wire, "teal", 1037, talks=1.2)
    await wire.manager.do("Originate", Channel="PJSIP/1037", Application="Wait", Data="9", Async="true")
    await wire.manager.event("QueueMemberStatus", 2, Queue="teal")
    (call,) = await _stays(wire, "call")
    await _send(wire, call, "teal", 20)
    await wire.manager.event("AgentConnect", Queue="teal")
    await wire.manager.do("QueueRemove", Queue="teal", Interface="PJSIP/1037")
    await _back(wire, call)


@scenario(managed="gold")
async def members_come_and_go(wire: Wire) -> None:
    """Logged in, paused, and what is refused."""
    manager = wire.manager
    await manager.do("QueueReset", Queue="gold")
    await _crew(wire, "gold", 1038)
    await manager.do("QueueAdd", Queue="gold", Interface="PJSIP/1039", Penalty="2", Paused="yes", Reason="ill")
    await manager.do("QueueAdd", Queue="gold", Interface="PJSIP/nobody", MemberName="Zoë")
    await manager.do("QueueAdd", Queue="gold", Interface="Local/1040@from-queue/n")
    await manager.do("QueueAdd", Queue="gold", Interface="PJSIP/1038")
    await manager.do("QueueAdd", Queue="no such queue", Interface="PJSIP/1038")
    await manager.do("QueueAdd", Queue="gold")
    await manager.do("QueueAdd", Interface="PJSIP/1038")
    await manager.do("QueuePause", Queue="gold", Interface="PJSIP/1038", Paused="1", Reason="coffee")
    await manager.do("QueuePause", Interface="PJSIP/1038", Paused="0")
    await manager.do("QueuePause", Queue="gold", Interface="PJSIP/1041", Paused="true")
    await manager.do("QueuePause", Queue="gold", Interface="PJSIP/1038")
    await manager.do("QueueStatus", Queue="gold", Member="PJSIP/1039")
    await manager.do("QueueSummary", Queue="gold")
    await manager.do("QueueStatus", Queue="no such queue")
    for interface in ("PJSIP/1038", "PJSIP/1039", "PJSIP/1041"):
        await manager.do("QueueRemove", Queue="gold", Interface=interface)
    await manager.do("QueueRemove", Queue="no such queue", Interface="PJSIP/1038")
    await manager.do("QueueRemove", Queue="gold")


@scenario(managed="amber")
async def a_queue_that_is_not_there(wire: Wire) -> None:
    """The caller is back at once, and AMI has heard nothing of it."""
    (call,) = await _stays(wire, "call")
    await _send(wire, call, "no-such-queue", 5)
    await _back(wire, call)


@scenario(managed="")
async def actions(wire: Wire) -> None:
    """What belongs to no queue, and what is refused."""
    manager = wire.manager
    await manager.do("Ping")
    await manager.do("UserEvent", UserEvent=wire.name("event", "u"), Value="17", Other="é")
    for asked in ({"Category": "green"}, {"Category": "shipped"}, {"Category": "none"}):
        await manager.do("GetConfig", Filename="queues.conf", **asked)
    await manager.do("GetConfig", Filename="none.conf")
    await manager.do("GetConfig")
    await manager.do("Events", EventMask="off")
    await manager.do("Events", EventMask="agent,user")
    await manager.do("Events", EventMask="nonsense")
    await manager.do("Events")
    await manager.do("NoSuchAction")
    await manager.do("Challenge")
    await manager.do("Challenge", AuthType="MD5")

"""A cancellation may land on any await of an attempt, and before its first step: it is settled or released, once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from typing import Any

import pytest

from tests.engine.pbx import BUSY, NO_ENDPOINT, RINGS_OUT, Callee, answers
from tests.engine.world import SURVEY, VIRTUAL, World, numbers

pytestmark = VIRTUAL

CHUNKS = 4


class Cancelling:
    """Makes the task of the first attempt be cancelled when it waits for the n-th time."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.waits: int | None = None
        self.done = False

    def __call__(self, coro: Coroutine[Any, Any, Any]) -> Coroutine[Any, Any, Any]:
        if getattr(coro, "__name__", "") != "drive" or self.waits is not None:
            return coro
        self.waits = 0
        return self._driven(coro)

    async def _driven(self, coro: Coroutine[Any, Any, Any]) -> Any:
        return await _Counted(coro, self)

    def waiting(self) -> None:
        assert self.waits is not None
        self.waits += 1
        if self.waits == self.n:
            self.cancel()

    def cancel(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        self.done = True


class _Counted:
    def __init__(self, coro: Coroutine[Any, Any, Any], cancelling: Cancelling) -> None:
        self._coro = coro
        self._cancelling = cancelling

    def __await__(self) -> Generator[Any, Any, Any]:
        value: Any = None
        error: BaseException | None = None
        while True:
            try:
                future = self._coro.send(value) if error is None else self._coro.throw(error)
            except StopIteration as end:
                return end.value
            self._cancelling.waiting()
            value = error = None
            try:
                value = yield future
            except BaseException as raised:  # noqa: BLE001 - it belongs to the coroutine
                error = raised


async def cancelled_at(n: int, callee: Callee) -> bool:
    """One run; False when the attempt was over before."""
    async with World() as world:
        world.pbx.default = callee
        cancelling = world.on_task = Cancelling(n)
        campaign = await world.campaign(numbers(1), flow=SURVEY, dialTimeout=15)
        await world.daemon()
        await world.until(lambda: cancelling.done or world.state(campaign) == "COMPLETED")
        if cancelling.done:
            await world.sleep(2.0)
            first = world.ledger.first_claimed
            ends = world.ledger.settled[first] + world.ledger.released[first]
            assert ends == 1, f"{ends} ends when cancelled at wait {n}"
            assert first not in world.pbx.channels, f"the call outlived its attempt, cancelled at wait {n}"
            assert first not in world.live()
            assert (first in world.pbx.by_attempt) == (world.ledger.settled[first] == 1)
        await world.completed(campaign)
        world.check_at_rest(campaign)
        assert len([one for one in world.pbx.originates if one.made]) <= 1, "nobody is called twice"
        return cancelling.done


@pytest.mark.parametrize("chunk", range(CHUNKS))
@pytest.mark.parametrize(
    "callee",
    [answers(0.5, keys=[(1.5, "1")]), BUSY, RINGS_OUT, NO_ENDPOINT, BUSY.but(fault="lost")],
    ids=["who talks", "busy", "who does not answer", "without an endpoint", "of a lost reply"],
)
async def test_an_attempt_cancelled_at_any_await_ends_once_with_its_channel(callee: Callee, chunk: int) -> None:
    n = chunk + 1
    while await cancelled_at(n, callee):
        n += CHUNKS
    assert n > 3, "something was cancelled"


def cancel_the_first(name: str) -> Callable[[str, asyncio.Task[Any]], None]:
    seen: list[str] = []

    def created(what: str, task: asyncio.Task[Any]) -> None:
        if what == name and not seen:
            seen.append(what)
            task.cancel()

    return created


async def test_an_attempt_cancelled_before_its_first_step_is_released_and_called_later() -> None:
    async with World() as world:
        world.on_created = cancel_the_first("drive")
        campaign = await world.campaign(numbers(2), maxChannels=1)
        await world.daemon()
        await world.completed(campaign)
        assert world.ledger.released[world.ledger.first_claimed] == 1
        assert world.pbx.by_number == dict.fromkeys(numbers(2), 1)
        assert list(world.statuses(campaign).values()) == [["TERMINATED"]] * 2
        world.check_at_rest(campaign)

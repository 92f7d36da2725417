"""The seed's own requests, as raw HTTP text, get the seed's own responses."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
import pytest_asyncio

from tests import seed
from tests.ports.api_client import Client, House, new_token
from tests.ports.store_desk import FLOW

pytestmark = pytest.mark.asyncio(loop_scope="module")

Send = Callable[..., Any]


@pytest_asyncio.fixture(loop_scope="module")
async def client(house: House) -> Client:
    """The IVR of step 2 is there, with a line that leads into it: the PBX's administrator made both."""
    client = await house.empty()
    document = json.dumps({**FLOW, "name": "IVR-app-name"})
    await house.command("HSET", "{dialer}:ivr:TUxw53xCBf", "document", document)
    await house.command("HSET", "{dialer}:ivr:TUxw53xCBf", "routing", '[{"exten": "600", "ddi": "+420123"}]')
    for name in ("created", "updated"):
        await house.command(
            "HSET", "{dialer}:ivr:TUxw53xCBf", f"{name}_at", "1790000000", f"{name}_by", "a@b.example"
        )
    await house.command("SADD", "{dialer}:ivrs", "TUxw53xCBf")
    return client


async def test_the_four_steps_to_the_letter(client: Client, house: House) -> None:
    token = await new_token(house.store, name="seed")
    host, _, port = client.url.removeprefix("http://").partition(":")
    address = (host, int(port))

    async def send(request: str, **more: int) -> tuple[int, Any]:
        return await asyncio.to_thread(seed.send, request, address, token, **more)

    status, created = await send(seed.CREATE_LIST)
    assert (status, created) == (200, seed.document(seed.LIST_CREATED))
    assert list(created) == ["id", "message", "numbersCount"]

    status, ivrs = await send(seed.GET_IVRS)
    assert (status, shape(ivrs)) == (200, shape(seed.document(seed.IVRS)))
    assert (ivrs[0]["id"], ivrs[0]["name"], ivrs[0]["description"]) == ("TUxw53xCBf", "IVR-app-name", "")
    assert ivrs[0]["createdBy"] == {"id": "a@b.example", "email": "a@b.example"}
    assert ivrs[0]["routing"] == [{"exten": "600", "ddi": "+420123"}]

    status, created = await send(seed.CREATE_CAMPAIGN)
    assert (status, created) == (200, seed.document(seed.CAMPAIGN_CREATED))

    status, started = await send(seed.CONTROL, id=created["id"])
    message = "Campaign successfully started"
    assert (status, started) == (200, {"id": 1, "state": "RUNNING", "message": message})

    numbers = await client.get("/dialer/call-lists/1/numbers")
    assert numbers["items"] == [{"number": "123456789", "attributes": []}]
    campaign = await client.get("/dialer/campaigns/1")
    assert holds(campaign, seed.body(seed.CREATE_CAMPAIGN))


def holds(told: Any, given: Any) -> bool:
    """Is all that was given told, whatever else is?"""
    match given:
        case dict():
            return all(holds(told[name], value) for name, value in given.items())
        case list():
            return len(told) == len(given) and all(map(holds, told, given))
        case _:
            return bool(told == given)


def shape(value: object) -> object:
    """What there is and of which kind, in its order, whatever the values."""
    match value:
        case dict():
            return [(name, shape(one)) for name, one in value.items()]
        case list():
            return [shape(one) for one in value]
        case _:
            return type(value).__name__


@pytest.mark.parametrize("missing", ["name", "callerId", "activePeriod", "callLists", "ivr"])
async def test_what_the_seed_calls_required_is(client: Client, missing: str) -> None:
    definition = seed.body(seed.CREATE_CAMPAIGN)
    del definition[missing]
    answer = await client.ask("POST", "/dialer/campaigns", definition)
    assert (answer.status, answer.paths) == (422, [missing])

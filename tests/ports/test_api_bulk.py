"""Long bodies in, long answers out: CSV and NDJSON, as a client of the API sees them."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from dialer_engine.errors import Invalid
from dialer_engine.store.dnc import DoNotCallLists
from dialer_engine.store.link import Link
from dialer_engine.store.records import Closed, DoNotCall
from dialer_engine.store.server import connect
from dialer_engine.store.tables import Csv
from tests.ports.api_client import Answer, Client, House
from tests.ports.store_desk import NOW, Desk

pytestmark = pytest.mark.asyncio(loop_scope="module")

CSV, NDJSON = "text/csv", "application/x-ndjson"
LISTS, DNC = "/dialer/call-lists", "/dialer/do-not-call"


@pytest_asyncio.fixture(loop_scope="module")
async def client(house: House) -> Client:
    return await house.empty()


@pytest.fixture
def desk(house: House) -> Desk:
    return Desk(house.store)


async def post(client: Client, path: str, form: str, text: str | bytes, **headers: str) -> Answer:
    body = text.encode() if isinstance(text, str) else text
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await client.ask("POST", path, body, headers={"Content-Type": form, **named})


async def rows(client: Client, call_list: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await client.get(f"{LISTS}/{call_list}/numbers"))["items"]
    return found


# --- call lists ---


async def test_a_csv_becomes_a_list_and_what_is_no_contact_is_told_with_its_line(client: Client) -> None:
    table = (
        '\ufeffname;Phone;debt\r\nEva;601 000;12\r\n"two\r\nlines";602;\r\n\r\n'
        "nobody;call me;1\r\nEva again;601000;1\r\n;112;\r\nMax;603"
    )
    made = await post(client, f"{LISTS}?name=people", f"{CSV}; charset=utf-8", table)
    assert made.status == 200, made
    told = made.json
    assert (told["id"], told["numbersCount"], told["repeats"], told["rejected"]) == (1, 3, 1, 2)
    assert [one["path"] for one in told["errors"]] == ["line 6", "line 8"]
    assert "telephone number" in told["errors"][0]["detail"]
    assert (await client.get(f"{LISTS}/1"))["name"] == "people"
    assert await rows(client, 1) == [
        {"number": "601 000", "attributes": {"name": "Eva", "debt": "12"}},
        {"number": "602", "attributes": {"name": "two\r\nlines", "debt": ""}},
        {"number": "603", "attributes": {"name": "Max"}},
    ]
    more = await post(client, f"{LISTS}/1/numbers", NDJSON, '{"number":"604"}\n\n"x"\n{"number":\n')
    assert (more.json["numbersCount"], [one["path"] for one in more.json["errors"]]) == (
        1,
        ["line 3", "line 4"],
    )
    plain = await post(client, LISTS, CSV, "601\n602\n")
    assert plain.json == {"id": 2, "message": "Call list successfully created", "numbersCount": 2}


@pytest.mark.parametrize(
    ("form", "body", "status"),
    [
        (CSV, "name,city\nEva,Brno\n", 422),
        (CSV, 'number,name\n601,"Eva\n', 422),
        (CSV, "number\n" + "6" * 70_000, 422),
        (CSV, "number\n601,\r602\n", 422),
        (NDJSON, '{"number":"601"}\n' + " " * 70_000, 422),
        (CSV, b"number\n\xff\xfe\n", 400),
        ("text/plain", "601\n", 415),
        ("application/xml", "<number>601</number>", 415),
    ],
)
@pytest.mark.parametrize("path", [LISTS, DNC])
async def test_what_is_no_table_leaves_nothing(
    client: Client, path: str, form: str, body: str | bytes, status: int
) -> None:
    answer = await post(client, path, form, body)
    assert (answer.status, answer.headers["content-type"]) == (status, "application/problem+json")
    if status == 422:
        assert answer.paths[0].startswith("line ")
    assert (await client.get(path))["total"] == 0


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50, 1000])
async def test_a_table_is_the_same_in_whatever_pieces_it_comes(size: int) -> None:
    text = 'number,name\r\n601,Eva\r\n602,"a ""quoted"",\n\nname"\r\n\r\n603,\r\n604'
    expected = [
        (2, "601", {"name": "Eva"}),
        (3, "602", {"name": 'a "quoted",\n\nname'}),
        (7, "603", {"name": ""}),
        (8, "604", {}),
    ]
    table = Csv()
    found: list[object] = []
    for start in range(0, len(text), size):
        found += table.feed(text[start : start + size])
    assert [*found, *table.feed("", last=True)] == expected


def table_of(text: str) -> list[object]:
    table = Csv()
    return [*table.feed(text), *table.feed("", last=True)]


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("number,name,number", ("601", {"name": "602", "number": "603"})),  # an attribute may be called so
        ("number,Number,phone", ("601", {"Number": "602", "phone": "603"})),
        ("phone,number,msisdn", ("602", {"phone": "601", "msisdn": "603"})),
        ("name,msisdn,Phone", ("603", {"name": "601", "msisdn": "602"})),
    ],
)
async def test_which_column_is_the_number(header: str, expected: object) -> None:
    assert table_of(f"{header}\n601,602,603\n") == [(2, *expected)]  # type: ignore[misc]


async def test_columns_without_a_name_are_left_out(client: Client) -> None:
    """A spreadsheet that had a cell there once ends every line in a separator; no row could be used for it."""
    told = (await post(client, LISTS, CSV, "number;name;; \n601;Eva;;\n602;Max;x;y\n")).json
    assert (told["numbersCount"], "rejected" in told) == (2, False), told
    assert [one["attributes"] for one in await rows(client, 1)] == [{"name": "Eva"}, {"name": "Max"}]


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ("number,First Name", "`First Name` is no name for an attribute"),
        ("number,note,note", "`note` is the name of 2 columns"),
    ],
)
async def test_a_header_that_would_spoil_every_row_is_told_at_once(
    client: Client, header: str, reason: str
) -> None:
    """And no list without a number is "successfully created"."""
    table = f"{header}\n601,Eva,x\n602,Jan,y\n"
    answer = await post(client, LISTS, CSV, table)
    assert (answer.status, answer.paths) == (422, ["line 1"])
    assert reason in answer.text
    assert (await client.get(LISTS))["total"] == 0
    assert (await post(client, DNC, CSV, table)).json["numbersCount"] == 2, "there they are left out"


@pytest.mark.parametrize("header", ["name,number,number", "Phone,name,phone"])
async def test_a_table_with_two_columns_for_the_number_is_refused(header: str) -> None:
    with pytest.raises(Invalid, match=r"line 1: names two columns `(number|phone)`"):
        table_of(f"{header}\n601,602,603\n")


async def test_a_quote_opens_a_text_only_where_a_column_begins() -> None:
    text = 'number;name;size\n601;Eva;19" rack\n602;"Max";"19"" and\n24"""\n603;Jan "Joe;"\n" x"y\n604\n'
    assert table_of(text) == [
        (2, "601", {"name": "Eva", "size": '19" rack'}),
        (3, "602", {"name": "Max", "size": '19" and\n24"'}),
        (5, "603", {"name": 'Jan "Joe', "size": '\n x"y'}),
        (7, "604", {}),
    ]


async def test_a_quoted_text_without_end_is_told_before_all_is_read() -> None:
    table = Csv()
    list(table.feed('number,name\n601,"Eva\n'))
    with pytest.raises(Invalid, match="line 2: a quoted text begins here"):
        for _ in range(100):
            list(table.feed("x" * 999 + "\n"))


async def test_the_same_upload_with_the_same_key_is_made_once(client: Client) -> None:
    for path in (LISTS, DNC):
        first = await post(client, path, CSV, "601\n602\n", Idempotency_Key=path)
        again = await post(client, path, CSV, "601\n602\n", Idempotency_Key=path)
        assert (again.status, again.text) == (200, first.text)
        assert (await post(client, path, CSV, "603\n", Idempotency_Key=path)).status == 422
    assert (await client.get(LISTS))["total"] == 1
    assert (await client.get(DNC))["total"] == 2


# --- do-not-call ---


async def test_a_csv_of_numbers_that_are_not_to_be_called(client: Client) -> None:
    await client.done("POST", DNC, {"number": "601", "reason": "old"})
    table = (
        "number,reason,until,city\n601,asked us,,Brno\n6-02,,2099-12-31T00:00:00+01:00,\n603,,tomorrow,\nx,,,\n"
    )
    told = (await post(client, DNC, CSV, table)).json
    assert (told["numbersCount"], told["repeats"], told["rejected"]) == (1, 1, 2)
    assert [one["path"] for one in told["errors"]] == ["line 4", "line 5"]
    assert "offset" in told["errors"][0]["detail"] or "instant" in told["errors"][0]["detail"]
    entries = {one["number"]: one for one in (await client.get(DNC))["items"]}
    assert set(entries) == {"601", "602"}
    assert (entries["601"]["reason"], entries["601"]["by"]) == ("asked us", "token:eva")
    assert entries["602"]["until"] == "2099-12-30T23:00:00.000+00:00"
    last = (await client.get("/dialer/audit?pageSize=1"))["items"][0]
    assert (last["action"], last["subject"], last["detail"]) == ("forbid", "do-not-call", "2 numbers")


async def test_ndjson_for_the_list_of_one_campaign(client: Client, desk: Desk) -> None:
    campaign = await desk.new_campaign(await desk.new_list("601"))
    lines = '{"number":"601","reason":"x"}\n{"number":"602","colour":1}\n{"number":"603","campaign":1}\n'
    told = (await post(client, f"{DNC}?campaign={campaign}", NDJSON, lines)).json
    assert (told["numbersCount"], told["rejected"]) == (1, 2), "a line may not choose another list"
    assert (await client.get(f"{DNC}?campaign={campaign}"))["total"] == 1
    assert (await client.get(DNC))["total"] == 0
    assert (await post(client, f"{DNC}?campaign=99", NDJSON, lines)).paths == ["query.campaign"]
    answer = await client.ask("POST", f"{DNC}?campaign={campaign}", {"number": "601"})
    assert (answer.status, answer.paths) == (422, ["query.campaign"])


async def becomes(house: House, expected: bool) -> None:
    """Wait until an import is under way, or none."""
    for _ in range(500):
        if bool(await house.command("KEYS", "{dialer}:forbidding:*")) is expected:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("not within five seconds")


async def test_an_upload_that_breaks_off_forbids_nobody(client: Client, house: House) -> None:
    sent = asyncio.Event()

    async def chunks() -> AsyncIterator[bytes]:
        for n in range(600):
            yield f"{600_000_000 + n}\n".encode() * 20
        sent.set()
        await asyncio.sleep(30)

    upload = asyncio.create_task(client.stream("POST", DNC, chunks(), CSV))
    await sent.wait()
    await becomes(house, True)
    upload.cancel()
    with suppress(asyncio.CancelledError, aiohttp.ClientError):
        await upload
    await becomes(house, False)
    assert (await client.get(DNC))["total"] == 0


@pytest.mark.parametrize("path", [LISTS, DNC])
@pytest.mark.parametrize("form", [CSV, "application/json"])
async def test_an_upload_that_stalls_is_given_up(
    client: Client, house: House, monkeypatch: pytest.MonkeyPatch, path: str, form: str
) -> None:
    """Who has lost his network in the midst of it says no word; his import would stay for ever."""
    monkeypatch.setattr("dialer_engine.api.requests.STALL_SECONDS", 0.3)
    for_ever = asyncio.Event()

    async def chunks() -> AsyncIterator[bytes]:
        yield b'{"name":"x","numbers":[{"number":"601"},' if form != CSV else b"number\n601\n" * 1000
        await for_ever.wait()

    answer = await asyncio.wait_for(client.stream("POST", path, chunks(), form), 5)
    assert (answer.status, answer.headers["connection"]) == (408, "close"), answer
    assert "body" in answer.json["detail"]
    assert (await client.get(path))["total"] == 0
    assert await house.command("KEYS", "{dialer}:forbidding*") == []
    assert await house.command("KEYS", "{dialer}:imports") == []


async def entries(*numbers: str) -> AsyncIterator[list[DoNotCall]]:
    yield [DoNotCall(number) for number in numbers]


class Watched(Link):
    """Another daemon's housekeeping, which has read the register before, comes right behind the commit."""

    async def run(self, name: str, *args: Any, base: str | None = None) -> Any:
        done = await super().run(name, *args, base=base)
        if args[0] == "commit":
            await self.do("DEL", f"{{dialer}}:forbidding:{args[1]}:alive")  # ten minutes without a batch
            assert await super().run("forbid", "drop", args[1], 0) == 0
        return done


async def test_what_was_committed_is_not_dropped(client: Client, house: House) -> None:
    link = Watched(connect(house.url, 5.0), "dialer")
    assert await DoNotCallLists(link).add_all(entries("601", "602")) == (2, 0)
    await link.close()
    assert (await client.get(DNC))["total"] == 2


async def test_what_a_dead_process_has_left_counts_once_it_was_all_there(
    client: Client, desk: Desk, house: House
) -> None:
    lists = desk.store.do_not_call

    async def dies() -> AsyncIterator[list[DoNotCall]]:
        yield [DoNotCall("601")]
        (register,) = await house.command("HKEYS", "{dialer}:forbidding")
        await house.command("HSET", "{dialer}:forbidding", "committed", "all")
        await house.command("RPUSH", "{dialer}:forbidding:committed", "602", "{}", "603", "{}")
        await lists.tidy()  # another process comes by: this one is alive
        assert await house.command("HKEYS", "{dialer}:forbidding") == [register]
        await house.command("DEL", f"{{dialer}}:forbidding:{register}:alive")  # ten minutes
        await lists.tidy()
        yield [DoNotCall("604")]

    with pytest.raises(Exception, match="given up"):
        await lists.add_all(dies())
    assert {one["number"] for one in (await client.get(DNC))["items"]} == {"602", "603"}
    assert await lists.add_all(entries("601", "602", "601")) == (1, 2)
    assert await house.command("KEYS", "{dialer}:forbidding*") == []


# --- results ---


async def test_results_as_csv_and_ndjson(client: Client, desk: Desk) -> None:
    campaign = await desk.running(*(f"{600 + n}" for n in range(250)))
    for _ in range(2):
        await desk.read(campaign)
    for _ in range(250):
        request = await desk.call(campaign)
        result = {"status": "TERMINATED", "extStatus": "=1+1", "values": {"answer": "1"}}
        await desk.store.calls.settle(request.attempt_id, result=result, next=Closed(), now=NOW)
    path = f"/dialer/campaigns/{campaign}/results"
    everything = (await client.get(f"{path}?pageSize=5000"))["items"]
    lines = await client.ask("GET", f"{path}?format=ndjson")
    assert lines.headers["content-type"] == NDJSON
    assert [json.loads(line) for line in lines.text.splitlines()] == everything
    table = await client.ask("GET", path, headers={"Accept": "text/csv"})
    assert table.headers["content-type"] == "text/csv; charset=utf-8"
    assert f"results-{campaign}.csv" in table.headers["content-disposition"]
    found = list(csv.DictReader(io.StringIO(table.text)))
    assert [one["number"] for one in found] == [one["number"] for one in everything]
    assert (found[0]["extStatus"], found[0]["values"]) == ("'=1+1", '{"answer": "1"}')
    one = await client.ask("GET", f"{path}?format=csv&number=7-00")
    assert [row["number"] for row in csv.DictReader(io.StringIO(one.text))] == ["700"]
    assert (await client.ask("GET", f"{path}?format=csv&status=RS_BUSY")).text.count("\n") == 1
    assert (await client.ask("GET", f"{path}?format=xml")).paths == ["query.format"]
    assert (await client.ask("GET", "/dialer/campaigns/99/results?format=csv")).status == 404
    before = (await client.get("/dialer/audit"))["total"]
    with capture_logs() as logged:
        await client.ask("GET", f"{path}?format=csv")
    told = {"room": "api", "log_level": "info", "campaign": campaign, "by": "token:eva", "form": CSV}
    assert logged == [{"event": "exported results", **told}]
    assert (await client.get("/dialer/audit"))["total"] == before, "who may only read pushes nothing out of it"

"""Who may do what, as a client sees it: POST /token, tokens good and bad on guarded routes, an outside issuer."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Body, FastAPI
from multidict import CIMultiDict

from dialer_engine.api import problems, token
from dialer_engine.api.issuer import Issuer
from dialer_engine.api.rights import Guarded, Manager, Reader
from dialer_engine.config import ApiSettings
from dialer_engine.errors import Unavailable
from dialer_engine.store import Store
from dialer_engine.store.accounts import MANAGE, READ
from dialer_engine.store.sessions import PAIR
from tests.ports.oidc import OidcServer
from tests.ports.rights_client import PASSWORD, Client, serving
from tests.ports.store_desk import RealRedis, Wire

ACCESS_SECONDS, IDLE_SECONDS = 300, 1800
FORM = "application/x-www-form-urlencoded"


def application(store: Store, issuer: Issuer | None = None) -> FastAPI:
    """Two guarded routes that say who asked, and POST /token."""
    routes = APIRouter(route_class=Guarded)

    @routes.get("/look")
    async def look(by: Reader) -> dict[str, Any]:
        return {"by": by.name, "rights": sorted(by.rights)}

    @routes.put("/change")
    async def change(by: Manager, document: Annotated[dict[str, int], Body()]) -> dict[str, Any]:
        return {"by": by.name, "document": document}

    app = FastAPI()
    app.state.store = store
    app.state.issuer = issuer
    problems.install(app)
    app.include_router(routes)
    app.include_router(
        token.routes(ApiSettings(access_token_seconds=ACCESS_SECONDS, refresh_token_seconds=IDLE_SECONDS))
    )
    return app


@asynccontextmanager
async def served(store: Store, issuer: Issuer | None = None) -> AsyncIterator[Client]:
    async with serving(application(store, issuer), store) as client:
        yield client


@pytest.fixture
def store_url(shared_redis: RealRedis) -> str:
    """A real Redis alone: that the store does the same on both is for its own tests."""
    with shared_redis.client() as client:
        client.flushall()
    return shared_redis.url


@pytest.fixture
async def client(store: Store) -> AsyncIterator[Client]:
    async with served(store) as client:
        yield client


class TestGrants:
    async def test_a_password_gets_what_keycloak_would_give(self, client: Client) -> None:
        await client.add("eva", MANAGE)
        answer = await client.log_in("eva")
        assert (answer.status, answer.headers["cache-control"]) == (200, "no-store")
        assert {name: type(value) for name, value in answer.json.items()} == {
            "access_token": str,
            "expires_in": int,
            "refresh_token": str,
            "refresh_expires_in": int,
            "token_type": str,
            "scope": str,
        }
        assert (answer.json["expires_in"], answer.json["refresh_expires_in"]) == (ACCESS_SECONDS, IDLE_SECONDS)
        assert (answer.json["token_type"], answer.json["scope"]) == ("Bearer", MANAGE)
        seen = await client.look(answer.json["access_token"])
        assert seen.json == {"by": "user:eva", "rights": [MANAGE, READ]}

    async def test_a_refresh_token_gets_the_next_of_both(self, client: Client) -> None:
        await client.add("eva", READ)
        first = (await client.log_in("eva")).json
        second = await client.refresh(first["refresh_token"])
        assert second.status == 200
        assert second.json["refresh_token"] != first["refresh_token"]
        assert (await client.look(second.json["access_token"])).json["by"] == "user:eva"
        assert (await client.refresh(second.json["refresh_token"])).status == 200

    async def test_fewer_rights_than_one_has_may_be_asked_for(self, client: Client) -> None:
        await client.add("eva", MANAGE)
        asked = {"grant_type": "password", "username": "eva", "password": PASSWORD}
        lesser = (await client.grant(**asked, scope=f"openid {READ} profile")).json
        assert lesser["scope"] == READ
        assert (await client.look(lesser["access_token"])).status == 200
        assert (await client.change(lesser["access_token"])).status == 403
        again = (await client.refresh(lesser["refresh_token"])).json
        assert again["scope"] == READ
        assert (await client.refresh(again["refresh_token"], scope=MANAGE)).json["error"] == "invalid_scope"
        assert (await client.grant(**asked, scope="openid")).json["scope"] == MANAGE

    async def test_more_rights_than_one_has_are_not_granted(self, client: Client) -> None:
        await client.add("eva", READ)
        answer = await client.grant(grant_type="password", username="eva", password=PASSWORD, scope=MANAGE)
        assert (answer.status, answer.json["error"]) == (400, "invalid_scope")

    @pytest.mark.parametrize(
        ("form", "error"),
        [
            ({}, "invalid_request"),
            ({"grant_type": "password"}, "invalid_request"),
            ({"grant_type": "password", "username": "eva", "password": ""}, "invalid_request"),
            ({"grant_type": "refresh_token"}, "invalid_request"),
            ({"grant_type": "client_credentials"}, "unsupported_grant_type"),
            ({"grant_type": "password", "username": "eva", "password": "guess"}, "invalid_grant"),
            ({"grant_type": "password", "username": "nobody", "password": PASSWORD}, "invalid_grant"),
            ({"grant_type": "password", "username": "e\x00va\ud7ff" * 99, "password": "\x00"}, "invalid_grant"),
            ({"grant_type": "refresh_token", "refresh_token": "guess"}, "invalid_grant"),
        ],
    )
    async def test_what_cannot_be_granted(self, client: Client, form: dict[str, str], error: str) -> None:
        await client.add("eva", READ)
        answer = await client.grant(**form)
        assert (answer.status, answer.json["error"]) == (400, error)
        assert answer.json["error_description"].isascii()
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["content-type"] == "application/json"

    @pytest.mark.parametrize(
        ("body", "content_type"),
        [
            (b"grant_type=password&grant_type=password&username=eva&password=correct+horse", FORM),
            (b"grant_type=password&username=eva&password=%FF%FE", FORM),
            (b"grant_type=password&username=eva&password=\xff", FORM),
            (b"a=1&" * 60, FORM),
            (b"grant_type=password&password=" + b"x" * 9000, FORM),
            (b'{"grant_type": "password", "username": "eva", "password": "correct horse"}', "application/json"),
            (b"grant_type=password&username=eva&password=correct+horse", "text/plain"),
        ],
    )
    async def test_what_is_no_form(self, client: Client, body: bytes, content_type: str) -> None:
        await client.add("eva", READ)
        answer = await client.ask("POST", "/token", data=body, headers={"Content-Type": content_type})
        assert (answer.status, answer.json["error"]) == (400, "invalid_request")

    async def test_a_user_who_is_not_there_is_answered_like_one_who_is(self, client: Client) -> None:
        """The same words, and no sooner: a password is checked in both cases."""
        await client.add("eva", READ)
        seconds: dict[str, float] = {}
        answers = set()
        for name in ("eva", "nobody") * PAIR[0]:
            began_at = time.perf_counter()
            answers.add((await client.log_in(name, "guess")).text)
            seconds[name] = min(seconds.get(name, 60), time.perf_counter() - began_at)
        assert len(answers) == 1
        assert seconds["eva"] / 3 < seconds["nobody"] < seconds["eva"] * 3

    async def test_a_session_ends_with_the_password_and_with_the_user(self, client: Client) -> None:
        await client.add("eva", READ)
        first = (await client.log_in("eva")).json
        await client.store.accounts.set_password("eva", "other", by="test", now=time.time())
        assert (await client.refresh(first["refresh_token"])).json["error"] == "invalid_grant"
        assert (await client.look(first["access_token"])).status == 401
        second = (await client.log_in("eva", "other")).json
        await client.store.accounts.remove_user("eva", by="test", now=time.time())
        assert (await client.refresh(second["refresh_token"])).json["error"] == "invalid_grant"
        assert (await client.look(second["access_token"])).status == 401


class TestGuessing:
    async def test_wrong_passwords_slow_down_whoever_sends_them(self, client: Client) -> None:
        await client.add("eva", READ)
        assert (await client.log_in("eva", address="198.51.100.1")).status == 200  # from where she always comes
        guesses = [await client.log_in("eva", "guess") for _ in range(PAIR[0])]
        assert {one.status for one in guesses} == {400}
        slowed = await client.log_in("eva")  # even the right one has to wait
        assert (slowed.status, slowed.json["error"]) == (429, "slow_down")
        assert 0 < int(slowed.headers["retry-after"]) <= PAIR[1]
        assert (await client.log_in("eva", address="198.51.100.1")).status == 200
        assert (await client.log_in("eva", address="203.0.113.9")).status == 200

    async def test_all_addresses_of_an_ipv6_network_are_one(self, client: Client) -> None:
        await client.add("eva", READ)
        guesses = [await client.log_in("eva", "guess", f"2001:db8::{n}") for n in range(1, PAIR[0] + 2)]
        assert [one.status for one in guesses] == [400] * PAIR[0] + [429]
        assert (await client.log_in("eva", address="2001:db8:0:1::1")).status == 200

    async def test_many_guesses_at_once_are_counted_too(self, client: Client) -> None:
        await client.add("eva", READ)
        answers = await asyncio.gather(*(client.log_in("eva", f"guess {n}") for n in range(40)))
        assert sorted(one.status for one in answers) == [400] * PAIR[0] + [429] * (40 - PAIR[0])

    async def test_what_is_no_address_is_one_address(self, client: Client) -> None:
        guesses = [await client.log_in("eva", "guess", f"unix:{n}\u00e9") for n in range(PAIR[0] + 1)]
        assert guesses[-1].status == 429


GOOD, REFUSED, FORBIDDEN = 200, 401, 403


class TestTokens:
    @pytest.mark.parametrize(
        ("rights", "look", "change"),
        [((READ,), GOOD, FORBIDDEN), ((MANAGE,), GOOD, GOOD), ((READ, MANAGE), GOOD, GOOD)],
    )
    async def test_what_opens_what(
        self, client: Client, rights: tuple[str, ...], look: int, change: int
    ) -> None:
        api_token = await client.store.accounts.create_token("ci", rights, by="test", now=time.time())
        for bearer in (api_token, await client.access_token("eva", *rights)):
            assert ((await client.look(bearer)).status, (await client.change(bearer)).status) == (look, change)

    async def test_a_refusal_names_the_right_and_nothing_else(self, client: Client) -> None:
        bearer = await client.access_token("eva", READ)
        for one, status, right, challenge in (
            (await client.look(None), 401, READ, f'Bearer realm="dialer_engine", scope="{READ}"'),
            (
                await client.look("x"),
                401,
                READ,
                f'Bearer realm="dialer_engine", scope="{READ}", error="invalid_token"',
            ),
            (
                await client.change(bearer),
                403,
                MANAGE,
                f'Bearer realm="dialer_engine", scope="{MANAGE}", error="insufficient_scope"',
            ),
        ):
            assert (one.status, one.headers["www-authenticate"]) == (status, challenge)
            assert one.headers["content-type"] == "application/problem+json"
            titles = {401: "Unauthorized", 403: "Forbidden"}
            assert one.json == {
                "type": "about:blank",
                "title": titles[status],
                "status": status,
                "detail": f"needs the right {right}",
            }

    async def test_who_has_no_right_has_no_body_read(self, client: Client) -> None:
        """Neither its mistakes are explained to him nor is it waited for."""
        bearer = await client.access_token("eva", READ)
        for one, status in ((None, 401), (bearer, 403)):
            answer = await client.ask(
                "PUT", "/change", one, data=b"{", headers={"Content-Type": "application/json"}
            )
            assert answer.status == status

        async def endless() -> AsyncIterator[bytes]:
            yield b"{"
            await asyncio.Event().wait()

        async with asyncio.timeout(5):
            answer = await client.ask("PUT", "/change", data=endless())
        assert answer.status == 401

    async def test_what_a_forger_may_try(self, client: Client) -> None:
        good = await client.access_token("eva", READ)
        await client.add("root", MANAGE)
        header, payload, signature = good.split(".")
        none = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').decode().rstrip("=")
        deep = base64.urlsafe_b64encode(b"[" * 5000).decode().rstrip("=")
        large = base64.urlsafe_b64encode(b'{"kid":' + b"9" * 5000 + b"}").decode().rstrip("=")
        odd = base64.urlsafe_b64encode(b'{"alg":"HS256","kid":{"a":["\\ud800"]}}').decode().rstrip("=")
        last = "A" if signature[-10] != "A" else "B"
        forgeries = {
            "expired": await client.forged(good, exp=int(time.time()) - 1),
            "for ever": await client.forged(good, exp=None),
            "of nobody": await client.forged(good, sub=None),
            "of one who is not there": await client.forged(good, sub="nobody"),
            "of another": await client.forged(good, sub="root"),
            "of an earlier user": await client.forged(good, stamp="00"),
            "of another issuer": await client.forged(good, iss="https://id.example.com"),
            "signed by another key": await client.forged(good, key="k" * 64),
            "changed signature": f"{header}.{payload}.{signature[:-10]}{last}{signature[-9:]}",
            "no signature": f"{header}.{payload}.",
            "no algorithm": f"{none}.{payload}.",
            "deep": f"{deep}.{payload}.{signature}",
            "large number": f"{large}.{payload}.{signature}",
            "odd key": f"{odd}.{payload}.{signature}",
            "no parts": "...",
            "two of three": f"{header}.{payload}",
            "empty": "",
            "long": "x" * 20_000,
            "of none of ours": "dialer_ci." + "A" * 43,
            "a refresh token": (await client.log_in("eva")).json["refresh_token"],
        }
        for what, bearer in forgeries.items():
            assert (await client.look(bearer)).status == REFUSED, what
        assert (await client.look(await client.forged(good))).status == GOOD
        promoted = await client.forged(
            good, scope=f"{READ} {MANAGE}"
        )  # even a true signature gives no new right
        assert (await client.change(promoted)).status == FORBIDDEN

    async def test_a_key_that_was_forgotten_signs_nothing(
        self, client: Client, raw: Callable[..., Awaitable[Any]]
    ) -> None:
        good = await client.access_token("eva", READ)
        await raw("DEL", "{dialer}:signing-keys")
        assert (await client.look(good)).status == REFUSED

    async def test_revoked_and_expired_api_tokens(self, client: Client) -> None:
        accounts, now = client.store.accounts, time.time()
        text = await accounts.create_token("ci", (READ,), by="test", now=now)
        over = await accounts.create_token("old", (READ,), until=now - 1, by="test", now=now)
        assert (await client.look(text)).json["by"] == "token:ci"
        assert (await client.look(over)).status == REFUSED
        await accounts.revoke_token("ci", by="test", now=now)
        assert (await client.look(text)).status == REFUSED

    @pytest.mark.parametrize("scheme", ["bearer {}", "BEARER {}", "Bearer   {}"])
    async def test_the_scheme_may_be_written_so(self, client: Client, scheme: str) -> None:
        bearer = await client.access_token("eva", READ)
        answer = await client.ask("GET", "/look", headers={"Authorization": scheme.format(bearer)})
        assert answer.status == GOOD

    @pytest.mark.parametrize("scheme", ["{}", "Basic {}", "Bearer", "Bearer {},{}", "Bearer {} {}"])
    async def test_and_not_so(self, client: Client, scheme: str) -> None:
        bearer = await client.access_token("eva", READ)
        answer = await client.ask("GET", "/look", headers={"Authorization": scheme.format(bearer, bearer)})
        assert answer.status == REFUSED

    async def test_two_headers_are_none(self, client: Client) -> None:
        bearer = await client.access_token("eva", READ)
        twice = CIMultiDict([("Authorization", f"Bearer {bearer}")] * 2)
        assert (await client.ask("GET", "/look", headers=twice)).status == REFUSED


async def test_an_access_token_is_good_at_every_daemon_and_after_a_restart(store_url: str) -> None:
    stores = [await Store.open(store_url) for _ in range(2)]
    async with served(stores[0]) as first:
        bearer = await first.access_token("eva", READ)
    async with served(stores[1]) as second:
        assert (await second.look(bearer)).status == GOOD
    for store in stores:
        await store.close()


async def test_redis_away_is_no_refusal(redis_server: RealRedis) -> None:
    """Nobody is told that his token is bad because we cannot look."""
    async with Wire(redis_server) as wire:
        store = await Store.open(wire.url, timeout_seconds=1)
        async with served(store) as client:
            bearer = await client.access_token("eva", READ)
            redis_server.kill()
            for answer in (await client.look(bearer), await client.log_in("eva")):
                assert answer.status == 503
                assert int(answer.headers["retry-after"]) > 0
            assert (await client.look(None)).status == REFUSED
        await store.close()


class TestOutsideIssuer:
    @pytest.fixture
    async def oidc(self) -> AsyncIterator[OidcServer]:
        async with OidcServer() as server:
            yield server

    @pytest.fixture
    async def client(self, store: Store, oidc: OidcServer) -> AsyncIterator[Client]:
        async with served(store, Issuer(oidc.settings())) as client:
            yield client

    @pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
    async def test_its_tokens_open_beside_ours(self, client: Client, oidc: OidcServer, algorithm: str) -> None:
        key = oidc.new_key(algorithm)
        seen = await client.look(oidc.token(key, scope=f"openid {READ}", preferred_username="Eva N."))
        assert (seen.status, seen.json) == (200, {"by": "oidc:Eva N.", "rights": [READ]})
        assert (await client.change(oidc.token(key, scope=MANAGE))).json["by"] == "oidc:sub-1"
        assert (await client.look(await client.access_token("eva", READ))).json["by"] == "user:eva"

    async def test_who_has_no_right_there_has_none_here(self, client: Client, oidc: OidcServer) -> None:
        key = oidc.new_key("RS256")
        for claims in ({}, {"scope": "openid"}, {"scope": 5}, {"scope": [["dialer:read"]]}, {"roles": [READ]}):
            assert (await client.look(oidc.token(key, **claims))).status == FORBIDDEN
        assert (await client.change(oidc.token(key, scope=READ))).status == FORBIDDEN

    async def test_what_is_not_believed(self, client: Client, oidc: OidcServer) -> None:
        key = oidc.new_key("RS256")
        now = int(time.time())
        good = oidc.token(key, scope=READ)
        refused = {
            "expired": oidc.token(key, scope=READ, exp=now - 60),
            "not yet": oidc.token(key, scope=READ, nbf=now + 600),
            "for ever": oidc.token(key, scope=READ, exp=None),
            "for another": oidc.token(key, scope=READ, aud="shop"),
            "for nobody": oidc.token(key, scope=READ, aud=None),
            "by another": oidc.token(key, scope=READ, iss=oidc.address + "/other"),
            "of nobody": oidc.token(key, scope=READ, sub=None),
            "changed": good[:-20] + ("A" if good[-20] != "A" else "B") + good[-19:],
            "the public key as a secret": oidc.confused_token(key, scope=READ),
            "no name of an algorithm": oidc.confused_token(key, algorithm=[], scope=READ),
            "another kind": oidc.token(key, scope=READ, algorithm="PS256"),
            "a key it does not publish": oidc.token(oidc.new_key("RS256", publish=False), scope=READ),
        }
        for what, bearer in refused.items():
            assert (await client.look(bearer)).status == REFUSED, what
        assert (await client.look(good)).status == GOOD

    async def test_an_issuer_that_is_away_is_no_refusal(self, store: Store) -> None:
        async with OidcServer() as oidc:
            key = oidc.new_key("RS256")
            bearer, settings = oidc.token(key, scope=READ), oidc.settings()
        async with served(store, Issuer(settings)) as client:
            answer = await client.look(bearer)
            assert (answer.status, "retry-after" in answer.headers) == (503, True)
            assert (await client.look(await client.access_token("eva", READ))).status == GOOD


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class TestKeysOfAnIssuer:
    """What is fetched, and when."""

    async def test_once_for_many(self) -> None:
        async with OidcServer() as oidc:
            issuer, key = Issuer(oidc.settings()), oidc.new_key("ES256")
            found = await asyncio.gather(*(issuer.identify(oidc.token(key, scope=READ)) for _ in range(20)))
            assert all(found)
            assert oidc.fetched == 1

    async def test_a_rotated_key_is_found(self) -> None:
        async with OidcServer() as oidc:
            clock = Clock()
            issuer, old = Issuer(oidc.settings(), clock), oidc.new_key("ES256")
            assert await issuer.identify(oidc.token(old, scope=READ))
            new = oidc.new_key("ES256")
            oidc.withdraw(old)
            clock.now += 11
            assert await issuer.identify(oidc.token(new, scope=READ))
            assert await issuer.identify(oidc.token(old, scope=READ)) is None
            assert oidc.fetched == 2

    async def test_a_withdrawn_key_is_forgotten(self) -> None:
        async with OidcServer() as oidc:
            clock = Clock()
            issuer, key = Issuer(oidc.settings(), clock), oidc.new_key("ES256")
            assert await issuer.identify(oidc.token(key, scope=READ))
            oidc.new_key("ES256")
            oidc.withdraw(key)
            clock.now += 601
            assert await issuer.identify(oidc.token(key, scope=READ)) is None

    async def test_made_up_keys_do_not_make_us_fetch(self) -> None:
        async with OidcServer() as oidc:
            clock = Clock()
            issuer, key = Issuer(oidc.settings(), clock), oidc.new_key("ES256")
            assert await issuer.identify(oidc.token(key, scope=READ))
            made_up = oidc.token(oidc.new_key("ES256", publish=False), scope=READ)
            for _ in range(50):
                clock.now += 1
                assert await issuer.identify(made_up) is None
            assert oidc.fetched <= 6

    async def test_known_keys_outlive_an_outage_for_a_day(self) -> None:
        async with OidcServer() as oidc:
            clock = Clock()
            issuer, key = Issuer(oidc.settings(), clock), oidc.new_key("ES256")
            bearer = oidc.token(key, scope=READ)
            assert await issuer.identify(bearer)
        clock.now += 80_000
        assert await issuer.identify(bearer)
        clock.now += 10_000
        with pytest.raises(Unavailable, match="cannot be fetched"):
            await issuer.identify(bearer)

    @pytest.mark.parametrize(
        "broken",
        [
            {"discovery": {"issuer": "https://other.example.com"}},
            {"discovery": {"jwks_uri": "http://localhost:1/keys"}},
            {"discovery": {"jwks_uri": None}},
            {"discovery_text": "no json"},
            {"discovery_text": "[]"},
            {"keys_text": "[]"},
            {"keys_text": '{"keys": 5}'},
            {"keys_text": '{"keys": []}'},
            {"keys_text": '{"keys": [{"kty": "oct", "kid": "k", "k": "AAAA"}]}'},
            {"keys_text": '{"keys": ["x"]}'},
            {"keys_text": " " * 300_000},
            {"status": 500},
        ],
    )
    async def test_what_it_publishes_may_be_nonsense(self, broken: dict[str, Any]) -> None:
        async with OidcServer(**broken) as oidc:
            issuer, key = Issuer(oidc.settings()), oidc.new_key("ES256")
            try:
                assert await issuer.identify(oidc.token(key, scope=READ)) is None
            except Unavailable as exc:
                assert oidc.address in str(exc)

    async def test_its_keys_may_stand_elsewhere_if_told(self) -> None:
        async with OidcServer() as oidc, OidcServer() as keys:
            key = oidc.new_key("ES256")
            keys.published.update(oidc.published)
            issuer = Issuer(oidc.settings(jwks_url=f"{keys.address}/keys"))
            assert await issuer.identify(oidc.token(key, scope=READ))
            assert (oidc.fetched, keys.fetched) == (0, 1)

    @pytest.mark.parametrize(
        ("place", "claims"),
        [
            ("scope", {"scope": "dialer:read x"}),
            ("roles", {"roles": ["x", "dialer:read"]}),
            ("realm_access.roles", {"realm_access": {"roles": ["dialer:read"]}}),
            ("https://example.com/rights", {"https://example.com/rights": ["dialer:read"]}),
        ],
    )
    async def test_where_the_rights_stand(self, place: str, claims: dict[str, Any]) -> None:
        async with OidcServer() as oidc:
            issuer, key = Issuer(oidc.settings(rights_claim=place)), oidc.new_key("ES256")
            found = await issuer.identify(oidc.token(key, **claims))
            assert found is not None
            assert found.rights == {READ}

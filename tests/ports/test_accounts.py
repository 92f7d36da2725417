"""Users, API tokens, signing keys, sessions and the slow-down of guesses, on both kinds of Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from dialer_engine.errors import Conflict, Invalid, NotFound, Rejected, Unavailable
from dialer_engine.store import Store
from dialer_engine.store.accounts import MANAGE, READ, WAITING_CHECKS, User
from dialer_engine.store.sessions import (
    ADDRESS,
    KEEP_SECONDS,
    KNOWN_SECONDS,
    PAIR,
    SESSION_SECONDS,
    SIGN_SECONDS,
    USER,
    Session,
)
from tests.ports.store_desk import NOW, RealRedis

Raw = Callable[..., Awaitable[Any]]

PASSWORD = "correct horse"
HOME, ELSEWHERE = "192.0.2.1", "198.51.100.7"
IDLE_SECONDS = 1800


async def eva(store: Store, *rights: str) -> User:
    await store.accounts.add_user("eva", PASSWORD, rights or (MANAGE,), by="test", now=NOW)
    user = await store.accounts.find_user("eva")
    assert user is not None
    return user


class TestUsers:
    async def test_a_password_is_checked_and_not_stored(self, store: Store, raw: Raw) -> None:
        user = await eva(store)
        assert (user.name, user.rights, user.created_at, user.created_by) == (
            "eva",
            frozenset((MANAGE,)),
            NOW,
            "test",
        )
        assert await store.accounts.check_password("eva", PASSWORD) == user
        for name, password in (
            ("eva", "correct horsE"),
            ("eva", ""),
            ("adam", PASSWORD),
            ("x" * 9000, PASSWORD),
        ):
            assert await store.accounts.check_password(name, password) is None
        text = await raw("HGET", "{dialer}:users", "eva")
        assert "$argon2id$v=19$m=19456,t=2,p=1$" in text  # what OWASP asks for
        assert PASSWORD not in text
        assert "argon2" not in repr(user)

    async def test_the_same_password_from_another_keyboard(self, store: Store) -> None:
        await store.accounts.add_user("jiri", "Ji\u0159\u00ed", (READ,), by="test", now=NOW)
        assert await store.accounts.check_password("jiri", "Jir\u030ci\u0301")

    async def test_two_of_one_name(self, store: Store) -> None:
        answers = await asyncio.gather(*(eva(store) for _ in range(3)), return_exceptions=True)
        assert sorted(type(answer).__name__ for answer in answers) == ["Conflict", "Conflict", "User"]

    @pytest.mark.parametrize(
        ("name", "password", "rights", "place"),
        [
            ("", PASSWORD, (READ,), "name"),
            ("e va", PASSWORD, (READ,), "name"),
            ("e" * 65, PASSWORD, (READ,), "name"),
            ("eva", PASSWORD, (), "rights"),
            ("eva", PASSWORD, ("dialer:all",), "rights"),
            ("eva", "", (READ,), "password"),
            ("eva", "p" * 1025, (READ,), "password"),
        ],
    )
    async def test_what_is_refused(
        self, store: Store, name: str, password: str, rights: tuple[str, ...], place: str
    ) -> None:
        with pytest.raises(Invalid) as refused:
            await store.accounts.add_user(name, password, rights, by="test", now=NOW)
        assert [problem.place for problem in refused.value.problems] == [place]
        assert await store.accounts.users() == []

    async def test_a_new_password_ends_the_old_one(self, store: Store) -> None:
        before = await eva(store)
        await store.accounts.set_password("eva", "battery staple", by="test", now=NOW)
        after = await store.accounts.check_password("eva", "battery staple")
        assert after is not None
        assert (after.rights, after.created_at) == (before.rights, before.created_at)
        assert after.stamp != before.stamp
        assert await store.accounts.check_password("eva", PASSWORD) is None

    async def test_who_is_not_there(self, store: Store) -> None:
        with pytest.raises(NotFound, match="no user 'eva'"):
            await store.accounts.set_password("eva", PASSWORD, by="test", now=NOW)
        with pytest.raises(NotFound, match="no user 'eva'"):
            await store.accounts.remove_user("eva", by="test", now=NOW)

    async def test_a_removed_user_added_again_is_another(self, store: Store) -> None:
        before = await eva(store)
        await store.accounts.remove_user("eva", by="test", now=NOW)
        assert await store.accounts.check_password("eva", PASSWORD) is None
        assert (await eva(store)).stamp != before.stamp

    async def test_what_another_program_has_spoilt_opens_nothing(self, store: Store, raw: Raw) -> None:
        await eva(store)
        await raw("HSET", "{dialer}:users", "adam", "{}", "noah", "\x00", "lot", '{"name":"lot","hash":5}')
        assert [user.name for user in await store.accounts.users()] == ["eva"]
        for name in ("adam", "noah", "lot"):
            assert await store.accounts.check_password(name, PASSWORD) is None
            with pytest.raises(Rejected, match="remove and add"):
                await store.accounts.set_password(name, PASSWORD, by="test", now=NOW)
            await store.accounts.remove_user(name, by="test", now=NOW)

    async def test_a_broken_hash_is_no_password(self, store: Store, raw: Raw) -> None:
        await eva(store)
        text = await raw("HGET", "{dialer}:users", "eva")
        await raw("HSET", "{dialer}:users", "eva", text.replace("$argon2id$", "$argon3$"))
        assert await store.accounts.check_password("eva", PASSWORD) is None

    async def test_a_flood_of_checks_is_turned_away(self, store: Store) -> None:
        await eva(store)
        checks = (store.accounts.check_password("eva", PASSWORD) for _ in range(WAITING_CHECKS + 5))
        answers = await asyncio.gather(*checks, return_exceptions=True)
        assert sum(isinstance(answer, User) for answer in answers) == WAITING_CHECKS
        assert sum(isinstance(answer, Unavailable) for answer in answers) == 5
        assert await store.accounts.check_password("eva", PASSWORD)

    async def test_whom_we_know_does_not_wait_behind_strangers(self, store: Store) -> None:
        await eva(store)
        strangers = [
            asyncio.create_task(store.accounts.check_password("eva", "guess")) for _ in range(WAITING_CHECKS)
        ]
        assert await store.accounts.check_password("eva", PASSWORD, known=True)
        assert sum(one.done() for one in strangers) < WAITING_CHECKS / 2
        assert await asyncio.gather(*strangers) == [None] * WAITING_CHECKS

    async def test_edits_at_the_same_time_do_not_undo_each_other(self, store: Store) -> None:
        """Both read before either writes: a new password must not bring back a user who is removed."""
        await eva(store)
        accounts = store.accounts
        changed, removed = await asyncio.gather(
            accounts.set_password("eva", "other", by="test", now=NOW),
            accounts.remove_user("eva", by="test", now=NOW),
            return_exceptions=True,
        )
        assert (type(changed), removed) == (Conflict, None)
        assert await accounts.users() == []

    async def test_all_of_it_is_audited(self, store: Store) -> None:
        await eva(store)
        await store.accounts.set_password("eva", "other", by="adam", now=NOW)
        await store.accounts.remove_user("eva", by="adam", now=NOW)
        await store.accounts.create_token("ci", (READ,), by="adam", now=NOW)
        await store.accounts.revoke_token("ci", by="noah", now=NOW)
        assert [(one.by, one.action, one.subject) for one in await store.audit.read()] == [
            ("test", "create", "user eva"),
            ("adam", "password", "user eva"),
            ("adam", "delete", "user eva"),
            ("adam", "create", "token ci"),
            ("noah", "revoke", "token ci"),
        ]


class TestTokens:
    async def test_a_token_opens_until_it_is_revoked(self, store: Store, raw: Raw) -> None:
        text = await store.accounts.create_token("ci", (READ,), by="test", now=NOW)
        found = await store.accounts.find_token(text, now=NOW)
        assert found is not None
        assert (found.name, found.rights, found.until) == ("ci", frozenset((READ,)), None)
        assert await store.accounts.tokens() == [found]
        assert text.rpartition(".")[2] not in await raw("HGET", "{dialer}:tokens", "ci")
        await store.accounts.revoke_token("ci", by="test", now=NOW)
        assert await store.accounts.find_token(text, now=NOW) is None
        with pytest.raises(NotFound, match="no token 'ci'"):
            await store.accounts.revoke_token("ci", by="test", now=NOW)

    async def test_a_token_may_end_by_itself(self, store: Store) -> None:
        text = await store.accounts.create_token("ci", (READ,), until=NOW + 10, by="test", now=NOW)
        assert await store.accounts.find_token(text, now=NOW + 9.9)
        assert await store.accounts.find_token(text, now=NOW + 10) is None

    async def test_a_name_is_taken_once(self, store: Store) -> None:
        first = await store.accounts.create_token("ci", (READ,), by="test", now=NOW)
        with pytest.raises(Conflict, match="revoke it"):
            await store.accounts.create_token("ci", (MANAGE,), by="test", now=NOW)
        await store.accounts.revoke_token("ci", by="test", now=NOW)
        second = await store.accounts.create_token("ci", (READ,), by="test", now=NOW)
        assert await store.accounts.find_token(first, now=NOW) is None
        assert await store.accounts.find_token(second, now=NOW)

    async def test_what_is_no_token(self, store: Store, raw: Raw) -> None:
        text = await store.accounts.create_token("ci", (READ,), by="test", now=NOW)
        last = "A" if text[-1] != "A" else "B"
        for wrong in (
            "",
            "dialer_",
            text[:-1],
            text[:-1] + last,
            text + "A",
            text.replace("ci", "cd"),
            " " + text,
        ):
            assert await store.accounts.find_token(wrong, now=NOW) is None
        await raw("HSET", "{dialer}:tokens", "ci", "[]")
        assert await store.accounts.find_token(text, now=NOW) is None


class TestSigningKeys:
    async def test_a_key_signs_for_a_day_and_is_known_for_longer(self, store: Store) -> None:
        first = await store.sessions.signing_key(now=NOW)
        assert await store.sessions.signing_key(now=NOW + SIGN_SECONDS) == first
        second = await store.sessions.signing_key(now=NOW + SIGN_SECONDS + 1)
        assert second.id != first.id
        assert second.secret != first.secret
        assert await store.sessions.find_key(first.id) == first
        await store.sessions.signing_key(now=NOW + KEEP_SECONDS + 1)
        assert await store.sessions.find_key(first.id) is None
        assert await store.sessions.find_key(second.id) == second
        assert first.secret not in repr(first)

    async def test_daemons_that_start_at_once_agree_on_one(self, store: Store, store_url: str) -> None:
        other = await Store.open(store_url)
        keys = await asyncio.gather(*(one.sessions.signing_key(now=NOW) for one in (store, other) * 5))
        assert len(set(keys)) == 1
        await other.close()

    async def test_a_key_that_cannot_be_read_is_replaced(self, store: Store, raw: Raw) -> None:
        await raw("HSET", "{dialer}:signing-keys", "k", "nonsense")
        made = await store.sessions.signing_key(now=NOW)
        assert await store.sessions.find_key("k") is None
        assert await store.sessions.find_key(made.id) == made


class TestSessions:
    async def refreshed(self, store: Store, session: Session, after_seconds: float) -> Session | None:
        return await store.sessions.refresh(
            session.refresh_token, idle_seconds=IDLE_SECONDS, now=NOW + after_seconds
        )

    async def opened(self, store: Store) -> Session:
        user = await eva(store)
        return await store.sessions.open(user, frozenset((READ,)), idle_seconds=IDLE_SECONDS, now=NOW)

    async def test_each_refresh_gives_the_next_token(self, store: Store) -> None:
        session = await self.opened(store)
        tokens = {session.refresh_token}
        for turn in range(1, 50):
            following = await self.refreshed(store, session, 100 * turn)
            assert following is not None
            assert (following.user, following.rights, following.seconds) == (
                "eva",
                frozenset((READ,)),
                IDLE_SECONDS,
            )
            assert following.stamp == session.stamp
            session = following
            tokens.add(session.refresh_token)
        assert len(tokens) == 50

    async def test_a_token_used_again_ends_the_session(self, store: Store) -> None:
        first = await self.opened(store)
        second = await self.refreshed(store, first, 100)
        assert second is not None
        assert await self.refreshed(store, first, 131) is None
        assert await self.refreshed(store, second, 132) is None

    async def test_a_reply_that_was_lost_may_be_asked_for_again(self, store: Store) -> None:
        first = await self.opened(store)
        windows = [await self.refreshed(store, first, 100 + late) for late in (0, 1, 29)]
        for window in windows:
            assert window is not None
            assert await self.refreshed(store, window, 1000) is not None

    async def test_a_busy_session_ends_all_the_same(self, store: Store) -> None:
        session = await self.opened(store)
        for at in range(IDLE_SECONDS, SESSION_SECONDS, IDLE_SECONDS):
            following = await self.refreshed(store, session, at - 1)
            assert following is not None
            session = following
        assert session.seconds == IDLE_SECONDS
        last = await self.refreshed(store, session, SESSION_SECONDS - 10)
        assert last is not None
        assert last.seconds == 10
        assert await self.refreshed(store, last, SESSION_SECONDS) is None

    async def test_redis_forgets_it_by_itself_and_keeps_it_small(self, store: Store, raw: Raw) -> None:
        session = await self.opened(store)
        for turn in range(100):
            following = await self.refreshed(store, session, turn)
            assert following is not None
            session = following
        keys = await raw("KEYS", "{dialer}:session:*")
        assert len(keys) == 2
        for key in keys:
            assert 0 < await raw("TTL", key) <= IDLE_SECONDS
        (tokens,) = (key for key in keys if key.endswith(":tokens"))
        assert await raw("ZCARD", tokens) <= 32
        assert session.refresh_token.partition(".")[2] not in str(await raw("ZRANGE", tokens, 0, -1))

    @pytest.mark.parametrize("token", ["", ".", "a.b", "A" * 22 + "." + "B" * 43, "x" * 9000, "\ud800"])
    async def test_what_is_no_token(self, store: Store, token: str) -> None:
        assert await store.sessions.refresh(token, idle_seconds=IDLE_SECONDS, now=NOW) is None


async def waits(store: Store, user: str, address: str, at: float = NOW) -> float:
    return (await store.guesses.try_one(user, address, now=at)).wait_seconds


class TestGuesses:
    async def tried(self, store: Store, count: int, user: str, address: str, at: float = NOW) -> list[float]:
        return [await waits(store, user, address, at) for _ in range(count)]

    async def test_a_handful_is_free_and_then_they_come_slowly(self, store: Store) -> None:
        at_once, seconds = PAIR
        assert await self.tried(store, at_once + 2, "eva", HOME) == [0] * at_once + [seconds] * 2
        assert await self.tried(store, 2, "eva", HOME, NOW + seconds - 1) == [1, 1]
        assert await self.tried(store, 2, "eva", HOME, NOW + seconds) == [0, seconds]
        later = NOW + seconds + at_once * seconds
        assert await self.tried(store, at_once + 1, "eva", HOME, later) == [0] * at_once + [seconds]

    async def test_a_thousand_at_once_are_counted_too(self, store: Store) -> None:
        tries = await asyncio.gather(*(waits(store, "eva", HOME) for _ in range(1000)))
        assert tries.count(0) == PAIR[0]

    async def test_right_passwords_cost_nothing(self, store: Store) -> None:
        for _ in range(3 * max(PAIR[0], ADDRESS[0], USER[0])):
            assert await waits(store, "eva", HOME) == 0
            await store.guesses.right("eva", HOME, now=NOW)

    async def test_what_could_not_be_tried_costs_nothing(self, store: Store) -> None:
        for _ in range(3 * USER[0]):
            assert await waits(store, "eva", HOME) == 0
            await store.guesses.give_back("eva", HOME, now=NOW)

    async def test_one_address_trying_many_users_is_slowed(self, store: Store) -> None:
        at_once, seconds = ADDRESS
        told = [await waits(store, f"user{n}", HOME) for n in range(at_once + 3)]
        assert told == [0] * at_once + [seconds] * 3
        assert await waits(store, "user1", ELSEWHERE) == 0

    async def test_logging_in_oneself_buys_no_guesses_at_others(self, store: Store) -> None:
        for n in range(ADDRESS[0]):
            assert await waits(store, "mallory", HOME) == 0
            await store.guesses.right("mallory", HOME, now=NOW)
            assert await waits(store, f"user{n}", HOME) == 0
        assert await waits(store, "eva", HOME) > 0

    async def test_many_addresses_trying_one_user_are_slowed(self, store: Store) -> None:
        at_once, seconds = USER
        told = [await waits(store, "eva", f"203.0.113.{n}") for n in range(at_once + 3)]
        assert told == [0] * at_once + [seconds] * 3

    async def test_strangers_do_not_shut_out_whom_we_know(self, store: Store) -> None:
        """Not from elsewhere, nor from behind the same address."""
        await waits(store, "eva", HOME)
        await store.guesses.right("eva", HOME, now=NOW)
        for n in range(2 * USER[0]):
            await waits(store, "eva", f"203.0.113.{n}", NOW + 60)
            await waits(store, f"user{n}", HOME, NOW + 60)
        assert await waits(store, "eva", ELSEWHERE, NOW + 60) > 0
        assert await waits(store, "adam", HOME, NOW + 60) > 0
        assert await waits(store, "eva", HOME, NOW + 60) == 0

    async def test_an_address_is_known_for_a_month(self, store: Store, raw: Raw) -> None:
        assert not (await store.guesses.try_one("eva", HOME, now=NOW)).known
        await store.guesses.right("eva", HOME, now=NOW)
        assert (await store.guesses.try_one("eva", HOME, now=NOW + KNOWN_SECONDS)).known
        assert not (await store.guesses.try_one("eva", HOME, now=NOW + KNOWN_SECONDS + 1)).known
        assert 0 < await raw("TTL", "{dialer}:known:eva") <= KNOWN_SECONDS
        later = NOW + KNOWN_SECONDS + 1
        for n in range(USER[0]):
            await waits(store, "eva", f"203.0.113.{n}", later)
        assert await waits(store, "eva", HOME, later) > 0

    async def test_redis_forgets_guesses_by_itself(self, store: Store, raw: Raw) -> None:
        for name in ("eva", "x" * 5000, "\n", "a b"):
            await waits(store, name, HOME)
        keys = await raw("KEYS", "{dialer}:guesses:*")
        assert len(keys) == 5  # eva and her pair, "?" and its pair, the address
        assert max(map(len, keys)) < 60
        for key in keys:
            assert 0 < await raw("TTL", key) <= max(seconds for _, seconds in (PAIR, ADDRESS, USER)) * 4


async def test_all_of_it_survives_a_kill_of_redis(redis_server: RealRedis) -> None:
    store = await Store.open(redis_server.url)
    user = await eva(store)
    token = await store.accounts.create_token("ci", (READ,), by="test", now=NOW)
    key = await store.sessions.signing_key(now=NOW)
    session = await store.sessions.open(user, frozenset((READ,)), idle_seconds=IDLE_SECONDS, now=NOW)
    for _ in range(PAIR[0]):
        await waits(store, "eva", HOME)
    redis_server.kill()
    redis_server.start()
    await store.close()
    store = await Store.open(redis_server.url)
    assert await store.accounts.check_password("eva", PASSWORD) == user
    assert await store.accounts.find_token(token, now=NOW)
    assert await store.sessions.signing_key(now=NOW) == key
    assert await store.sessions.refresh(session.refresh_token, idle_seconds=IDLE_SECONDS, now=NOW)
    assert await waits(store, "eva", HOME) > 0
    await store.close()


async def test_checking_a_password_does_not_hold_the_loop(store: Store) -> None:
    """It runs in a worker; meanwhile the loop turns."""
    await eva(store)
    checking = asyncio.create_task(store.accounts.check_password("eva", PASSWORD))
    turns = 0
    while not checking.done():
        await asyncio.sleep(0)
        turns += 1
    assert await checking
    assert turns > 20

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dialer_engine.core.model import Agent, CampaignId, Limit, QueueName, TrunkName
from dialer_engine.core.pacing import AtQueue, CampaignFacts, Plan, QueueFacts, TrunkFacts, plan

NOW = datetime(2026, 8, 10, 12, tzinfo=UTC)
SOON = NOW + timedelta(seconds=7)
CARRIER = TrunkName("carrier")
ROOMY = TrunkFacts(CARRIER, live=0, capacity=10_000)
CAMPAIGN = CampaignFacts(CampaignId(1), CARRIER, priority=10, due=1000, live=0, max_channels=50, open=True)


def plans(
    *campaigns: CampaignFacts,
    trunk: TrunkFacts | None = ROOMY,
    stopped: bool = False,
    draining: bool = False,
    pbx_up: bool = True,
    store_up: bool = True,
) -> list[Plan]:
    trunks = {} if trunk is None else {trunk.name: trunk}
    return plan(
        campaigns, trunks, now=NOW, stopped=stopped, draining=draining, pbx_up=pbx_up, store_up=store_up
    )


@pytest.mark.parametrize(
    ("facts", "trunk", "originate", "limit", "next_at"),
    [
        (CAMPAIGN, ROOMY, 50, Limit.MAX_CHANNELS, None),
        (replace(CAMPAIGN, live=48), ROOMY, 2, Limit.MAX_CHANNELS, None),
        (replace(CAMPAIGN, live=60), ROOMY, 0, Limit.MAX_CHANNELS, None),
        (replace(CAMPAIGN, due=3, next_due_at=SOON), ROOMY, 3, Limit.DIALING, SOON),
        (replace(CAMPAIGN, due=0, next_due_at=SOON), ROOMY, 0, Limit.IDLE, SOON),
        (replace(CAMPAIGN, due=0, live=1), ROOMY, 0, Limit.DIALING, None),
        (replace(CAMPAIGN, open=False, until=SOON), ROOMY, 0, Limit.OUT_OF_PERIOD, SOON),
        (replace(CAMPAIGN, ready=1), ROOMY, 1, Limit.RATE, None),
        (replace(CAMPAIGN, ready=0, ready_at=SOON), ROOMY, 0, Limit.RATE, SOON),
        (replace(CAMPAIGN, due=1, ready=1), ROOMY, 1, Limit.DIALING, None),
        (CAMPAIGN, replace(ROOMY, capacity=100, live=70), 30, Limit.TRUNK_FULL, None),
        (CAMPAIGN, replace(ROOMY, capacity=100, live=110), 0, Limit.TRUNK_FULL, None),
        (CAMPAIGN, replace(ROOMY, tokens=1), 1, Limit.RATE, None),
        (CAMPAIGN, replace(ROOMY, tokens=0, tokens_at=SOON), 0, Limit.RATE, SOON),
        (CAMPAIGN, replace(ROOMY, unheard_room=4), 4, Limit.RATE, None),
        (CAMPAIGN, replace(ROOMY, closed=True, probe_at=SOON), 0, Limit.TRUNK_DOWN, SOON),
        (CAMPAIGN, replace(ROOMY, closed=True, probe_allowed=True), 1, Limit.TRUNK_DOWN, None),
        (replace(CAMPAIGN, due=1), replace(ROOMY, closed=True, probe_allowed=True), 1, Limit.TRUNK_DOWN, None),
        (CAMPAIGN, replace(ROOMY, closed=True, probe_allowed=True, tokens=0), 0, Limit.TRUNK_DOWN, None),
        (CAMPAIGN, None, 0, Limit.TRUNK_DOWN, None),
    ],
)
def test_one_campaign_and_what_binds_it(
    facts: CampaignFacts, trunk: TrunkFacts | None, originate: int, limit: Limit, next_at: datetime | None
) -> None:
    (answer,) = plans(facts, trunk=trunk)
    assert (answer.originate, answer.limit, answer.next_at) == (originate, limit, next_at)


@pytest.mark.parametrize(
    ("answers", "limit"),
    [
        (plans(CAMPAIGN, stopped=True, draining=True, pbx_up=False, store_up=False), Limit.STOPPED),
        (plans(CAMPAIGN, draining=True, pbx_up=False, store_up=False), Limit.DRAINING),
        (plans(CAMPAIGN, pbx_up=False, store_up=False), Limit.REDIS_DOWN),
        (plans(CAMPAIGN, pbx_up=False), Limit.PBX_DOWN),
    ],
)
def test_a_port_that_is_down_means_dial_nothing(answers: list[Plan], limit: Limit) -> None:
    assert [(answer.originate, answer.limit) for answer in answers] == [(0, limit)]


@pytest.mark.parametrize("limit", Limit)
def test_every_limit_has_its_sentence(limit: Limit) -> None:
    facts = replace(CAMPAIGN, next_due_at=SOON, queue=QueueName("green"))
    green = QueueFacts(QueueName("green"), frozenset({Agent("SIP/1")}), waiting=2, logged_in=3)
    at_queues = [
        AtQueue(queue, age, share)
        for queue, age, share in itertools.product((None, green), (None, 1.0, 9.0), (None, 0, 1))
    ]
    trunks = (None, replace(ROOMY, closed=True, last_code="SIP 503", probe_at=SOON))
    for trunk, at_queue in itertools.product(trunks, [None, *at_queues]):
        text = Plan(CampaignId(1), 0, limit, None, facts, trunk, 2, at_queue=at_queue).text
        assert text.endswith(".")
        assert "None" not in text
        assert "{" not in text


def test_the_sentence_says_why_and_when() -> None:
    down = replace(ROOMY, closed=True, last_code="SIP 503", probe_at=SOON)
    assert plans(CAMPAIGN, trunk=down)[0].text == (
        "No call may start: trunk carrier refused the last calls (SIP 503), "
        "the next probe goes out at 2026-08-10T12:00:07+00:00."
    )
    assert plans(replace(CAMPAIGN, live=48))[0].text == "2 calls may start: 48 of 50 channels are in use."
    assert plans(replace(CAMPAIGN, due=1))[0].text == (
        "1 call may start: 1 contact is due; 0 of 50 channels are in use."
    )


def test_inputs_name_what_was_known() -> None:
    inputs = plans(replace(CAMPAIGN, live=48))[0].inputs
    assert (inputs["live"], inputs["maxChannels"], inputs["trunkCapacity"]) == (48, 50, 10_000)
    assert plans(CAMPAIGN, trunk=None)[0].inputs["trunkLive"] is None


def campaign(number: int, priority: int = 10, **changes: int) -> CampaignFacts:
    return replace(CAMPAIGN, id=CampaignId(number), priority=priority, **changes)  # type: ignore[arg-type]


def test_trunk_room_is_shared_by_priority_among_those_with_due_contacts() -> None:
    trunk = replace(ROOMY, capacity=40)
    answers = plans(campaign(1, 30), campaign(2, 10), campaign(3, 60, due=0), trunk=trunk)
    assert [answer.originate for answer in answers] == [30, 10, 0]
    assert [answer.limit for answer in answers] == [Limit.TRUNK_FULL, Limit.TRUNK_FULL, Limit.IDLE]
    assert answers[0].inputs["share"] == 30


def test_what_one_does_not_want_goes_to_the_others() -> None:
    answers = plans(campaign(1, 90, due=5), campaign(2, 10), trunk=replace(ROOMY, capacity=40))
    assert [(answer.originate, answer.limit) for answer in answers] == [
        (5, Limit.DIALING),
        (35, Limit.TRUNK_FULL),
    ]


def test_a_bucket_one_deep_starves_nobody() -> None:
    """A token every 50 ms for a minute, calls that end at once: turns are as the priorities."""
    credits: dict[int, int] = {}
    turns = {1: 0, 2: 0, 3: 0}
    for step in range(1200):
        now = NOW + timedelta(seconds=step / 20)
        facts = [
            replace(campaign(number, priority), credit=credits.get(number, 0))
            for number, priority in ((1, 60), (2, 30), (3, 10))
        ]
        answers = plan(
            facts,
            {CARRIER: replace(ROOMY, tokens=1)},
            now=now,
            stopped=False,
            draining=False,
            pbx_up=True,
            store_up=True,
        )
        assert sum(answer.originate for answer in answers) == 1
        (chosen,) = [answer.campaign for answer in answers if answer.originate]
        turns[chosen] += 1
        credits.update((answer.campaign, answer.credit) for answer in answers)
    assert turns == {1: 720, 2: 360, 3: 120}


def test_whose_turn_it_is_outlasts_a_pass_in_which_nobody_could_have_one() -> None:
    for quiet in (replace(CAMPAIGN, due=0), replace(CAMPAIGN, live=50), replace(CAMPAIGN, open=False)):
        assert plans(replace(quiet, credit=-7))[0].credit == -7
    assert plans(replace(CAMPAIGN, credit=-7), trunk=replace(ROOMY, capacity=0))[0].credit == -7


def test_one_probe_for_all_campaigns_of_a_closed_trunk() -> None:
    answers = plans(campaign(1), campaign(2), trunk=replace(ROOMY, closed=True, probe_allowed=True))
    assert sorted(answer.originate for answer in answers) == [0, 1]
    assert {answer.limit for answer in answers} == {Limit.TRUNK_DOWN}


def test_trunks_are_apart() -> None:
    other = replace(campaign(2), trunk=TrunkName("other"))
    answers = plan(
        [campaign(1), other],
        {CARRIER: replace(ROOMY, capacity=3), TrunkName("other"): replace(ROOMY, name=TrunkName("other"))},
        now=NOW,
        stopped=False,
        draining=False,
        pbx_up=True,
        store_up=True,
    )
    assert [answer.originate for answer in answers] == [3, 50]


facts_lists = st.lists(
    st.builds(
        CampaignFacts,
        id=st.integers(1, 10**6).map(CampaignId),
        trunk=st.sampled_from([CARRIER, TrunkName("other"), TrunkName("missing")]),
        priority=st.integers(1, 100),
        due=st.integers(0, 200),
        live=st.integers(0, 60),
        max_channels=st.integers(1, 60),
        open=st.booleans(),
        ready=st.none() | st.integers(0, 3),
        credit=st.integers(-2000, 2000),
    ),
    unique_by=lambda facts: facts.id,
    max_size=20,
)


@given(
    facts=facts_lists,
    capacity=st.integers(0, 300),
    tokens=st.none() | st.integers(0, 5),
    closed=st.booleans(),
    probe=st.booleans(),
)
def test_no_pass_exceeds_any_limit(
    facts: list[CampaignFacts], capacity: int, tokens: int | None, closed: bool, probe: bool
) -> None:
    carrier = TrunkFacts(CARRIER, 20, capacity, tokens, closed=closed, probe_allowed=probe)
    trunks = {CARRIER: carrier, TrunkName("other"): TrunkFacts(TrunkName("other"), 0, 40)}
    answers = plan(facts, trunks, now=NOW, stopped=False, draining=False, pbx_up=True, store_up=True)
    assert [answer.campaign for answer in answers] == [each.id for each in facts]
    for answer, each in zip(answers, facts, strict=True):
        assert 0 <= answer.originate <= max(0, min(each.due, each.max_channels - each.live))
        assert each.ready is None or answer.originate <= each.ready
        assert each.open or not answer.originate
        assert answer.text
        if answer.limit is Limit.DIALING:
            assert answer.originate == each.due
    on = {name: sum(a.originate for a in answers if a.facts.trunk == name) for name in (*trunks, "missing")}
    assert on["missing"] == 0
    assert on["other"] <= 40
    assert on[CARRIER] <= max(0, capacity - 20)
    assert tokens is None or on[CARRIER] <= tokens
    assert not closed or on[CARRIER] <= int(probe)

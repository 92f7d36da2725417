"""Campaigns that dial for the agents of queues."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from math import ceil, floor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dialer_engine.core.model import Agent, CampaignId, Endpoint, EndpointType, Limit, QueueName, TrunkName
from dialer_engine.core.pacing import (
    CampaignFacts,
    Plan,
    QueueFacts,
    TrunkFacts,
    agents_for,
    boost_factor,
    plan,
    warranted_calls,
)

NOW = datetime(2026, 8, 10, 12, tzinfo=UTC)
SOON = NOW + timedelta(seconds=7)
CARRIER, OTHER = TrunkName("carrier"), TrunkName("other")
ROOMY = TrunkFacts(CARRIER, live=0, capacity=10_000)
GREEN, BLUE, RED = QueueName("green"), QueueName("blue"), QueueName("red")


def agents(names: Iterable[object]) -> frozenset[Agent]:
    return frozenset(Agent(str(name)) for name in names)


FIVE = QueueFacts(GREEN, agents("abcde"), waiting=0, logged_in=9, next_free_at=SOON)
CAMPAIGN = CampaignFacts(
    CampaignId(1),
    CARRIER,
    priority=10,
    due=1000,
    live=0,
    max_channels=50,
    open=True,
    endpoint=EndpointType.QUEUE,
    queue=GREEN,
)


def campaign(number: int, **changes: object) -> CampaignFacts:
    return replace(CAMPAIGN, id=CampaignId(number), **changes)  # type: ignore[arg-type]


def plans(
    campaigns: Sequence[CampaignFacts],
    *queues: QueueFacts,
    trunks: Sequence[TrunkFacts] = (ROOMY, replace(ROOMY, name=OTHER)),
    age: float | None = 1.0,
) -> list[Plan]:
    return plan(
        campaigns,
        {trunk.name: trunk for trunk in trunks},
        now=NOW,
        stopped=False,
        draining=False,
        pbx_up=True,
        store_up=True,
        queues={queue.name: queue for queue in queues},
        queue_age_seconds=age,
    )


def boosted(text: str, **changes: object) -> CampaignFacts:
    return campaign(1, boost_factor=Decimal(text), **changes)


# --- one campaign, one queue


@pytest.mark.parametrize(
    ("facts", "queue", "age", "originate", "limit", "next_at"),
    [
        (CAMPAIGN, FIVE, 1.0, 5, Limit.WAITING_AGENTS, SOON),
        (boosted("1.4"), FIVE, 1.0, 7, Limit.WAITING_AGENTS, SOON),
        (boosted("1.3"), FIVE, 1.0, 6, Limit.WAITING_AGENTS, SOON),
        (boosted("0.5"), FIVE, 1.0, 2, Limit.WAITING_AGENTS, SOON),
        (boosted("0.1"), FIVE, 1.0, 0, Limit.WAITING_AGENTS, SOON),
        (boosted("1.4", unserved=3), FIVE, 1.0, 4, Limit.WAITING_AGENTS, SOON),
        (boosted("1.4", unserved=7), FIVE, 1.0, 0, Limit.WAITING_AGENTS, SOON),
        (boosted("1.4", unserved=12), FIVE, 1.0, 0, Limit.WAITING_AGENTS, SOON),
        (
            boosted("1.4", max_channels=70),
            replace(FIVE, agents=agents(range(45))),
            1.0,
            63,
            Limit.WAITING_AGENTS,
            SOON,
        ),
        (CAMPAIGN, replace(FIVE, agents=agents("")), 1.0, 0, Limit.WAITING_AGENTS, SOON),
        (CAMPAIGN, replace(FIVE, next_free_at=None), 1.0, 5, Limit.WAITING_AGENTS, None),
        # The view of the queues
        (CAMPAIGN, FIVE, 3.0, 5, Limit.WAITING_AGENTS, SOON),
        (CAMPAIGN, FIVE, 3.01, 0, Limit.STALE_QUEUE_DATA, None),
        (CAMPAIGN, FIVE, None, 0, Limit.STALE_QUEUE_DATA, None),
        (CAMPAIGN, replace(FIVE, name=BLUE), 1.0, 0, Limit.STALE_QUEUE_DATA, None),
        (campaign(1, queue=None), FIVE, 1.0, 0, Limit.STALE_QUEUE_DATA, None),
        # Callers who wait
        (CAMPAIGN, replace(FIVE, waiting=1), 1.0, 5, Limit.WAITING_AGENTS, SOON),
        (CAMPAIGN, replace(FIVE, waiting=2), 1.0, 0, Limit.QUEUE_FULL, None),
        (campaign(1, max_waiting_calls=0), replace(FIVE, waiting=0), 1.0, 5, Limit.WAITING_AGENTS, SOON),
        (campaign(1, max_waiting_calls=0), replace(FIVE, waiting=1), 1.0, 0, Limit.QUEUE_FULL, None),
        (CAMPAIGN, replace(FIVE, waiting=2, agents=agents("")), 1.0, 0, Limit.QUEUE_FULL, None),
        # What is tighter than the agents
        (campaign(1, due=3, next_due_at=SOON), FIVE, 1.0, 3, Limit.DIALING, SOON),
        (campaign(1, due=5), FIVE, 1.0, 5, Limit.DIALING, None),
        (campaign(1, live=46), FIVE, 1.0, 4, Limit.MAX_CHANNELS, None),
        (campaign(1, ready=2), FIVE, 1.0, 2, Limit.RATE, None),
        (campaign(1, ready=0), replace(FIVE, agents=agents("")), 1.0, 0, Limit.WAITING_AGENTS, SOON),
        # What is not asked then
        (campaign(1, due=0), FIVE, None, 0, Limit.IDLE, None),
        (campaign(1, due=0, live=2), replace(FIVE, waiting=9), 1.0, 0, Limit.DIALING, None),
        (campaign(1, open=False, until=SOON), FIVE, None, 0, Limit.OUT_OF_PERIOD, SOON),
    ],
)
def test_one_campaign_and_what_binds_it(
    *,
    facts: CampaignFacts,
    queue: QueueFacts,
    age: float | None,
    originate: int,
    limit: Limit,
    next_at: datetime | None,
) -> None:
    (answer,) = plans([facts], queue, age=age)
    assert (answer.originate, answer.limit, answer.next_at) == (originate, limit, next_at)


@pytest.mark.parametrize(
    ("trunk", "originate", "limit"),
    [
        (replace(ROOMY, capacity=3), 3, Limit.TRUNK_FULL),
        (replace(ROOMY, capacity=5), 5, Limit.WAITING_AGENTS),
        (replace(ROOMY, capacity=0), 0, Limit.TRUNK_FULL),
        (replace(ROOMY, tokens=1), 1, Limit.RATE),
        (replace(ROOMY, closed=True), 0, Limit.TRUNK_DOWN),
        (replace(ROOMY, closed=True, probe_allowed=True), 1, Limit.TRUNK_DOWN),
    ],
)
def test_a_trunk_binds_where_it_is_tighter_than_the_agents(
    trunk: TrunkFacts, originate: int, limit: Limit
) -> None:
    (answer,) = plans([CAMPAIGN], FIVE, trunks=[trunk])
    assert (answer.originate, answer.limit) == (originate, limit)


@pytest.mark.parametrize(
    ("facts", "queue", "age", "text"),
    [
        (
            boosted("1.4", unserved=3),
            FIVE,
            1.0,
            "4 calls may start: 5 agents are available in queue green; boostFactor 1.4 allows 7 calls for them, "
            "and 3 are under way.",
        ),
        (
            boosted("1.0", unserved=1),
            replace(FIVE, agents=agents("a")),
            1.0,
            "No call may start: 1 agent is available in queue green; boostFactor 1 allows 1 call for them, "
            "and 1 is under way.",
        ),
        (
            CAMPAIGN,
            replace(FIVE, agents=agents("")),
            1.0,
            "No call may start: all 9 agents logged in to queue green are busy, paused or wrapping up.",
        ),
        (
            CAMPAIGN,
            replace(FIVE, agents=agents(""), logged_in=1),
            1.0,
            "No call may start: the only agent logged in to queue green is busy, paused or wrapping up.",
        ),
        (
            CAMPAIGN,
            replace(FIVE, agents=agents(""), logged_in=0),
            1.0,
            "No call may start: nobody is logged in to queue green.",
        ),
        (
            CAMPAIGN,
            replace(FIVE, waiting=4),
            1.0,
            "No call may start: 4 callers wait in queue green, and nothing is dialed while 2 or more do.",
        ),
        (
            CAMPAIGN,
            FIVE,
            4.21,
            "No call may start: AMI has not answered for 4.2 s, and no view of the queues is trusted after 3 s.",
        ),
        (
            CAMPAIGN,
            FIVE,
            None,
            "No call may start: there is no exact view of the queues, as long as AMI is not connected and in step.",
        ),
        (campaign(1, queue=BLUE), FIVE, 0.2, "No call may start: Asterisk has no queue blue."),
    ],
)
def test_the_sentence_has_the_figures(
    facts: CampaignFacts, queue: QueueFacts, age: float | None, text: str
) -> None:
    assert plans([facts], queue, age=age)[0].text == text


def test_the_sentence_names_the_share() -> None:
    first, second, third = plans(
        [campaign(1, priority=30), campaign(2), campaign(3, due=0)], replace(FIVE, agents=agents("abcd"))
    )
    assert first.text == (
        "3 calls may start: 4 agents are available in queue green, 3 of them for this campaign by its share; "
        "boostFactor 1 allows 3 calls for them, and none is under way."
    )
    assert second.inputs["agentShare"] == 1
    assert third.inputs["agentShare"] == 0
    waiting = plans([campaign(1, unserved=5), campaign(2)], FIVE)[1]
    assert waiting.text == (
        "No call may start: 5 agents are available in queue green, and it is the turn of other campaigns, "
        "or their calls are on the way."
    )


def test_inputs_have_the_queue_s_figures_and_are_json() -> None:
    queue = replace(FIVE, waiting=1, in_call=2, paused=1, wrapping_up=1)
    (answer,) = plans([boosted("1.4", unserved=3)], queue, age=0.12345)
    expected = {
        "queue": "green",
        "available": 5,
        "loggedIn": 9,
        "inCall": 2,
        "paused": 1,
        "wrappingUp": 1,
        "unserved": 3,
        "boostFactor": 1.4,
        "agentShare": 5,
        "waiting": 1,
        "maxWaitingCalls": 2,
        "queueAge": 0.123,
    }
    assert json.loads(json.dumps(answer.inputs)).items() >= expected.items()
    (stale,) = plans([CAMPAIGN], age=None)
    assert {stale.inputs[name] for name in ("available", "loggedIn", "agentShare", "waiting", "queueAge")} == {
        None
    }
    halted = plan(
        [CAMPAIGN],
        {},
        now=NOW,
        stopped=True,
        draining=False,
        pbx_up=True,
        store_up=True,
        queues={GREEN: FIVE},
        queue_age_seconds=1.0,
    )[0]
    assert (halted.limit, halted.inputs["available"], halted.inputs["agentShare"]) == (Limit.STOPPED, 5, None)
    (phone,) = plans([campaign(1, endpoint=EndpointType.PHONE)], FIVE)
    assert not phone.inputs.keys() & expected.keys()


def test_a_campaign_that_looks_ahead_begins_with_one_call_for_one_agent() -> None:
    assert boost_factor(Endpoint(EndpointType.QUEUE, "green", boost_factor="3.5")) == Decimal("3.5")
    assert boost_factor(Endpoint(EndpointType.QUEUE, "green", boost_factor="3.5", pacing="predictive")) == 1


boosts = st.decimals("0.01", "5", places=2) | st.sampled_from([Decimal(1), Decimal("1.4"), Decimal("1e-9")])


@given(agents=st.integers(0, 10**6), boost=boosts)
def test_calls_and_agents_are_counted_without_rounding(agents: int, boost: Decimal) -> None:
    calls = warranted_calls(agents, boost)
    assert calls == floor(agents * Fraction(boost))
    needed = agents_for(calls, boost)
    assert needed == ceil(calls / Fraction(boost))
    assert needed <= agents
    assert warranted_calls(needed, boost) == calls


@given(
    available=st.integers(0, 60),
    boost=boosts,
    unserved=st.integers(0, 80),
    due=st.integers(1, 90),
    live=st.integers(0, 20),
    capacity=st.integers(0, 90),
)
def test_alone_it_is_the_formula_to_the_letter(
    *, available: int, boost: Decimal, unserved: int, due: int, live: int, capacity: int
) -> None:
    facts = campaign(1, boost_factor=boost, unserved=unserved, due=due, live=live)
    queue = replace(FIVE, agents=agents(range(available)))
    (answer,) = plans([facts], queue, trunks=[replace(ROOMY, capacity=capacity)])
    room = min(due, 50 - live, capacity)
    assert answer.originate == max(0, min(floor(available * Fraction(boost)) - unserved, room))


# --- several campaigns


def test_agents_of_a_queue_are_shared_by_priority() -> None:
    eight = replace(FIVE, agents=agents("abcdefgh"))
    answers = plans([campaign(1, priority=20), campaign(2, priority=10)], eight)
    assert [(answer.originate, answer.limit) for answer in answers] == [
        (5, Limit.WAITING_AGENTS),
        (3, Limit.WAITING_AGENTS),
    ]


def test_what_is_under_way_is_part_of_the_share() -> None:
    eight = replace(FIVE, agents=agents("abcdefgh"))
    answers = plans([campaign(1, unserved=2), campaign(2)], eight)
    assert [answer.originate for answer in answers] == [2, 4]
    answers = plans([campaign(1, unserved=6), campaign(2)], eight)
    assert [answer.originate for answer in answers] == [0, 2]


def test_without_due_contacts_it_holds_only_what_is_under_way() -> None:
    for idle in (
        campaign(1, priority=100, due=0, unserved=2),
        campaign(1, priority=100, open=False, unserved=2),
        campaign(1, priority=100, live=50, unserved=2),
        campaign(1, priority=100, ready=0, unserved=2),
    ):
        assert [answer.originate for answer in plans([idle, campaign(2, priority=1)], FIVE)] == [0, 3]


def test_a_campaign_holds_agents_of_the_queue_that_it_dialed_for_before_as_well() -> None:
    blue = replace(FIVE, name=BLUE, agents=agents("xyz"))
    asking = [campaign(1, queue=BLUE, unserved=1), campaign(2), campaign(1, due=0, unserved=2)]
    assert [answer.originate for answer in plans(asking, FIVE, blue)] == [2, 3, 0]


def test_a_campaign_whose_trunk_has_no_room_takes_no_agents() -> None:
    rich = campaign(1, priority=100, trunk=OTHER)
    poor = campaign(2, priority=1)
    for trunk, given_ in (
        (TrunkFacts(OTHER, 3, 3), [0, 5]),
        (TrunkFacts(OTHER, 0, 2), [2, 3]),
        (TrunkFacts(OTHER, 0, 9, closed=True), [0, 5]),
        (TrunkFacts(OTHER, 0, 9, closed=True, probe_allowed=True), [1, 4]),
    ):
        answers = plans([rich, poor], FIVE, trunks=[ROOMY, trunk])
        assert [answer.originate for answer in answers] == given_
        assert answers[0].limit in {Limit.TRUNK_FULL, Limit.TRUNK_DOWN}


def test_a_full_queue_s_campaign_leaves_the_shared_agents_to_the_other_queue() -> None:
    full = replace(FIVE, waiting=2)
    answers = plans([campaign(1), campaign(2, queue=BLUE)], full, replace(FIVE, name=BLUE))
    assert [(answer.originate, answer.limit) for answer in answers] == [
        (0, Limit.QUEUE_FULL),
        (5, Limit.WAITING_AGENTS),
    ]


def test_whose_turn_it_is_outlasts_a_pass_in_which_nobody_could_have_one() -> None:
    owing = campaign(1, agent_credit=-7)
    for facts, queue, age in (
        (owing, replace(FIVE, agents=agents("")), 1.0),
        (replace(owing, due=0), FIVE, 1.0),
        (owing, replace(FIVE, waiting=9), 1.0),
        (owing, FIVE, None),
    ):
        assert plans([facts], queue, age=age)[0].agent_credit == -7


def fits(queues: Mapping[QueueName, QueueFacts], wanted: Mapping[QueueName, int]) -> bool:
    """Do the agents do for all of it at once? By Hall's theorem: those of every set of queues do."""
    return all(
        sum(wanted[name] for name in names) <= len(frozenset().union(*(queues[name].agents for name in names)))
        for size in range(1, len(wanted) + 1)
        for names in itertools.combinations(wanted, size)
    )


def needs(answers: Sequence[Plan], **more: int) -> dict[QueueName, int]:
    """The agents each plan takes, by queue: for those who start anything, for the others what they hold of them."""
    wanted: dict[QueueName, int] = {}
    for answer in answers:
        facts, at = answer.facts, answer.at_queue
        if at is None or at.queue is None or at.share is None or facts.queue is None:
            continue
        mine = ceil((facts.unserved + answer.originate) / Fraction(facts.boost_factor))
        taken = mine if answer.originate else min(mine, at.share)
        wanted[facts.queue] = wanted.get(facts.queue, 0) + taken + more.get(f"_{facts.id}", 0)
    return wanted


def check(answers: Sequence[Plan], queues: Mapping[QueueName, QueueFacts]) -> None:
    """Never for an agent who is another's, and each plan by its own formula."""
    assert fits(queues, needs(answers))
    for answer in answers:
        facts, at = answer.facts, answer.at_queue
        assert answer.text
        if at is None or at.queue is None or at.share is None:
            continue
        boost = Fraction(facts.boost_factor)
        for count in (at.share, len(at.queue.agents)):
            assert answer.originate <= max(0, floor(count * boost) - facts.unserved)
        if at.share < ceil(facts.unserved / boost):
            assert not answer.originate
            assert not fits(queues, needs(answers, **{f"_{facts.id}": 1})), "somebody dials for whom it holds"


queue_names = st.sampled_from([GREEN, BLUE, RED, QueueName("grey")])


@st.composite
def floors(draw: st.DrawFn) -> dict[QueueName, QueueFacts]:
    members = draw(st.lists(st.frozensets(queue_names, min_size=1, max_size=3), max_size=14))
    return {
        name: QueueFacts(
            name,
            agents(n for n, queues in enumerate(members) if name in queues),
            waiting=draw(st.sampled_from([0, 0, 1, 3])),
            logged_in=len(members),
        )
        for name in sorted(draw(st.sets(queue_names, min_size=1)))
    }


campaign_lists = st.lists(
    st.builds(
        CampaignFacts,
        id=st.integers(1, 10**6).map(CampaignId),
        trunk=st.sampled_from([CARRIER, OTHER]),
        priority=st.integers(1, 100),
        due=st.integers(0, 30),
        live=st.integers(0, 45),
        max_channels=st.just(50),
        open=st.sampled_from([True, True, True, False]),
        ready=st.none() | st.integers(0, 3),
        endpoint=st.sampled_from([EndpointType.QUEUE, EndpointType.QUEUE, EndpointType.PHONE]),
        queue=queue_names,
        boost_factor=st.sampled_from([Decimal(text) for text in ("1", "1.1", "1.4", "2", "3.5", "0.4")]),
        max_waiting_calls=st.integers(0, 3),
        unserved=st.integers(0, 9),
        agent_credit=st.integers(-200, 200),
        credit=st.integers(-200, 200),
    ),
    unique_by=lambda facts: facts.id,
    max_size=9,
)


@given(
    campaigns=campaign_lists,
    queues=floors(),
    capacity=st.integers(0, 40),
    tokens=st.none() | st.integers(0, 5),
    age=st.none() | st.floats(0, 4),
)
def test_no_agent_is_dialed_for_twice(
    campaigns: list[CampaignFacts],
    queues: dict[QueueName, QueueFacts],
    capacity: int,
    tokens: int | None,
    age: float | None,
) -> None:
    trunks = [TrunkFacts(CARRIER, 5, capacity, tokens), replace(ROOMY, name=OTHER)]
    answers = plans(campaigns, *queues.values(), trunks=trunks, age=age)
    check(answers, queues)
    for answer, facts in zip(answers, campaigns, strict=True):
        assert answer.campaign == facts.id
        assert answer.originate <= max(0, min(facts.due, 50 - facts.live))
        if facts.endpoint is EndpointType.QUEUE and answer.originate:
            queue = queues[facts.queue] if facts.queue else None
            assert age is not None
            assert age <= 3
            assert queue is not None
            assert queue.waiting < max(1, facts.max_waiting_calls)
        if answer.limit is Limit.DIALING:
            assert answer.originate == facts.due
    assert sum(a.originate for a in answers if a.facts.trunk == CARRIER) <= max(0, capacity - 5)


@given(campaigns=campaign_lists, queues=floors())
def test_no_agent_is_left_over_for_whom_a_call_could_start(
    campaigns: list[CampaignFacts], queues: dict[QueueName, QueueFacts]
) -> None:
    """With room on the trunks, and where each agent warrants a call."""
    answers = plans(
        [replace(each, boost_factor=max(each.boost_factor, Decimal(1))) for each in campaigns], *queues.values()
    )
    shares: dict[QueueName, int] = {}
    for answer in answers:
        if answer.facts.queue and answer.at_queue and answer.at_queue.share:
            shares[answer.facts.queue] = shares.get(answer.facts.queue, 0) + answer.at_queue.share
    for answer in answers:
        if answer.limit is Limit.WAITING_AGENTS and answer.facts.queue:
            more = shares | {answer.facts.queue: shares.get(answer.facts.queue, 0) + 1}
            assert not fits(queues, more)


@given(campaigns=campaign_lists, queues=floors())
def test_more_priority_in_the_same_queue_never_means_fewer_agents(
    campaigns: list[CampaignFacts], queues: dict[QueueName, QueueFacts]
) -> None:
    """All else being equal, calls under way included: who has to begin takes turns."""
    alike = [
        replace(
            each,
            boost_factor=Decimal(1),
            unserved=1,
            due=9,
            live=0,
            open=True,
            ready=None,
            max_waiting_calls=9,
        )
        for each in campaigns
    ]
    answers = [answer for answer in plans(alike, *queues.values()) if answer.at_queue and answer.at_queue.share]
    for one, other in itertools.permutations(answers, 2):
        if one.facts.queue == other.facts.queue and one.facts.priority > other.facts.priority:
            assert one.at_queue and other.at_queue
            assert (one.at_queue.share or 0) >= (other.at_queue.share or 0)


# --- over many passes


@dataclass
class Call:
    campaign: CampaignId
    queue: QueueName
    ends_at: int
    is_answered: bool


@dataclass
class Centre:
    """Campaigns, queues and agents, pass by pass: a call rings, and an agent of its queue takes it or nobody does."""

    campaigns: list[CampaignFacts]
    members: dict[QueueName, frozenset[Agent]]
    dice: random.Random
    answer_rate: float = 0.4
    talk_passes: int = 30
    ring_passes: int = 8
    under_way: list[Call] = field(default_factory=list)
    busy: dict[Agent, int] = field(default_factory=dict)
    starts: dict[CampaignId, int] = field(default_factory=dict)
    plans: dict[CampaignId, Plan] = field(default_factory=dict)

    def queues(self, at: int) -> dict[QueueName, QueueFacts]:
        return {
            name: QueueFacts(
                name,
                frozenset(agent for agent in members if self.busy.get(agent, 0) <= at),
                waiting=sum(call.queue == name and call.is_answered for call in self.under_way),
                logged_in=len(members),
            )
            for name, members in self.members.items()
        }

    def end_calls(self, at: int) -> None:
        for call in [call for call in self.under_way if call.ends_at <= at]:
            if not call.is_answered and self.dice.random() < self.answer_rate:
                call.is_answered = True
                call.ends_at = at + self.dice.randint(0, 2)
                continue
            free = sorted(self.queues(at)[call.queue].agents) if call.is_answered else []
            if free:
                self.busy[self.dice.choice(free)] = at + self.dice.randint(1, self.talk_passes)
            self.under_way.remove(call)

    def run_pass(self, at: int, trunks: Sequence[TrunkFacts] = (ROOMY,)) -> list[Plan]:
        self.end_calls(at)
        facts = []
        for each in self.campaigns:
            unserved = sum(call.campaign == each.id for call in self.under_way)
            before = self.plans.get(each.id)
            credit, agent_credit = (before.credit, before.agent_credit) if before else (0, 0)
            facts.append(replace(each, unserved=unserved, credit=credit, agent_credit=agent_credit))
        queues = self.queues(at)
        answers = plans(facts, *queues.values(), trunks=trunks)
        check(answers, queues)
        for answer in answers:
            self.plans[answer.campaign] = answer
            self.starts[answer.campaign] = self.starts.get(answer.campaign, 0) + answer.originate
            for _ in range(answer.originate if answer.facts.queue else 0):
                rings = self.dice.randint(1, self.ring_passes)
                self.under_way.append(Call(answer.campaign, answer.facts.queue or GREEN, at + rings, False))
        return answers


@given(
    campaigns=campaign_lists,
    members=st.lists(st.frozensets(queue_names, min_size=1, max_size=3), max_size=10),
    seed=st.integers(0, 2**32),
)
def test_over_many_passes_nobody_is_dialed_for_twice(
    campaigns: list[CampaignFacts], members: list[frozenset[QueueName]], seed: int
) -> None:
    """Agents come, go and pause; the share moves from pass to pass, and what is under way does not."""
    names = [GREEN, BLUE, RED, QueueName("grey")]
    of = {name: agents(n for n, queues in enumerate(members) if name in queues) for name in names}
    centre = Centre(
        [replace(each, endpoint=EndpointType.QUEUE, trunk=CARRIER, live=0) for each in campaigns],
        of,
        random.Random(seed),
    )
    for at in range(25):
        if centre.dice.random() < 0.3 and members:
            centre.busy[Agent(str(centre.dice.randrange(len(members))))] = at + centre.dice.randint(0, 6)
        centre.run_pass(at)


@pytest.mark.parametrize(
    ("priorities", "count", "expected"),
    [
        pytest.param([60, 30, 10], 1, [0.6, 0.3, 0.1], id="one agent goes by turns"),
        pytest.param([50, 50], 1, [0.5, 0.5], id="one agent, half and half"),
        pytest.param([60, 30, 10], 20, [0.6, 0.3, 0.1], id="a room of agents is shared"),
    ],
)
def test_over_a_day_calls_are_as_the_priorities(
    priorities: list[int], count: int, expected: list[float]
) -> None:
    campaigns = [campaign(n, priority=priority) for n, priority in enumerate(priorities, 1)]
    centre = Centre(campaigns, {GREEN: agents(range(count))}, random.Random(7), answer_rate=0.3, talk_passes=20)
    for at in range(6000):
        centre.run_pass(at)
    total = sum(centre.starts.values())
    assert total > 500
    for each, share in zip(campaigns, expected, strict=True):
        assert centre.starts[each.id] / total == pytest.approx(share, abs=0.04)


def test_who_can_begin_nothing_on_his_trunk_starves_nobody() -> None:
    """One agent; the first campaign's trunk has one channel, which another campaign takes again and again."""
    one_channel = TrunkName("one channel")
    campaigns = [
        campaign(1, priority=100, trunk=one_channel),
        campaign(2, priority=1),
        campaign(3, priority=100, trunk=one_channel, endpoint=EndpointType.PHONE, queue=None),
    ]
    centre = Centre(campaigns, {GREEN: agents("a")}, random.Random(3), answer_rate=0.0)
    carried = 0
    for at in range(2000):
        trunks = [ROOMY, TrunkFacts(one_channel, live=int(at < carried), capacity=1)]
        answers = centre.run_pass(at, trunks)
        if answers[0].originate or answers[2].originate:
            carried = at + 5
    assert min(centre.starts.values()) > 20

from __future__ import annotations

import time

import phonenumbers
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dialer_engine.core.compliance import EMERGENCY, Number, NumberPolicy, dial, forbidden, is_of, normalise
from dialer_engine.core.model import NumberFormat, Trunk, TrunkName
from dialer_engine.errors import Invalid

PLAIN = NumberPolicy()
PRAGUE = NumberPolicy(default_region="CZ")
TRUNK = Trunk(TrunkName("carrier"), "PJSIP/${num}@carrier")

ESCAPES = [
    "100&PJSIP/1",
    "${SHELL(id)}",
    "100\n",
    "\n100",
    "100\r\nAction: Originate",
    "1" * 300,
    "1" * 21,
    "1",
    "",
    "+",
    "\u0661\u0662\u0663",  # Arabic digits
    "\uff11\uff12\uff13",  # full-width digits
    "12\u00b2",  # str.isdigit says yes
    "100\0",
    "100,30,g",
    "100@other",
    "100/200",
    "1;x=y",
    "++420777123456",
    "420+777123456",
    "abc",
    "1-800-FLOWERS",
    "777123456 ext. 5",
    "tel:+420777123456",
    "!100",
    "|100",
]


@pytest.mark.parametrize("number", ESCAPES)
def test_nothing_escapes_into_a_dial_string(number: str) -> None:
    with pytest.raises(Invalid):
        dial(TRUNK, number)


@pytest.mark.parametrize("identity", [text for text in ESCAPES if text])
@pytest.mark.parametrize("number_format", ["e164", "digits", "national"])
def test_nor_does_an_identity(identity: str, number_format: NumberFormat) -> None:
    trunk = Trunk(TrunkName("t"), "PJSIP/${num}", number_format=number_format)
    with pytest.raises(Invalid):
        dial(trunk, "777123456", identity=identity)


@pytest.mark.parametrize("number", [text for text in ESCAPES if text != "100/200"])
@pytest.mark.parametrize("policy", [PLAIN, PRAGUE, NumberPolicy(allow_symbols=True)])
def test_nothing_of_the_kind_is_a_number(number: str, policy: NumberPolicy) -> None:
    with pytest.raises(Invalid):
        normalise(number, policy)


@given(st.text(max_size=30))
def test_what_is_dialed_is_spelled_in_a_few_ascii_characters(text: str) -> None:
    for policy in (PLAIN, NumberPolicy(allow_symbols=True), PRAGUE):
        try:
            number = normalise(text, policy)
        except Invalid:
            continue
        endpoint = dial(TRUNK, number.dialed)
        inside = endpoint.removeprefix("PJSIP/").removesuffix("@carrier")
        assert set(inside) <= set("+0123456789*#")
        assert set(number.identity) <= set("+0123456789*#")


@given(st.text("+0123456789*#()-. /&$\n\u0663", max_size=25))
def test_dial_takes_a_number_as_it_is_or_not_at_all(text: str) -> None:
    try:
        assert dial(TRUNK, text) == f"PJSIP/{text}@carrier"
    except Invalid:
        pass
    else:
        assert 2 <= len(text) <= 21
        assert set(text) <= set("+0123456789*#")


@pytest.mark.parametrize(
    ("text", "dialed"),
    [
        ("(+420) 777-123.456", "+420777123456"),
        ("777/123 456", "777123456"),
        ("777\u00a0123\t456", "777123456"),
        ("5001", "5001"),
        ("00420777123456", "00420777123456"),
    ],
)
def test_without_a_region_separators_go_and_the_rest_stays(text: str, dialed: str) -> None:
    assert normalise(text, PLAIN) == Number(text, dialed, dialed)


def test_symbols_only_by_configuration() -> None:
    with pytest.raises(Invalid):
        normalise("*21#", PLAIN)
    assert normalise("*21#", NumberPolicy(allow_symbols=True)).dialed == "*21#"
    assert normalise("*21#", NumberPolicy("CZ", allow_symbols=True)).identity == "*21#"


@pytest.mark.parametrize("text", ["777 123 456", "+420777123456", "00420777123456", "(777) 123-456"])
def test_with_a_region_e164_is_the_identity(text: str) -> None:
    assert normalise(text, PRAGUE).identity == "+420777123456"
    assert normalise(text, PRAGUE).submitted == text


@pytest.mark.parametrize("text", ["777", "77712345678901", "+999123456789", "+4201"])
def test_with_a_region_an_impossible_number_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match=r"possible|short"):
        normalise(text, PRAGUE)


@pytest.mark.parametrize("number", sorted(EMERGENCY))
@pytest.mark.parametrize("dress", ["{}", "+{}", " {} ", "({})", "+ {}"])
@pytest.mark.parametrize("policy", [PLAIN, PRAGUE, NumberPolicy("US", True, True, True)])
def test_emergency_numbers_never_leave(number: str, dress: str, policy: NumberPolicy) -> None:
    with pytest.raises(Invalid):
        normalise(dress.format(number), policy)
    assert forbidden(number, policy) == "emergency numbers are never dialed"
    with pytest.raises(Invalid, match="emergency"):
        dial(TRUNK, number, policy=policy)
    with pytest.raises(Invalid, match="emergency"):
        dial(TRUNK, f"+{number}", policy=policy)


@pytest.mark.parametrize("text", ["1-1-2", "1 1 2", "1.1/2", "112#", "*112", "1*12"])
def test_nor_do_they_in_any_dress(text: str) -> None:
    with pytest.raises(Invalid, match="emergency"):
        normalise(text, NumberPolicy(allow_symbols=True))


def test_further_ones_and_those_of_the_region() -> None:
    assert forbidden("4444", NumberPolicy(emergency=frozenset({"4444"}))) is not None
    assert forbidden("101", PLAIN) is None
    assert forbidden("101", NumberPolicy("UA")) == "emergency numbers are never dialed"
    assert forbidden("9116666666", NumberPolicy("US")) == "emergency numbers are never dialed"
    assert forbidden("+911166666666", NumberPolicy("US")) is None  # India
    assert forbidden("112345678", NumberPolicy("SA")) is None  # Riyadh, though 112 is an emergency number there


def test_a_prefix_cannot_make_an_emergency_number() -> None:
    for dial_string, number in (
        ("PJSIP/9${num}@carrier", "11"),
        ("PJSIP/09${num}@carrier", "11"),
        ("DAHDI/g1/1${num}", "12"),
    ):
        with pytest.raises(Invalid, match="emergency"):
            dial(Trunk(TrunkName("carrier"), dial_string), number)
    assert dial(Trunk(TrunkName("carrier"), "PJSIP/9${num}@carrier"), "12") == "PJSIP/912@carrier"


def test_a_national_format_cannot_make_an_emergency_number() -> None:
    national = Trunk(TrunkName("t"), "PJSIP/${num}@t", number_format="national")
    with pytest.raises(Invalid, match="emergency"):
        dial(national, "777123456", identity="+420112")


@pytest.mark.parametrize(
    ("policy", "text", "reason"),
    [
        (NumberPolicy("GB"), "0909 879 0000", "premium"),
        (NumberPolicy("US"), "900-555-1234", "premium"),
        (NumberPolicy("CZ"), "906 123 456", "premium"),
        (NumberPolicy("CZ"), "1188", "short"),
        (NumberPolicy("CZ"), "14000", "short"),
    ],
)
def test_premium_and_short_numbers_only_if_allowed(policy: NumberPolicy, text: str, reason: str) -> None:
    with pytest.raises(Invalid, match=reason):
        normalise(text, policy)
    allowed = NumberPolicy(policy.default_region, allow_premium=True, allow_short=True)
    assert normalise(text, allowed).submitted == text
    assert normalise(text, PLAIN).submitted == text  # without a region nobody knows


@pytest.mark.parametrize(
    ("number_format", "endpoint"),
    [
        ("as_given", "PJSIP/777123456@t"),
        ("e164", "PJSIP/+420777123456@t"),
        ("digits", "PJSIP/420777123456@t"),
        ("national", "PJSIP/777123456@t"),
    ],
)
def test_the_trunk_decides_how_a_number_is_written(number_format: NumberFormat, endpoint: str) -> None:
    trunk = Trunk(TrunkName("t"), "PJSIP/${num}@t", number_format=number_format)
    assert dial(trunk, "777123456", identity="+420777123456") == endpoint
    short = dial(trunk, "1188", identity="1188")
    assert short == "PJSIP/1188@t"


@pytest.mark.parametrize(
    "trunk",
    [
        Trunk(TrunkName("t"), "PJSIP/carrier"),
        Trunk(TrunkName("t"), "PJSIP/${num}@${num}"),
    ],
)
def test_a_trunk_that_cannot_be_used_is_refused(trunk: Trunk) -> None:
    with pytest.raises(Invalid, match=r"trunks\.t"):
        dial(trunk, "777123456")


@pytest.mark.parametrize(
    ("dial_string", "endpoint"),
    [
        ("Local/${num}@from-internal", "Local/5001@from-internal/n"),
        ("local/${num}", "local/5001/n"),
        ("Local/${num}@from-internal/", "Local/5001@from-internal/n"),
        ("Local/${num}@from-internal/j", "Local/5001@from-internal/jn"),
        ("Local/${num}@from-internal/n", "Local/5001@from-internal/n"),
        ("Local/${num}@from-internal/nj", "Local/5001@from-internal/nj"),
    ],
)
def test_a_local_channel_is_never_optimised_away(dial_string: str, endpoint: str) -> None:
    """Else it would end under its callee's talk with an agent."""
    assert dial(Trunk(TrunkName("t"), dial_string), "5001") == endpoint


@pytest.mark.parametrize("policy", [PLAIN, PRAGUE])
def test_a_number_that_a_table_has_made_a_fraction_of_is_not_another_one(policy: NumberPolicy) -> None:
    """Where one cell of a column is empty, many programs write the others so: a whole list would ring strangers."""
    for text in ("601123456.0", "+420601123456.0", " 601123456.0 "):
        with pytest.raises(Invalid, match="fraction"):
            normalise(text, policy)
    assert normalise("601.123.450", policy).dialed == "601123450"


def number_in(text: str, policy: NumberPolicy) -> str | None:
    try:
        return normalise(text, policy).identity
    except Invalid:
        return None


@given(
    st.sampled_from([None, *sorted(phonenumbers.SUPPORTED_REGIONS)]),
    st.text("0123456789+-/ ()*#", min_size=2, max_size=16),
    st.sampled_from(["", "0", "00", "+", "8", "01"]),
)
def test_a_number_is_known_again_however_it_is_written(region: str | None, text: str, before: str) -> None:
    policy = NumberPolicy(default_region=region, allow_short=True, allow_premium=True)
    identity = number_in(before + text, policy)
    if identity is not None:
        assert is_of(before + text, identity, policy)
    for other in ("+420777123456", "112", text):
        assert is_of(text, other, policy) == (number_in(text, policy) == other)


def test_most_numbers_are_told_apart_at_once() -> None:
    """A page of results looks at thousands of them while the calls wait."""
    others = [str(number) for number in range(601_000_000, 601_010_000)]
    begun = time.process_time()
    assert sum(is_of(other, "+420601001234", PRAGUE) for other in others) == 1
    assert time.process_time() - begun < 0.2, "normalising all of them takes some 0.7 s"

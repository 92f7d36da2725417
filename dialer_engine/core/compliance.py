"""What forbids this number now? And the only way from a number to a dial string.

A dial string is a small program: `&` rings a second telephone, `${...}` runs functions, `/` and `@` choose
another endpoint. So nothing is escaped here; only what is spelled in a handful of ASCII characters goes
through, and `dial` checks again what `normalise` has checked: the database between them has other writers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import phonenumbers
from phonenumbers import PhoneNumber, PhoneNumberFormat, PhoneNumberType, ShortNumberCost

from dialer_engine.core.model import Trunk
from dialer_engine.errors import Invalid, Problem

EMERGENCY: frozenset[str] = frozenset({
    "000", "061", "066", "08", "110", "111", "112", "113", "114", "115", "117", "118", "119", "120", "122",
    "123", "144", "15", "150", "155", "158", "166", "17", "18", "190", "191", "192", "193", "194", "197", "198",
    "199", "911", "991", "992", "993", "994", "995", "996", "997", "998", "999",
})  # fmt: skip
"""The usual emergency numbers of the world. 100 to 108, often a PBX's own extensions, only by region."""

_SEPARATORS = str.maketrans("", "", "()-./ \t\u00a0\u202f")
_FRACTION = re.compile(r"\s*\+?[0-9]+\.0\s*")
"""601123456.0: with the point as a separator it would be somebody else's number, one digit longer."""
_DIGITS = re.compile(r"\+?[0-9]{2,20}")
_DIGITS_AND_SYMBOLS = re.compile(r"\+?[0-9*#]{2,20}")
_PLACE = "${num}"


@dataclass(frozen=True, slots=True)
class NumberPolicy:
    """`[numbers]` of the configuration. Without a region numbers stay as they are given."""

    default_region: str | None = None  # ISO 3166, "CZ"
    allow_symbols: bool = False  # * and #
    allow_premium: bool = False
    allow_short: bool = False
    emergency: frozenset[str] = frozenset()  # further ones: the region's own and EMERGENCY are always known


_NO_REGION = NumberPolicy()


@dataclass(frozen=True, slots=True)
class Number:
    """A number that may be dialed. Repeats and do-not-call go by `identity`: E.164 when a region is set."""

    submitted: str
    dialed: str  # as given, without separators
    identity: str


def normalise(text: str, policy: NumberPolicy) -> Number:
    """The number in `text`. Raises Invalid when it is none, or one that the policy never dials."""
    if _FRACTION.fullmatch(text):
        raise _invalid("this is a fraction: whatever wrote the table took the number for an amount")
    dialed = text.translate(_SEPARATORS)
    allowed = _DIGITS_AND_SYMBOLS if policy.allow_symbols else _DIGITS
    if not allowed.fullmatch(dialed):
        raise _invalid("this is not a telephone number of 2 to 20 digits")
    reason = forbidden(dialed, policy)
    if reason is not None:
        raise _invalid(reason)
    return Number(text, dialed, _identity(dialed, policy))


def is_of(text: str, identity: str, policy: NumberPolicy) -> bool:
    """Is this text the number of that identity? For a look through many: with a region `normalise` takes some 70
    microseconds, and the last digits, which are the same in every way to write a number, tell most apart at once."""
    if text.translate(_SEPARATORS)[-2:] != identity[-2:]:
        return False
    try:
        return normalise(text, policy).identity == identity
    except Invalid:
        return False


def forbidden(number: str, policy: NumberPolicy) -> str | None:
    """Why this number (dialed or identity) is never dialed; None when nothing forbids it."""
    if _is_emergency(number, policy):
        return "emergency numbers are never dialed"
    if policy.default_region is None or not _DIGITS.fullmatch(number):
        return None
    if not policy.allow_premium and _is_premium(number, policy.default_region):
        return "premium-rate numbers are not allowed"
    if not policy.allow_short and _is_short(number, policy.default_region):
        return "short numbers are not allowed"
    return None


def dial(trunk: Trunk, number: str, *, identity: str | None = None, policy: NumberPolicy = _NO_REGION) -> str:
    """The endpoint that Asterisk is told to dial: the number as the trunk writes it, in its dial string.

    `number` is Number.dialed; a trunk whose format is not as_given writes `identity`, where there is one.
    A Local/ channel gets the option n. Raises Invalid for what is not `+?[0-9*#]{2,20}`, for emergency numbers, for a
    trunk with no place for one.
    """
    if trunk.dial_string.count(_PLACE) != 1:
        raise Invalid([Problem(f"trunks.{trunk.name}.dial_string", f"must hold {_PLACE} once")])
    for text in (number, identity or number):
        if not _DIGITS_AND_SYMBOLS.fullmatch(text):
            raise _invalid("this cannot stand in a dial string")
    written = _formatted(number, identity or number, trunk)
    if not _DIGITS_AND_SYMBOLS.fullmatch(written):
        raise _invalid(f"this is no number any more once it is written as {trunk.number_format}")
    if _is_emergency(number, policy) or _is_emergency(written, policy) or _completes(trunk, written, policy):
        raise _invalid("emergency numbers are never dialed")
    endpoint = trunk.dial_string.replace(_PLACE, written)
    return _not_optimised(endpoint) if trunk.is_local else endpoint


def _not_optimised(local: str) -> str:
    """With the option n: without it both halves of the channel end as soon as its callee talks to an agent, and the
    two talk on behind our back."""
    _, _, options = local.partition("/")[2].partition("/")
    if "n" in options:
        return local
    return f"{local}n" if options else f"{local.removesuffix('/')}/n"


def _completes(trunk: Trunk, written: str, policy: NumberPolicy) -> bool:
    """Does the trunk's prefix make an emergency number of an innocent one, as 9 does of 11?"""
    prefix = re.search(r"[0-9]*$", trunk.dial_string.partition(_PLACE)[0])
    digits = prefix[0] if prefix else ""
    wholes = {digits[start:] + written for start in range(len(digits))}
    return not wholes.isdisjoint(EMERGENCY | policy.emergency)


def _invalid(reason: str) -> Invalid:
    return Invalid([Problem("number", reason)])


def _is_emergency(number: str, policy: NumberPolicy) -> bool:
    """An emergency number in any dress: with a plus, with * or # about it, or with more digits behind."""
    digits = re.sub(r"[^0-9]", "", number)
    if digits in EMERGENCY or digits in policy.emergency:
        return True
    region = policy.default_region
    if region is None:
        return False
    return phonenumbers.is_emergency_number(digits, region) or _connects_to_emergency(number, region)


def _connects_to_emergency(number: str, region: str) -> bool:
    if not phonenumbers.connects_to_emergency_number(number, region):
        return False
    parsed = _parse(number, region)
    return parsed is None or not phonenumbers.is_valid_number(parsed)


def _identity(dialed: str, policy: NumberPolicy) -> str:
    region = policy.default_region
    if region is None or not _DIGITS.fullmatch(dialed):
        return dialed
    if _is_short(dialed, region):
        return dialed
    parsed = _parse(dialed, region)
    if parsed is None or not phonenumbers.is_possible_number(parsed):
        raise _invalid(f"this is not a possible telephone number in {region}")
    return phonenumbers.format_number(parsed, PhoneNumberFormat.E164)


def _parse(number: str, region: str) -> PhoneNumber | None:
    try:
        return phonenumbers.parse(number, region)
    except phonenumbers.NumberParseException:
        return None


def _is_premium(number: str, region: str) -> bool:
    parsed = _parse(number, region)
    if parsed is None:
        return False
    if phonenumbers.number_type(parsed) == PhoneNumberType.PREMIUM_RATE:
        return True
    cost = phonenumbers.expected_cost_for_region(parsed, region)
    return bool(cost == ShortNumberCost.PREMIUM_RATE)


def _is_short(number: str, region: str) -> bool:
    """Too short for an ordinary number of the region, and long enough for a short one."""
    parsed = _parse(number, region)
    if parsed is None or phonenumbers.is_possible_number(parsed):
        return False
    return phonenumbers.is_possible_short_number_for_region(parsed, region)


def _formatted(number: str, identity: str, trunk: Trunk) -> str:
    """In the trunk's `number_format`; a number that is not E.164 is dialed as it is."""
    match trunk.number_format:
        case "as_given":
            return number
        case "e164":
            return identity
        case "digits":
            return identity.removeprefix("+")
        case "national":
            return _national(identity)


def _national(number: str) -> str:
    """As one dials it within its own country, digits alone."""
    if not number.startswith("+"):
        return number
    parsed = _parse(number, "ZZ")
    if parsed is None:
        return number
    return re.sub(r"[^0-9]", "", phonenumbers.format_number(parsed, PhoneNumberFormat.NATIONAL))

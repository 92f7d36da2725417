"""Texts with `{name}` in them, and what of them may become an Asterisk media URI.

An attribute is hostile: whoever fills a call list is not who wrote the flow. A value that does not fit its
place is not bent until it fits (an amount without its point is another amount): the medium is left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable

MAX_TEXT = 1000  # characters of a text with its names filled in; what is longer is cut
MAX_MEDIUM = 200
SPELT = ("number:", "digits:", "characters:")

_NAME = re.compile(r"\{([A-Za-z0-9_]{1,40})\}")
_FILE = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*")
_FILE_PART = re.compile(r"[A-Za-z0-9_-]+")
_NUMBER = re.compile(r"-?[0-9]{1,9}")
_DIGITS = re.compile(r"[0-9*#]{1,60}")
_CHARACTERS = re.compile(r"[A-Za-z0-9 .@*#+=/!$-]{1,100}")
_TONE = re.compile(r"[A-Za-z0-9_,/*+!.-]{1,120}(;tonezone=[a-z]{2,10})?")

_WHOLE = {
    "sound": _FILE,
    "recording": _FILE,
    "number": _NUMBER,
    "digits": _DIGITS,
    "characters": _CHARACTERS,
    "tone": _TONE,
}
_LATER = {
    "prompt": "uploaded prompts are not supported yet; use sound: or recording:",
    "text": "spoken text is not supported yet; use sound: or recording:",
}


def fill(text: str, look: Callable[[str], str]) -> str:
    """The text with every `{name}` replaced by what `look` says. What is put in is not looked at again."""
    return _NAME.sub(lambda found: look(found[1]), text)[:MAX_TEXT]


def text_problem(text: str) -> str | None:
    """Why this text of a flow cannot be used."""
    rest = _NAME.sub("", text)
    if "{" in rest or "}" in rest:
        return "has a { or } that is not part of a {name} of up to 40 letters, digits and _"
    if any(not char.isprintable() and char != "\n" for char in rest):
        return "has a character that cannot be printed"
    return None


def medium_problem(uri: str) -> str | None:
    """Why this medium of a flow can never be played."""
    scheme, colon, rest = uri.partition(":")
    if scheme in _LATER and colon:
        return _LATER[scheme]
    if scheme not in _WHOLE or not colon:
        return f"begins with none of {', '.join(f'{each}:' for each in _WHOLE)}"
    if len(uri) > MAX_MEDIUM:
        return f"is longer than {MAX_MEDIUM} characters"
    if scheme == "tone" and _NAME.search(rest):
        return "a tone takes no {name}"
    fits = _WHOLE[scheme].fullmatch(_NAME.sub("1", rest))
    return text_problem(uri) or (None if fits else _EXPECTED[scheme])


_EXPECTED = {
    "sound": "is not the name of a sound: letters, digits, _ - . and /, relative to the sounds, without ..",
    "recording": "is not the name of a recording: letters, digits, _ - . and /, without ..",
    "number": "is not a whole number of at most nine digits",
    "digits": "has something else than digits, * and #",
    "characters": "has a character that cannot be spelt",
    "tone": "is not the name of a tone or a list of frequencies",
}


def medium(uri: str, look: Callable[[str], str]) -> str | None:
    """The URI with its names filled in, or None when what came in would make it unusable or another one."""
    scheme, _, rest = uri.partition(":")
    values = [_fitting(scheme, look(name)) for name in _NAME.findall(rest)]
    if None in values:
        return None
    filled = _NAME.sub(lambda _: str(values.pop(0)), rest)
    return f"{scheme}:{filled}" if _WHOLE[scheme].fullmatch(filled) and len(filled) <= MAX_MEDIUM else None


def _fitting(scheme: str, value: str) -> str | None:
    if scheme in ("sound", "recording"):
        return value if _FILE_PART.fullmatch(value) else None
    if scheme == "digits":  # a telephone number as people write it
        return re.sub(r"[ ()./+-]", "", value)
    if scheme == "characters":
        return re.sub(r"[^A-Za-z0-9 .@*#+=/!$-]", "", value)
    return value.strip()

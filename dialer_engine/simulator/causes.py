"""Hang-up causes (Q.850), the SIP codes they are made of, and what Asterisk calls them.

Sources: Asterisk 22's res_pjsip.c (ast_sip_hangup_sip2cause), chan_pjsip.c (hangup_cause2sip), channel.c (causes),
dial.c (ast_hangup_cause_to_dial_status).
"""

from __future__ import annotations

CAUSE_OF = {
    401: 21, 403: 21, 404: 1, 405: 127, 406: 58, 407: 21, 408: 18, 409: 41, 410: 22, 413: 127, 414: 127, 415: 79,
    420: 3, 480: 19, 481: 127, 482: 127, 483: 19, 484: 28, 485: 1, 486: 17, 487: 127, 488: 58, 491: 127, 493: 127,
    500: 38, 501: 29, 502: 27, 503: 34, 504: 102, 505: 127, 580: 127, 600: 17, 603: 21, 604: 1, 606: 58,
}  # fmt: skip
"""Of a rejection by this code; see `cause_of`."""

STATUS_OF = {17: "BUSY", 34: "CONGESTION", 3: "CHANUNAVAIL", 20: "CHANUNAVAIL"}
"""The status of a Dial that failed; every other cause is NOANSWER."""

TEXTS = {
    0: "Unknown", 1: "Unallocated (unassigned) number", 3: "No route to destination", 16: "Normal Clearing",
    17: "User busy", 18: "No user responding", 19: "User alerting, no answer", 20: "Subscriber absent",
    21: "Call Rejected", 22: "Number changed", 26: "Answered elsewhere", 27: "Destination out of order",
    28: "Invalid number format", 29: "Facility rejected", 31: "Normal, unspecified",
    34: "Circuit/channel congestion", 38: "Network out of order", 41: "Temporary failure",
    42: "Switching equipment congestion", 44: "Requested channel not available",
    58: "Bearer capability not available", 79: "Facility not implemented", 88: "Incompatible destination",
    102: "Recover on timer expiry", 127: "Interworking, unspecified",
}  # fmt: skip

_CODE_OF = {
    1: 404, 2: 404, 3: 404, 17: 486, 18: 408, 19: 480, 20: 480, 21: 403, 22: 410, 27: 502, 28: 484, 29: 501,
    31: 480, 34: 503, 38: 500, 42: 503, 44: 503, 58: 488, 127: 500,
}  # fmt: skip

REASONS = {
    "normal": 16, "busy": 17, "congestion": 34, "no_answer": 19, "timeout": 18, "rejected": 21, "unallocated": 1,
    "normal_unspecified": 31, "number_incomplete": 28, "codec_mismatch": 58, "interworking": 127, "failure": 38,
    "answered_elsewhere": 26,
}  # fmt: skip
"""Of a DELETE of a channel."""


def cause_of(sip_code: int) -> int:
    """The cause that a rejection by this code becomes."""
    return CAUSE_OF.get(sip_code, 34 if 500 <= sip_code < 600 else 127)


def status_of(cause: int) -> str:
    """What the last Dial event calls it."""
    return STATUS_OF.get(cause, "NOANSWER")


def text_of(cause: int) -> str:
    return TEXTS.get(cause, "Unknown")


def invented_code(cause: int) -> int | None:
    """The SIP code that Asterisk makes up when we hang up before the callee's side has said one."""
    return _CODE_OF.get(cause)

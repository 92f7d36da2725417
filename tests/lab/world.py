"""The world's side of a call: the callees' dialplan and what they write down about each call."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from .asterisk import LabError


@dataclass(frozen=True)
class WorldCall:
    """One INVITE as the callee saw it; times are epoch seconds to the millisecond, None when it never was."""

    key: str  # the SIP Call-ID: unique for each INVITE, also when a number is called twice
    number: str  # the last twelve digits, by which the callee behaves
    dialled: str  # as it came in the INVITE
    caller_id: str
    invited_at: float
    ringing_at: float | None = None  # the first 180
    progress_at: float | None = None  # early media
    answered_at: float | None = None
    rejected_at: float | None = None
    rejected_by: int | None = None  # the SIP code
    keys: tuple[tuple[str, float], ...] = ()  # each key with its instant
    ended_at: float | None = None
    ended_by: Literal["world", "pbx"] | None = None
    attempt: str | None = None  # of a telephone: what the PBX said it is for (X-Dialer-Attempt)
    asked_to_answer: bool = False  # of a telephone: by Call-Info

    @property
    def duration(self) -> float | None:
        """From the answer to the end."""
        if self.answered_at is None or self.ended_at is None:
            return None
        return self.ended_at - self.answered_at


class WorldLog:
    """The file to which the world appends; read anew only as far as it has grown."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0
        self._rest = b""
        self._calls: dict[str, WorldCall] = {}
        self._callers: dict[str, WorldCall] = {}  # who calls in
        self._reading = threading.Lock()  # tests wait for calls in threads

    def calls(self) -> list[WorldCall]:
        """Every call so far, in the order of their INVITEs."""
        with self._reading:
            self._read()
            return sorted(self._calls.values(), key=lambda call: (call.invited_at, call.key))

    def callers(self) -> list[WorldCall]:
        """Who has called in and been answered by the PBX, `dialled` what they dialled, oldest first."""
        with self._reading:
            self._read()
            return sorted(self._callers.values(), key=lambda call: (call.invited_at, call.key))

    def _read(self) -> None:
        with self.path.open("rb") as file:
            file.seek(self._offset)
            fresh = file.read()
        self._offset += len(fresh)
        *lines, self._rest = (self._rest + fresh).split(b"\n")
        for line in lines:
            self._note(line.decode(errors="replace"))

    def of(self, number: str | None) -> list[WorldCall]:
        """Those to one number; None: every one."""
        return [call for call in self.calls() if number is None or call.number == number[-12:]]

    def wait_for(self, number: str, condition: Callable[[WorldCall], bool], timeout: float) -> WorldCall:
        """The last call to a number, as soon as it exists and fulfils the condition."""
        deadline = time.monotonic() + timeout
        while True:
            calls = self.of(number)
            if calls and condition(calls[-1]):
                return calls[-1]
            if time.monotonic() > deadline:
                raise LabError(f"the world waited in vain for {number}: {calls}")
            time.sleep(0.02)

    def _note(self, line: str) -> None:
        fields = line.split("|")
        if len(fields) < 3:
            return
        key, event, at, details = fields[0], fields[1], float(fields[2]), fields[3:]
        if event == "INVITE":
            self._calls[key] = WorldCall(
                key=key, number=details[0][-12:], dialled=details[0], caller_id=details[1], invited_at=at
            )
        elif event == "CALLS":
            self._callers[key] = WorldCall(
                key=key, number="", dialled=details[0], caller_id=details[1], invited_at=at, answered_at=at
            )
        else:
            calls = self._callers if key in self._callers else self._calls
            if key in calls:
                calls[key] = _after(calls[key], event, at, details)


def _after(call: WorldCall, event: str, at: float, details: Sequence[str]) -> WorldCall:
    """The call with one more event in it."""
    match event:
        case "RINGING":
            call = replace(call, ringing_at=call.ringing_at or at)
        case "PROGRESS":
            call = replace(call, progress_at=call.progress_at or at)
        case "ANSWER":
            call = replace(call, answered_at=at)
        case "REJECT":
            call = replace(call, rejected_at=at, rejected_by=int(details[0]))
        case "KEY":
            call = replace(call, keys=(*call.keys, (details[0], at)))
        case "TELEPHONE":
            call = replace(call, attempt=details[0] or None, asked_to_answer=details[1] == "1")
        case "HANGUP":
            call = replace(call, ended_at=at, ended_by="world" if details[0] == "world" else "pbx")
    return call


def now() -> float:
    """The clock by which the world stamps; both Asterisks and the tests share the machine's."""
    return time.time()


def dialplan(log: Path, heard: Path) -> str:
    """The callees. FILE() appends a line with one write, which is cheap and never interleaves.

    `heard` is the directory of what some of them hear: NUMBER.sln, 16-bit samples, 8000 a second.
    """
    return _DIALPLAN.replace("@LOG@", str(log)).replace("@HEARD@", str(heard))


# `GoSub(log,s,1(EVENT,detail))` stamps and writes. Each wait after the answer is shortened by what Answer()
# itself took, since it waits up to 500 ms for the caller's first audio.
_DIALPLAN = """[general]
static = yes
writeprotect = yes

[from-pbx]
exten => _[+*0-9].,1,Set(NUMBER=${EXTEN:-12})
 same => n,Set(KEY=${CHANNEL(pjsip,call-id)})
 same => n,Set(FILE(@LOG@,,,al,u)=${KEY}|INVITE|${STRFTIME(,,%s.%3q)}|${EXTEN}|${CALLERID(num)})
 same => n,Set(CHANNEL(hangup_handler_push)=ended,s,1)
 same => n,Set(ENDER=pbx)
 same => n,GotoIf($[${LEN(${NUMBER})} < 12]?short,1)
 same => n,Set(BROKEN=${GLOBAL(CARRIER${EXTEN:0:-12})})
 same => n,GotoIf($["${BROKEN}" != ""]?broken,1)
 same => n,Set(RING=$[${NUMBER:1:2} / 10])
 same => n,Set(DETAIL=${NUMBER:3:3})
 same => n,Goto(callee,${NUMBER:0:1},1)
exten => short,1,Goto(telephone,${NUMBER},1)
exten => broken,1,GoSub(log,s,1(REJECT,${BROKEN}))
 same => n,Set(ENDER=world)
 same => n,PJSIPHangup(${BROKEN})

[log]
exten => s,1,Set(FILE(@LOG@,,,al,u)=${KEY}|${ARG1}|${STRFTIME(,,%s.%3q)}|${ARG2})
 same => n,Return()

[ended]
exten => s,1,Set(FILE(@LOG@,,,al,u)=${KEY}|HANGUP|${STRFTIME(,,%s.%3q)}|${ENDER})
 same => n,Return()

[ring]
exten => s,1,GotoIf($[${RING} = 0]?done)
 same => n,GoSub(log,s,1(RINGING))
 same => n,Ringing()
 same => n,Wait(${RING})
 same => n(done),Return()

[answer]
exten => s,1,GoSub(ring,s,1)
 same => n,Set(ANSWERED=${STRFTIME(,,%s.%3q)})
 same => n,GoSub(log,s,1(ANSWER))
 same => n,Answer()
 same => n,Return()

; wait until ARG1 seconds after the answer
[until]
exten => s,1,Set(LEFT=$[${ARG1} - (${STRFTIME(,,%s.%3q)} - ${ANSWERED})])
 same => n,ExecIf($[${LEFT} > 0]?Wait(${LEFT}))
 same => n,Return()

[callee]
exten => 2,1,GoSub(answer,s,1)
 same => n,GoSub(until,s,1($[${DETAIL} / 10]))
 same => n,Set(ENDER=world)
 same => n,Hangup(16)

exten => 3,1,GoSub(answer,s,1)
 same => n,Wait(7200)

exten => 4,1,GoSub(answer,s,1)
 same => n(keys),Set(AFTER=$[${NUMBER:3:1} / 2])
 same => n,Set(COUNT=${NUMBER:4:1})
 same => n,Set(KEYS=${IF($[${COUNT} >= 5]?${NUMBER:5:$[${COUNT} - 5]}#:${NUMBER:5:${COUNT}})})
 same => n,GoSub(until,s,1(${AFTER}))
 same => n,While($["${KEYS}" != ""])
 same => n,GoSub(log,s,1(KEY,${KEYS:0:1}))
 same => n,SendDTMF(${KEYS:0:1},100,120)
 same => n,Set(KEYS=${KEYS:1})
 same => n,Wait(0.2)
 same => n,EndWhile()
 same => n,Wait(7200)

exten => 5,1,GoSub(ring,s,1)
 same => n,GoSub(log,s,1(REJECT,${DETAIL}))
 same => n,Set(ENDER=world)
 same => n,PJSIPHangup(${DETAIL})

exten => 6,1,Goto(6-${DETAIL},1)
exten => 6-180,1,GoSub(log,s,1(RINGING))
 same => n,Ringing()
 same => n,Wait(7200)
exten => 6-100,1,Wait(7200)
exten => 6-183,1,GoSub(log,s,1(PROGRESS))
 same => n,Progress()
 same => n,Playtones(ring)
 same => n,Wait(7200)

exten => 7,1,GoSub(log,s,1(PROGRESS))
 same => n,Progress()
 same => n,Playtones(info)
 same => n,Wait(${RING})
 same => n,StopPlaytones()
 same => n,GoSub(log,s,1(REJECT,${DETAIL}))
 same => n,Set(ENDER=world)
 same => n,PJSIPHangup(${DETAIL})

exten => 8,1,GoSub(answer,s,1)
 same => n,Goto(8-${DETAIL},1)
exten => 8-000,1,Playback(silence/1&vm-theperson&digits/4&digits/2&vm-isunavail&vm-intro)
 same => n,Playback(beep)
 same => n,Goto(silent)
 same => n(silent),Playback(silence/10)
 same => n,Goto(silent)
exten => 8-001,1,Wait(0.3)
 same => n,Playback(hello)
 same => n(silent),Playback(silence/10)
 same => n,Goto(silent)

exten => 9,1,GoSub(answer,s,1)
 same => n,MixMonitor(,r(@HEARD@/${NUMBER}.sln))
 same => n,Goto(4,keys)

exten => i,1,GoSub(log,s,1(REJECT,404))
 same => n,Set(ENDER=world)
 same => n,PJSIPHangup(404)

; Telephones of agents. They hang up after TALK(extension), "SHORTEST-LONGEST" in tenths of a second; without, never.
[telephone]
exten => _XXXX,1,Set(ASKED=${REGEX("answer-after=0" ${PJSIP_HEADER(read,Call-Info)})})
 same => n,GoSub(log,s,1(TELEPHONE,${PJSIP_HEADER(read,X-Dialer-Attempt)}|${ASKED}))
 same => n,Set(RING=0)
 same => n,Goto(${NUMBER:0:1},1)
; 1xxx and 6xxx answer at once, 2xxx after 3 s
exten => 6,1,Goto(1,1)
exten => 2,1,Set(RING=3)
 same => n,Goto(1,1)
exten => 1,1,GoSub(answer,s,1)
 same => n,Set(TALK=${GLOBAL(TALK${NUMBER})})
 same => n,GotoIf($["${TALK}" = ""]?stay)
 same => n,GoSub(until,s,1($[${RAND(${CUT(TALK,-,1)},${CUT(TALK,-,2)})} / 10]))
 same => n,Set(ENDER=world)
 same => n,Hangup(16)
 same => n(stay),Wait(7200)
; 5xxx answer at once when the PBX asks them to, else they ring for ever as 3xxx do
exten => 5,1,GotoIf($["${ASKED}" = "1"]?1,1:3,1)
exten => 3,1,GoSub(log,s,1(RINGING))
 same => n,Ringing()
 same => n,Wait(7200)
exten => 4,1,GoSub(log,s,1(REJECT,486))
 same => n,Set(ENDER=world)
 same => n,PJSIPHangup(486)
exten => i,1,Set(ENDER=world)
 same => n,PJSIPHangup(404)

; Who calls in: stays STAY seconds after the PBX has answered, whatever happens.
[caller]
exten => s,1,Set(KEY=${CHANNEL(pjsip,call-id)})
 same => n,Set(FILE(@LOG@,,,al,u)=${KEY}|CALLS|${STRFTIME(,,%s.%3q)}|${DIALLED}|${CALLER})
 same => n,Set(CHANNEL(hangup_handler_push)=ended,s,1)
 same => n,Set(ENDER=pbx)
 same => n,Wait(${STAY})
 same => n,Set(ENDER=world)
 same => n,Hangup(16)
"""

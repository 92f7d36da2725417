"""The world's side of a call: the callees' dialplan and what they write down about each call."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
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
        self._reading = threading.Lock()  # tests wait for calls in threads

    def calls(self) -> list[WorldCall]:
        """Every call so far, in the order of their INVITEs."""
        with self._reading:
            with self.path.open("rb") as file:
                file.seek(self._offset)
                fresh = file.read()
            self._offset += len(fresh)
            *lines, self._rest = (self._rest + fresh).split(b"\n")
            for line in lines:
                self._note(line.decode(errors="replace"))
            return sorted(self._calls.values(), key=lambda call: (call.invited_at, call.key))

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
        key, event, at = fields[0], fields[1], float(fields[2])
        if event == "INVITE":
            self._calls[key] = WorldCall(
                key=key, number=fields[3][-12:], dialled=fields[3], caller_id=fields[4], invited_at=at
            )
            return
        call = self._calls.get(key)
        if call is None:
            return
        if event == "RINGING" and call.ringing_at is None:
            call = replace(call, ringing_at=at)
        elif event == "PROGRESS" and call.progress_at is None:
            call = replace(call, progress_at=at)
        elif event == "ANSWER":
            call = replace(call, answered_at=at)
        elif event == "REJECT":
            call = replace(call, rejected_at=at, rejected_by=int(fields[3]))
        elif event == "KEY":
            call = replace(call, keys=(*call.keys, (fields[3], at)))
        elif event == "HANGUP":
            call = replace(call, ended_at=at, ended_by="world" if fields[3] == "world" else "pbx")
        self._calls[key] = call


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

; telephones of agents: 1xxx answer by themselves at once, 2xxx ring 3 s, 3xxx never answer, 4xxx are busy
[telephone]
exten => _1XXX,1,Set(RING=0)
 same => n,GoSub(answer,s,1)
 same => n,Wait(7200)
exten => _2XXX,1,Set(RING=3)
 same => n,GoSub(answer,s,1)
 same => n,Wait(7200)
exten => _3XXX,1,GoSub(log,s,1(RINGING))
 same => n,Ringing()
 same => n,Wait(7200)
exten => _4XXX,1,Set(ENDER=world)
 same => n,PJSIPHangup(486)
exten => i,1,Set(ENDER=world)
 same => n,PJSIPHangup(404)
"""

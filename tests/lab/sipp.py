"""SIPp as a callee for load: it answers hundreds of calls a second, which a second Asterisk would not."""

from __future__ import annotations

import csv
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from .asterisk import LabError


class NoSipp(Exception):
    """There is no SIPp on this machine."""


@dataclass(frozen=True)
class Counts:
    """From SIPp's own statistics."""

    invites: int
    ended_well: int
    failed: int
    live: int


class Sipp:
    """Answers every INVITE at once, or after `ring` ms of 180; hangs up after `hangup` ms, or never."""

    def __init__(self, port: int, ring: int = 0, hangup: int | None = None) -> None:
        program = shutil.which("sipp")
        if program is None:
            raise NoSipp("SIPp is not installed (Debian and Ubuntu: apt-get install sip-tester)")
        self._home = Path(tempfile.mkdtemp(prefix="lab-sipp-"))
        self._statistics = self._home / "statistics.csv"
        scenario = self._home / "callee.xml"
        scenario.write_text(_scenario(ring, hangup))
        self._command = [
            *(program, "127.0.0.1", "-sf", str(scenario), "-i", "127.0.0.1", "-p", str(port), "-t", "u1"),
            *("-trace_stat", "-stf", str(self._statistics), "-fd", "200ms", "-nostdin", "-nr"),
            *("-l", "20000", "-buff_size", "8388608", "-recv_timeout", "7200000"),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Sipp:
        with (self._home / "output").open("wb") as output:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=self._home
            )
        deadline = time.monotonic() + 5
        while not self._statistics.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._end()
                raise LabError(
                    f"SIPp does not start: {(self._home / 'output').read_text(errors='replace')[-600:]}"
                )
            time.sleep(0.02)
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        shutil.rmtree(self._home, ignore_errors=True)

    def counts(self) -> Counts:
        """As of the last 0.2 s."""
        with self._statistics.open(newline="") as file:
            rows = list(csv.DictReader(file, delimiter=";"))
        last = rows[-1] if rows else {}
        return Counts(
            invites=int(last.get("IncomingCall(C)") or 0),
            ended_well=int(last.get("SuccessfulCall(C)") or 0),
            failed=int(last.get("FailedCall(C)") or 0),
            live=int(last.get("CurrentCall") or 0),
        )

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def _scenario(ring: int, hangup: int | None) -> str:
    ringing = _response(180, "Ringing", sdp=False) + f'<pause milliseconds="{ring}"/>' if ring else ""
    if hangup is None:
        ending = '<recv request="BYE"/>' + _response(200, "OK", sdp=False)
    else:
        # Either side may be first; a BYE that comes in the pause is answered and ends the call.
        ending = f"""
  <recv request="BYE" timeout="{hangup}" ontimeout="ours"/>
  {_response(200, "OK", sdp=False, extra=' next="end"')}
  <label id="ours"/>
  <send retrans="500"><![CDATA[
BYE sip:[$contact] SIP/2.0
Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]
From: [$ours]
To: [$theirs]
Call-ID: [call_id]
CSeq: 1 BYE
Max-Forwards: 70
Content-Length: 0

]]></send>
  <recv response="200"/>
  <label id="end"/>"""
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<scenario name="callee">
  <recv request="INVITE" crlf="true">
    <action>
      <ereg regexp="sip:([^>]*)" search_in="hdr" header="Contact:" assign_to="all,contact"/>
      <ereg regexp=".*" search_in="hdr" header="From:" assign_to="theirs"/>
      <ereg regexp=".*" search_in="hdr" header="To:" assign_to="to"/>
      <assignstr assign_to="ours" value="[$to];tag=[pid]SIPpTag01[call_number]"/>
      <log message="[$all]"/>
    </action>
  </recv>
  {ringing}
  {_response(200, "OK", sdp=True, extra=' retrans="500"')}
  <recv request="ACK" crlf="true"/>
  {ending}
  <Reference variables="all,contact,theirs,to,ours"/>
</scenario>
"""


def _response(code: int, reason: str, sdp: bool, extra: str = "") -> str:
    tag = ";tag=[pid]SIPpTag01[call_number]" if code != 200 or sdp else ""
    body = (
        """Content-Type: application/sdp
Content-Length: [len]

v=0
o=callee 1 1 IN IP[local_ip_type] [local_ip]
s=-
c=IN IP[media_ip_type] [media_ip]
t=0 0
m=audio [media_port] RTP/AVP 0 101
a=rtpmap:0 PCMU/8000
a=rtpmap:101 telephone-event/8000
a=fmtp:101 0-15
"""
        if sdp
        else "Content-Length: 0\n"
    )
    return f"""<send{extra}><![CDATA[
SIP/2.0 {code} {reason}
[last_Via:]
[last_From:]
[last_To:]{tag}
[last_Call-ID:]
[last_CSeq:]
Contact: <sip:[local_ip]:[local_port];transport=[transport]>
{body}
]]></send>"""

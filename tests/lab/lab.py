"""Two Asterisks on loopback: the PBX that the engine drives, and the world that it calls."""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path

from . import rootfs, world
from .asterisk import Asterisk, Ports
from .world import WorldCall, WorldLog

AGENTS = (*range(1001, 1010), *range(2001, 2004), 3001, 4001)
CONFIG = Path(__file__).resolve().parents[2] / "config" / "asterisk"


class Lab:
    """The pair, with everything a test needs to reach it.

    What the PBX offers:

    | name | is |
    |---|---|
    | PJSIP/NUMBER@carrier | the world, whose callees do what their number says (`number`) |
    | PJSIP/NUMBER@carrier2 | the same as a second trunk |
    | PJSIP/NUMBER@carrier-auth | the world challenges (401) and the PBX has no password |
    | PJSIP/NUMBER@carrier-dead | an address where nothing listens (UDP: silence until the time-out) |
    | PJSIP/NUMBER@carrier-refused | TCP to a closed port: fails at once |
    | PJSIP/NUMBER@nocontact | an endpoint without a contact |
    | PJSIP/NUMBER@sipp | `sipp_port`, for `sipp.Sipp` |
    | Local/NUMBER@from-internal | out through `carrier` by a dialplan of FreePBX's shape |
    | Local/NUMBER@from-internal-status | the same, and the dialplan tells `UserEvent(CALLSTATUS)` at the end |
    | PJSIP/1001 .. 1009, 2001 .. 2003 | agents' telephones: answer by themselves at once, after 3 s |
    | PJSIP/3001, PJSIP/4001 | agents' telephones that ring for ever, are busy |
    | Local/1001@from-queue/n | the same telephone as FreePBX makes it a member; its hint is in `ext-local` |
    | queues `green`, `blue` | without members at first; both wrap up 5 s |
    """

    ari_user = "dialer"
    ari_password = "lab-ari"
    ami_user = "dialer"
    ami_secret = "lab-ami"
    ami_host = "127.0.0.1"
    speed = 1.0  # the simulated one's callees may be faster

    def __init__(self) -> None:
        tree = rootfs.tree()
        self.version = tree.version()
        self._ports = Ports()
        self.http_port, self.ami_port, self.pbx_sip_port, self.world_sip_port = self._ports.take_many(4)
        self.sipp_port, self._dead_port = self._ports.take_many(2)
        self.ari_url = f"http://127.0.0.1:{self.http_port}"
        self.pbx = Asterisk("pbx", tree, self._pbx_files())
        self.world = Asterisk("world", tree, {})
        self._log = WorldLog(self.world.home / "log/calls")
        self._log.path.touch()  # FILE() appends only to what is there
        self._heard = self.world.home / "spool/heard"
        self._heard.mkdir()
        for file, text in self._world_files().items():
            self.world.configure(file, text)

    def start(self) -> None:
        """Both at once, and wait for both."""
        self.world.start()
        self.pbx.start()

    def close(self) -> None:
        """End both and remove what they wrote."""
        self.pbx.remove()
        self.world.remove()
        self._ports.close()

    def __enter__(self) -> Lab:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def world_calls(self, number: str | None = None) -> list[WorldCall]:
        """Every INVITE the world has seen, or those to one number, oldest first."""
        return self._log.of(number)

    def wait_for_world(
        self, number: str, condition: Callable[[WorldCall], bool] = lambda call: True, timeout: float = 10.0
    ) -> WorldCall:
        """The last call to a number, as soon as it exists and fulfils the condition."""
        return self._log.wait_for(number, condition, timeout)

    def heard(self, number: str) -> Sequence[int]:
        """What a listening callee has heard: 8000 samples a second of sound; silence that is not sent is not there."""
        path = self._heard / f"{number[-12:]}.sln"
        samples = array("h")
        samples.frombytes(path.read_bytes() if path.exists() else b"")
        return samples

    def break_carrier(self, prefix: str, code: int | None) -> None:
        """From now on numbers of this prefix are rejected by this SIP code, whatever they say; None mends it.

        The prefix is what stands before the last twelve digits, digits itself.
        """
        value = '""' if code is None else str(code)
        self.world.cli(f"dialplan set global CARRIER{prefix} {value}")

    def hang_up_everything(self) -> None:
        """Between tests: no call of one may be seen by the next."""
        for asterisk in (self.pbx, self.world):
            if asterisk.running:
                asterisk.cli("channel request hangup all")

    def callees_hang_up(self) -> None:
        """Those whose PBX died under them, as the carrier's own timers would."""
        self.world.cli("channel request hangup all")

    def _pbx_files(self) -> dict[str, str]:
        return {
            "http.conf": HTTP.format(port=self.http_port),
            "ari.conf": ARI.format(user=self.ari_user, password=self.ari_password),
            "manager.conf": MANAGER.format(port=self.ami_port, user=self.ami_user, secret=self.ami_secret),
            "rtp.conf": _rtp(),
            "pjsip.conf": PJSIP_PBX.format(
                port=self.pbx_sip_port, world=self.world_sip_port, sipp=self.sipp_port, dead=self._dead_port
            )
            + "".join(AGENT.format(extension=agent, world=self.world_sip_port) for agent in AGENTS),
            "queues.conf": QUEUES,
            "extensions.conf": EXTENSIONS
            + "".join(f"exten => {agent},hint,PJSIP/{agent}\n" for agent in AGENTS)
            + f"\n#include {CONFIG / 'extensions_dialer.conf'}\n",
        }

    def _world_files(self) -> dict[str, str]:
        return {
            "rtp.conf": _rtp(),
            "pjsip.conf": PJSIP_WORLD.format(port=self.world_sip_port),
            "extensions.conf": world.dialplan(self._log.path, self._heard),
            "http.conf": "[general]\nenabled = no\n",
            "ari.conf": "[general]\nenabled = no\n",
            "manager.conf": "[general]\nenabled = no\n",
        }


def _rtp() -> str:
    # Labs may share a range: Asterisk tries the next port when one is taken.
    first = random.randrange(10000, 12000, 2)
    return f"[general]\nrtpstart = {first}\nrtpend = {first + 7999}\n"


HTTP = """[general]
enabled = yes
bindaddr = 127.0.0.1
bindport = {port}
sessionlimit = 500
session_keep_alive = 60000
"""

ARI = """[general]
enabled = yes
pretty = no
websocket_write_timeout = 5000

[{user}]
type = user
password = {password}
password_format = plain
"""

MANAGER = """[general]
enabled = yes
bindaddr = 127.0.0.1
port = {port}
timestampevents = yes

[{user}]
secret = {secret}
read = agent,user,system,call,dialplan,reporting,config
write = agent,user,system,call,originate,reporting,config,command
writetimeout = 10000
"""

PJSIP_PBX = """[global]
taskprocessor_overload_trigger = pjsip_only

[udp]
type = transport
protocol = udp
bind = 127.0.0.1:{port}

[tcp]
type = transport
protocol = tcp
bind = 127.0.0.1:{port}

[trunk](!)
type = endpoint
context = from-trunk
disallow = all
allow = ulaw
direct_media = no
dtmf_mode = rfc4733
timers = no
transport = udp

[carrier](trunk)
aors = carrier
[carrier]
type = aor
contact = sip:127.0.0.1:{world}

[carrier2](trunk)
aors = carrier2
[carrier2]
type = aor
contact = sip:127.0.0.1:{world}

[carrier-auth](trunk)
aors = carrier-auth
from_user = challenged
[carrier-auth]
type = aor
contact = sip:127.0.0.1:{world}

[carrier-dead](trunk)
aors = carrier-dead
[carrier-dead]
type = aor
contact = sip:127.0.0.1:{dead}

[carrier-refused](trunk)
aors = carrier-refused
transport = tcp
[carrier-refused]
type = aor
contact = sip:127.0.0.1:{dead}\\;transport=tcp

[nocontact](trunk)
aors = nocontact
[nocontact]
type = aor
max_contacts = 1

[sipp](trunk)
aors = sipp
[sipp]
type = aor
contact = sip:127.0.0.1:{sipp}

"""

AGENT = """
[{extension}](trunk)
aors = {extension}
context = from-internal
device_state_busy_at = 1
[{extension}]
type = aor
contact = sip:{extension}@127.0.0.1:{world}
"""

PJSIP_WORLD = """[global]
endpoint_identifier_order = username,ip

[udp]
type = transport
protocol = udp
bind = 127.0.0.1:{port}

[pbx]
type = endpoint
context = from-pbx
disallow = all
allow = ulaw
direct_media = no
dtmf_mode = rfc4733
timers = no
aors = pbx

[pbx]
type = aor
max_contacts = 1

[pbx]
type = identify
endpoint = pbx
match = 127.0.0.1

[challenged]
type = endpoint
context = from-pbx
disallow = all
allow = ulaw
auth = challenged

[challenged]
type = auth
auth_type = userpass
username = challenged
password = nobody-knows
"""

QUEUES = """[general]
autofill = yes
shared_lastcall = yes

[campaigns](!)
strategy = leastrecent
retry = 1
timeout = 15
ringinuse = no
wrapuptime = 5
setinterfacevar = yes
setqueueentryvar = yes

[green](campaigns)
[blue](campaigns)
"""

# A dialplan with the habits of FreePBX's outgoing routes, which hide from the originator what the carrier
# said: busy stays busy; a congested or missing trunk gets an announcement as early media before the rejection;
# no answer ends without a word.
EXTENSIONS = """[general]
static = yes
writeprotect = yes

[from-internal]
exten => _[+*0-9].,1,Set(OUTNUM=${EXTEN})
 same => n,Dial(PJSIP/${OUTNUM}@carrier,300)
 same => n,Goto(s-${DIALSTATUS},1)
exten => s-BUSY,1,Playtones(busy)
 same => n,Busy(20)
exten => s-NOANSWER,1,Hangup()
exten => s-ANSWER,1,Hangup()
exten => s-CANCEL,1,Hangup()
exten => _s-.,1,Progress()
 same => n,Playback(all-circuits-busy-now,noanswer)
 same => n,Congestion(20)

; the same, and the dialplan has its own word about how the call went (linked id: originated half)
[from-internal-status]
exten => _[+*0-9].,1,Dial(PJSIP/${EXTEN}@carrier,300)
 same => n,UserEvent(CALLSTATUS,Uniqueid:${CHANNEL(linkedid)},V:${DIALSTATUS}-${HANGUPCAUSE})
 same => n,Hangup(${HANGUPCAUSE})

[lab-amd]
exten => s,1,AMD()
 same => n,Hangup()

[from-trunk]
exten => _X.,1,Hangup(21)

; a queue's members as FreePBX makes them: Local/1001@from-queue/n with the hint of the extension
[from-queue]
exten => _XXXX,1,Dial(PJSIP/${EXTEN},20)
 same => n,Hangup()

[ext-local]
"""

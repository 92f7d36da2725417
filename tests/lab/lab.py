"""Two Asterisks on loopback: the PBX that the engine drives, and the world that it calls."""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path

from . import rootfs, world
from .asterisk import Asterisk, LabError, Ports
from .bare_ami import BareAmi, Event
from .cable import Cables
from .world import WorldCall, WorldLog

CABLED = (6001, 6002)
AGENTS = (*range(1001, 1061), *range(2001, 2011), 3001, 3002, 4001, *range(5001, 5005), *CABLED)
WRAP_UP_SECONDS = {
    **dict.fromkeys(("green", "blue", "amber", "violet"), 5),
    **dict.fromkeys(("red", "white", "black", "grey", "pink", "cyan", "lime", "navy", "teal", "gold"), 0),
}
"""Of every queue, which all have no members at first."""
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
    | PJSIP/1001 .. 1060, 2001 .. 2010 | agents' telephones: answer by themselves at once, after 3 s |
    | PJSIP/3001, 3002, PJSIP/4001 | agents' telephones that ring for ever, are busy |
    | PJSIP/5001 .. 5004 | answer at once when they are asked to (Call-Info), else ring for ever |
    | PJSIP/6001, 6002 | answer at once; their cables can be pulled out (`unplug`), which the PBX finds in 2 s |
    | Local/1001@from-queue/n | the same telephone as FreePBX makes it a member; its hint is in `ext-local` |
    | queues of `WRAP_UP_SECONDS` | without members at first |
    | queue `shipped` | the example of config/asterisk/queues.conf |
    | dialer-queue, ext-queues | contexts with an extension for each queue: the shipped one, one as FreePBX's |
    | PJSIP/QUEUE@pbx in the world | calls in and comes to that queue; waits-QUEUE: nobody serves him |

    Two users of AMI: `ami_user` may do everything, `shipped_user` what config/asterisk/manager.conf allows.
    """

    ari_user = "dialer"
    ari_password = "lab-ari"
    ami_user = "dialer"
    ami_secret = "lab-ami"
    shipped_user = "shipped"
    ami_host = "127.0.0.1"
    speed = 1.0  # the simulated one's callees may be faster

    def __init__(self) -> None:
        tree = rootfs.tree()
        self.version = tree.version()
        self._ports = Ports()
        self.http_port, self.ami_port, self.pbx_sip_port, self.world_sip_port = self._ports.take_many(4)
        self.sipp_port, self._dead_port, self.world_ami_port = self._ports.take_many(3)
        self._cable_ports = dict(zip(CABLED, self._ports.take_many(len(CABLED)), strict=True))
        self._cables: Cables | None = None
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
        self._cables = self._cables or Cables(
            list(self._cable_ports.values()), self.pbx_sip_port, self.world_sip_port
        )
        self.world.start()
        self.pbx.start()

    def close(self) -> None:
        """End both and remove what they wrote."""
        self.pbx.remove()
        self.world.remove()
        if self._cables is not None:
            self._cables.close()
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

    def callers(self) -> list[WorldCall]:
        """Who has called in from the world, oldest first."""
        return self._log.callers()

    def ami(self, *, classes: str = "off", on_event: Callable[[Event], None] | None = None) -> BareAmi:
        """A session with the PBX that may do everything; use it as a context manager."""
        return BareAmi(self.ami_port, self.ami_user, self.ami_secret, classes=classes, on_event=on_event)

    def world_ami(self) -> BareAmi:
        """The same with the world."""
        return BareAmi(self.world_ami_port, self.ami_user, self.ami_secret)

    def unplug(self, extension: int, *, out: bool = True) -> None:
        """Pull out the cable of one of CABLED, or put it back."""
        if self._cables is None:
            raise RuntimeError("start the lab first")
        self._cables.pull(self._cable_ports[extension], out=out)

    def queue_log(self) -> Path:
        """The PBX's own record of its queues (`queue_log.read`)."""
        return self.pbx.home / "log/queue_log"

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
            "manager.conf": self._manager(),
            "logger.conf": "[general]\nqueue_log = yes\n[logfiles]\nmessages = notice,warning,error\n",
            "rtp.conf": _rtp(),
            "pjsip.conf": PJSIP_PBX.format(
                port=self.pbx_sip_port, world=self.world_sip_port, sipp=self.sipp_port, dead=self._dead_port
            )
            + "".join(self._telephone(agent) for agent in AGENTS),
            "queues.conf": queues(),
            "extensions.conf": EXTENSIONS
            + "".join(f"exten => {agent},hint,PJSIP/{agent}\n" for agent in AGENTS)
            + f"\n#include {CONFIG / 'extensions_dialer.conf'}\n",
        }

    def _world_files(self) -> dict[str, str]:
        return {
            "rtp.conf": _rtp(),
            "pjsip.conf": PJSIP_WORLD.format(port=self.world_sip_port, pbx=self.pbx_sip_port),
            "extensions.conf": world.dialplan(self._log.path, self._heard),
            "http.conf": "[general]\nenabled = no\n",
            "ari.conf": "[general]\nenabled = no\n",
            "manager.conf": MANAGER.format(port=self.world_ami_port)
            + USER.format(user=self.ami_user, secret=self.ami_secret),
        }

    def _manager(self) -> str:
        """The shipped file with its user under another name, and the one who may do everything."""
        shipped = (CONFIG / "manager.conf").read_text()
        for written, ours in (
            ("port = 5038", f"port = {self.ami_port}"),
            ("[dialer]", f"[{self.shipped_user}]"),
            ("secret = CHANGE-ME", f"secret = {self.ami_secret}"),
        ):
            if written not in shipped:
                raise LabError(f"the shipped manager.conf has no {written}")
            shipped = shipped.replace(written, ours)
        return shipped + USER.format(user=self.ami_user, secret=self.ami_secret)

    def _telephone(self, extension: int) -> str:
        port = self._cable_ports.get(extension, self.world_sip_port)
        qualify = "qualify_frequency = 1\nqualify_timeout = 1.0\n" if extension in CABLED else ""
        return AGENT.format(extension=extension, port=port) + qualify


def queues() -> str:
    """The shipped example under the name `shipped`, and a queue for each of WRAP_UP_SECONDS."""
    shipped = (CONFIG / "queues.conf").read_text().replace("[green]", "[shipped]")
    ours = "".join(
        f"\n[{name}](campaigns)\nwrapuptime = {seconds}\n" for name, seconds in WRAP_UP_SECONDS.items()
    )
    return shipped + QUEUES + ours


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
"""

USER = """
[{user}]
secret = {secret}
read = agent,user,system,call,dialplan,reporting,config
write = agent,user,system,call,originate,reporting,config,command
writetimeout = 10000
"""

PJSIP_PBX = """[global]
taskprocessor_overload_trigger = pjsip_only
endpoint_identifier_order = username,ip

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

[inbound](trunk)
aors = inbound
context = calls-in
[inbound]
type = aor
max_contacts = 1
[inbound]
type = identify
endpoint = inbound
match = 127.0.0.1

"""

AGENT = """
[{extension}](trunk)
aors = {extension}
context = telephones
device_state_busy_at = 1
[{extension}]
type = aor
contact = sip:{extension}@127.0.0.1:{port}
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
contact = sip:127.0.0.1:{pbx}

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

QUEUES = """
[campaigns](!)
strategy = leastrecent
retry = 1
timeout = 15
ringinuse = no
setinterfacevar = yes
setqueueentryvar = yes
"""

# A dialplan with the habits of FreePBX's outgoing routes, which hide from the originator what the carrier
# said: busy stays busy; a congested or missing trunk gets an announcement as early media before the rejection;
# no answer ends without a word.
EXTENSIONS = """[general]
static = yes
writeprotect = yes

[globals]
DIALER_SAID_1 = AGAIN

[telephones]
include => dialer-dispositions
include => from-internal

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

; who calls in comes to the queue he dials; whoever waits-QUEUE is served by nobody: its members' penalty is higher;
; "limited" is FreePBX's queue lime
[calls-in]
exten => _[a-z].,1,Answer()
 same => n,Goto(dialer-queue,${EXTEN},1)
exten => _waits-.,1,Answer()
 same => n,Set(QUEUE_MAX_PENALTY=1)
 same => n,Goto(dialer-queue,${EXTEN:6},1)
exten => limited,1,Answer()
 same => n,Goto(ext-queues,lime,1)

; a queue as FreePBX makes it: it has a longest wait of its own (4 s), and who comes back is hung up
[ext-queues]
exten => _[a-z].,1,Queue(${EXTEN},t,,,4)
 same => n,Hangup()

; a queue's members as FreePBX makes them: Local/1001@from-queue/n with the hint of the extension
[from-queue]
exten => _XXXX,1,Dial(PJSIP/${EXTEN},20,b(dialer-auto-answer^s^1)U(dialer-connected))
 same => n,Hangup()

[ext-local]
"""

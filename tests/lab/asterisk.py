"""One Asterisk process with a home of its own, started and stopped at will."""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from .rootfs import Tree


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# Modules by name, because a full load takes seconds and opens ports that nobody here needs.
MODULES = _words("""
    res_pjproject res_sorcery_config res_sorcery_memory res_sorcery_astdb res_timing_timerfd
    res_rtp_asterisk res_crypto res_http_websocket res_statsd res_geolocation res_pjsip res_pjsip_session
    res_pjsip_sdp_rtp res_pjsip_caller_id res_pjsip_rfc3326 res_pjsip_header_funcs
    res_pjsip_authenticator_digest res_pjsip_outbound_authenticator_digest res_pjsip_nat res_pjsip_pubsub
    res_pjsip_endpoint_identifier_ip res_pjsip_endpoint_identifier_user res_pjsip_registrar
    res_pjsip_dlg_options chan_pjsip pbx_config codec_ulaw codec_alaw codec_gsm codec_resample format_gsm
    format_pcm format_wav format_sln app_dial app_stack app_playback app_playtones app_senddtmf app_read
    app_record app_userevent app_verbose app_echo app_exec app_amd app_queue app_stasis app_originate
    app_waitforsilence app_system bridge_simple bridge_softmix bridge_holding bridge_native_rtp
    bridge_builtin_features func_callerid func_channel func_cut func_devstate func_dialplan func_env
    func_extstate func_global func_hangupcause func_logic func_math func_module func_pjsip_aor
    func_pjsip_contact func_pjsip_endpoint func_rand func_sprintf func_strings func_talkdetect func_timeout
    func_uri func_db func_lock res_tonedetect res_musiconhold res_agi res_manager_devicestate res_stasis
    res_stasis_answer res_stasis_playback res_stasis_recording res_stasis_snoop res_stasis_device_state
    res_websocket_client res_ari_model res_ari res_ari_applications res_ari_asterisk res_ari_bridges
    res_ari_channels res_ari_device_states res_ari_endpoints res_ari_events res_ari_playbacks
    res_ari_recordings res_ari_sounds res_speech res_clioriginate res_mutestream res_prometheus app_transfer
    app_confbridge app_while app_mixmonitor
""")


class LabError(Exception):
    """The lab itself does not work; no verdict about the engine."""


class Asterisk:
    """An Asterisk of the tree with its own configuration, spool, database and sockets.

    `files` are the configuration files by name; the ones every instance needs are added. A restart keeps the
    home, so that what survives a restart of a real PBX (the database, registrations) survives here too.
    Only processes started by this object are ever signalled.
    """

    def __init__(
        self, name: str, tree: Tree, files: Mapping[str, str], options: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.tree = tree
        self.home = Path(tempfile.mkdtemp(prefix=f"lab-{name}-"))
        if len(str(self.home)) > 80:
            raise LabError(f"{self.home} is too long a name for a Unix socket; set TMPDIR to a shorter one")
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        for directory in ("etc", "run", "spool", "db", "log", "data/sounds", "data/moh"):
            (self.home / directory).mkdir(parents=True)
        for entry in tree.data.iterdir():
            if entry.name not in ("sounds", "moh"):
                (self.home / "data" / entry.name).symlink_to(entry)
        (self.home / "data/sounds/en").symlink_to(tree.sounds)
        for file, text in {**self._common(options or {}), **files}.items():
            self.configure(file, text)

    @property
    def pid(self) -> int:
        """Of the running process."""
        if self._process is None:
            raise LabError(f"{self.name} is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def configure(self, file: str, text: str) -> None:
        """Write a configuration file; a reload or restart makes it count."""
        (self.home / "etc" / file).write_text(text)

    def start(self, timeout: float = 30.0) -> None:
        """Start and wait until fully booted."""
        if self.running:
            return
        with (self.home / "log/console").open("ab") as console:
            self._process = subprocess.Popen(
                [*self.tree.command(), "-C", str(self.home / "etc/asterisk.conf"), "-f"],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                cwd=self.home,
                start_new_session=True,  # a Ctrl-C at the tests must not reach it first
            )
        # Should this process die without a word, the pipe closes and the guard ends Asterisk with it.
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", 'read -r word || kill -9 "$1"', "guard", str(self._process.pid)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        deadline = time.monotonic() + timeout
        while not self._booted():
            if self._process.poll() is not None:
                self._release()
                raise LabError(f"{self.name} ended while starting: {self.log_tail()}")
            if time.monotonic() > deadline:
                self.kill()
                raise LabError(f"{self.name} has not booted within {timeout} s: {self.log_tail()}")
            time.sleep(0.05)

    def stop(self, timeout: float = 10.0) -> None:
        """End it in good order: calls are hung up."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._release()

    def kill(self) -> None:
        """End it as a crash does: no BYE, no goodbye to any socket."""
        if self._process is not None:
            self._process.kill()
        self._release()

    def restart(self) -> None:
        self.stop()
        self.start()

    def remove(self) -> None:
        """End it and forget everything it wrote."""
        self.kill()  # in good order takes seconds while there are calls
        shutil.rmtree(self.home, ignore_errors=True)

    def cli(self, command: str, timeout: float = 20.0) -> str:
        """What the Asterisk console answers to a command."""
        done = self._remote(command, timeout)
        if done.returncode:
            raise LabError(f"{self.name}: {command}: {done.stdout.strip() or done.stderr.strip()}")
        return done.stdout

    def log_tail(self, lines: int = 12) -> str:
        """The last lines it logged, for a failure's message."""
        text = ""
        for file in ("log/console", "log/messages"):
            path = self.home / file
            text += path.read_text(errors="replace") if path.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def _booted(self) -> bool:
        if not (self.home / "run/asterisk.ctl").exists():
            return False
        try:
            return self._remote("core waitfullybooted", 20.0).returncode == 0
        except subprocess.TimeoutExpired:
            return False

    def _remote(self, command: str, timeout: float) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.tree.command(), "-C", str(self.home / "etc/asterisk.conf"), "-rx", command],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
            env={**os.environ, "TERM": "dumb", "HOME": str(self.home)},
        )

    def _release(self) -> None:
        if self._process is not None:
            self._process.wait()
            self._process = None
        if self._guard is not None:
            guard, self._guard = self._guard, None
            guard.communicate(b"done\n")
        (self.home / "run/asterisk.ctl").unlink(missing_ok=True)

    def _common(self, options: Mapping[str, str]) -> dict[str, str]:
        directories = {
            "astetcdir": "etc",
            "astvarlibdir": "data",
            "astdatadir": "data",
            "astdbdir": "db",
            "astkeydir": "data",
            "astagidir": "data/agi-bin",
            "astspooldir": "spool",
            "astcachedir": "spool",
            "astrundir": "run",
            "astlogdir": "log",
        }
        lines = ["[directories]", f"astmoddir = {self.tree.modules}"]
        lines += [f"{key} = {self.home / place}" for key, place in directories.items()]
        wanted = {"verbose": "0", "nocolor": "yes", "languageprefix": "yes", "maxfiles": str(open_files())}
        lines += ["", "[options]", *(f"{key} = {value}" for key, value in {**wanted, **options}.items())]
        loads = [f"load = {name}.so" for name in MODULES if (self.tree.modules / f"{name}.so").exists()]
        return {
            "asterisk.conf": "\n".join(lines) + "\n",
            "modules.conf": "\n".join(["[modules]", "autoload = no", *loads]) + "\n",
            "logger.conf": "[general]\nqueue_log = no\n[logfiles]\nmessages = notice,warning,error\n",
            "cdr.conf": "[general]\nenable = no\n",
            "cel.conf": "[general]\nenable = no\n",
            "indications.conf": INDICATIONS,
            "amd.conf": "[general]\n",
            **dict.fromkeys(SILENCED, ""),
        }


# Files that may be empty but not absent, else the log opens with complaints that hide real ones.
SILENCED = _words("""
    acl.conf features.conf udptl.conf geolocation.conf pjproject.conf musiconhold.conf websocket_client.conf
    queuerules.conf queues.conf prometheus.conf confbridge.conf stasis.conf ccss.conf statsd.conf
""")

# Without a country's tones Playtones(busy) and Playtones(congestion) fail.
INDICATIONS = """[general]
country = us

[us]
description = United States
ringcadence = 2000,4000
dial = 350+440
busy = 480+620/500,0/500
ring = 440+480/2000,0/4000
congestion = 480+620/250,0/250
callwaiting = 440/300,0/10000
info = !950/330,!1400/330,!1800/330,0
"""


def open_files() -> int:
    """As many files as we may open: some six per call."""
    import resource

    return min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 65536)


class Ports:
    """Ports nobody else uses, kept from other labs on this machine by locks until closed.

    Below the range from which the kernel takes outgoing connections' ports, so that none is taken meanwhile.
    """

    def __init__(self) -> None:
        self._locks: list[IO[str]] = []
        self._directory = Path(tempfile.gettempdir()) / f"dialer-lab-ports-{os.getuid()}"
        self._directory.mkdir(exist_ok=True)

    def take(self) -> int:
        for _ in range(500):
            port = random.randrange(20000, 32000)
            lock = (self._directory / str(port)).open("w")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                    with socket.socket(socket.AF_INET, kind) as probe:
                        probe.bind(("127.0.0.1", port))
            except OSError:
                lock.close()
                continue
            self._locks.append(lock)
            return port
        raise LabError("no free port found")

    def take_many(self, count: int) -> Sequence[int]:
        return [self.take() for _ in range(count)]

    def close(self) -> None:
        for lock in self._locks:
            lock.close()
        self._locks.clear()

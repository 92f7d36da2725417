"""A telephone's cable, which can be pulled out: UDP between the PBX and the world through a port of its own."""

from __future__ import annotations

import socket
import threading
from collections.abc import Sequence
from contextlib import suppress

DATAGRAM = 65535


class Cables:
    """One relay for each of the ports; what comes from the PBX goes to the world and the other way round.

    A pulled cable swallows everything, as a telephone without power does: the PBX learns it when nobody answers.
    """

    def __init__(self, ports: Sequence[int], pbx: int, world: int) -> None:
        self._pulled: set[int] = set()
        self._sockets: list[socket.socket] = []
        for port in ports:
            relay = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            relay.bind(("127.0.0.1", port))
            self._sockets.append(relay)
            threading.Thread(target=self._carry, args=(relay, port, pbx, world), daemon=True).start()

    def pull(self, port: int, *, out: bool = True) -> None:
        (self._pulled.add if out else self._pulled.discard)(port)

    def close(self) -> None:
        """A read under way ends with the socket's shutdown."""
        for relay in self._sockets:
            with suppress(OSError):  # not connected, says Linux, and wakes the reader all the same
                relay.shutdown(socket.SHUT_RDWR)
            relay.close()

    def _carry(self, relay: socket.socket, port: int, pbx: int, world: int) -> None:
        while True:
            try:
                datagram, sender = relay.recvfrom(DATAGRAM)
                if sender is None:  # closed by us
                    return
                if port not in self._pulled:
                    relay.sendto(datagram, ("127.0.0.1", world if sender[1] == pbx else pbx))
            except OSError:
                return

"""dialer-engine simulate: a PBX and the people it calls, for trying the daemon without an Asterisk."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dialer_engine.cli.session import tell

if TYPE_CHECKING:
    from dialer_engine.simulator import Simulator

NUMBERS = """Who is called does what the last twelve digits of his number say:
  1 RR PPP SSSSSS    rings RR tenths of a second, answers, hangs up after PPP tenths unless an agent has him by then
  2 RR TTT SSSSSS    rings RR tenths of a second, answers, hangs up after TTT tenths
  3 RR 000 SSSSSS    rings, answers, stays until hung up
  4 RR A N KKKK SSS  rings, answers, after A half seconds presses the first N keys of KKKK (5 more: and a #); so does 9
  5 RR CCC SSSSSS    rings, rejects by the SIP code CCC (486 busy, 404 no such number, 503 ...)
  6 00 180 SSSSSS    rings for ever (6 00 100: is never heard of, 6 00 183: a ringing tone as early media)
  7 RR CCC SSSSSS    an announcement before the answer, then rejects by the SIP code CCC
  8 RR 000 SSSSSS    rings, an answering machine
Any other number is somebody of a population who answers, is busy, does not ... as its seed says."""

TALKS = (5.0, 40.0)
"""Seconds that an agent talks, at least and at most."""


def simulate(
    port: Annotated[int, typer.Option(min=0, max=65535, help="On 127.0.0.1; 0: any that is free.")] = 8088,
    ami_port: Annotated[int, typer.Option(min=0, max=65535, help="Of its AMI; 0: any that is free.")] = 5038,
    user: Annotated[str, typer.Option(help="As in ari.conf and manager.conf.")] = "dialer",
    password: Annotated[str, typer.Option(envvar="DIALER_SIMULATOR_PASSWORD")] = "simulated",
    speed: Annotated[
        float,
        typer.Option(min=0.01, help="Divides what callees and sounds take; our own time-outs it does not."),
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="Of everything that is random.")] = 0,
    every_number: Annotated[
        bool, typer.Option("--every-number", help="Everybody is of the population: no number is a script.")
    ] = False,
    dialplan: Annotated[
        bool, typer.Option("--dialplan/--no-dialplan", help="Is extensions_dialer.conf installed there?")
    ] = True,
    trunk: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A PJSIP endpoint beside carrier and carrier2.")
    ] = None,
    agents: Annotated[
        int,
        typer.Option(min=0, max=60, help="So many are logged in to the queue green: 1001 and the next ones."),
    ] = 0,
    world_log: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Append what the callees see and do.")
    ] = None,
    fault_log: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Append which events were spoilt by PUT /simulator/faults."),
    ] = None,
) -> None:
    """Be an Asterisk with a carrier and everybody it reaches, until Ctrl-C. Its ARI and AMI are the real one's."""
    from dialer_engine.simulator import Agent, Simulator  # the other commands need no HTTP server

    simulator = Simulator(
        username=user,
        password=password,
        port=port,
        ami_port=ami_port,
        speed=speed,
        seed=seed,
        every_number=every_number,
        dialplan=dialplan,
        trunks=trunk or (),
        agents=[
            Agent(str(extension), ("green",), f"Agent {extension}", talks=TALKS)
            for extension in range(1001, 1001 + agents)
        ],
        world_log=world_log,
        fault_log=fault_log,
    )
    asyncio.run(_until_told(simulator))


async def _until_told(simulator: Simulator) -> None:
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, told.set)
    async with simulator:
        where = f"{simulator.url}, AMI at port {simulator.ami_port}, user {simulator.username}"
        tell(f"simulated PBX: {where}", NUMBERS, "Ctrl-C ends it.")
        await told.wait()

"""The tree of commands, and those that stand at its top: run, check-config, call, demo, export, simulate,
stop-dialing."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from dialer_engine import __version__, log
from dialer_engine import config as configuration
from dialer_engine.cli import call, campaigns, demo, do_not_call, ivrs, lists, results, simulate, tokens, users
from dialer_engine.cli.session import ConfigFile, Visit, config_path, now, put_json, tell, visit

app = typer.Typer(
    name="dialer-engine",
    help="Predictive dialer for Asterisk: the daemon, and what its operators need.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(campaigns.app, name="campaign")
app.add_typer(lists.app, name="list")
app.add_typer(ivrs.app, name="ivr")
app.add_typer(do_not_call.app, name="dnc")
app.add_typer(users.app, name="user")
app.add_typer(tokens.app, name="token")
app.command("call")(call.call)
app.command("export")(results.export)
app.command("demo")(demo.demo)
app.command("simulate")(simulate.simulate)


@app.callback(invoke_without_command=True)
def _top(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(f"dialer-engine {__version__}")
        raise typer.Exit


@app.command("run")
def run(
    config: ConfigFile = None,
    console: Annotated[bool, typer.Option("--console", help="Log for a person, not as JSON.")] = False,
    wait_all: Annotated[bool, typer.Option("--wait-all", help="A stop waits for the last call.")] = False,
    volatile: Annotated[bool, typer.Option("--volatile", help='Allow redis.url = "embedded".')] = False,
    api_only: Annotated[
        bool, typer.Option("--api-only", help="Serve the API and dial nothing; no PBX is needed.")
    ] = False,
) -> None:
    """Be the daemon, until SIGTERM or Ctrl-C."""
    from dialer_engine import daemon  # the other commands start in half the time without it

    path = config_path(config)
    settings = configuration.load(path, needs_pbx=not api_only)
    end_log = log.setup(
        level=settings.log.level,
        show_numbers=settings.log.show_numbers,
        console=console and sys.stderr.isatty(),
    )
    options = daemon.Options(path, wait_all=wait_all, volatile=volatile, api_only=api_only)
    code = daemon.run(settings, options)
    end_log()
    raise typer.Exit(code)


@app.command("check-config")
def check_config(config: ConfigFile = None) -> None:
    """Say every mistake in the configuration, or print what is in force (secrets masked)."""
    path = config_path(config)
    put_json(configuration.load(path).shown())
    tell(f"{path or 'the environment'}: no mistakes")


@app.command("stop-dialing")
def stop_dialing(
    config: ConfigFile = None,
    resume: Annotated[bool, typer.Option("--resume", help="Dial again.")] = False,
) -> None:
    """No new call by any daemon, at once and over restarts, until --resume. Live calls go on."""

    async def work(at: Visit) -> None:
        if resume:
            await at.store.resume(by=at.by, now=now())
        else:
            await at.store.stop(by=at.by, now=now())

    visit(config, work)
    tell(
        "dialing goes on"
        if resume
        else "stopped: nothing new is dialed until `dialer-engine stop-dialing --resume`"
    )

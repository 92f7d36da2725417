"""dialer-engine user ...: people who log in to the API with a password."""

from __future__ import annotations

import getpass
import sys
from typing import Annotated

import typer

from dialer_engine.cli.session import AsJson, ConfigFile, Visit, moment, now, put_rows, tell, visit
from dialer_engine.errors import Invalid, Problem
from dialer_engine.store.accounts import RIGHTS, User

app = typer.Typer(help="Users of the API and what they may do.", no_args_is_help=True)

GOOD_LENGTH = 12

Name = Annotated[str, typer.Argument(metavar="NAME", help="1 to 64 letters, digits and _ . @ -")]
Rights = Annotated[
    list[str],
    typer.Option(
        "--rights",
        metavar="RIGHT",
        help="; ".join(f"{right}: {what}" for right, what in RIGHTS.items()) + " May be given twice.",
    ),
]


@app.command()
def add(name: Name, rights: Rights, config: ConfigFile = None) -> None:
    """Add a user; the password is read from standard input."""
    password = _password()

    async def work(at: Visit) -> None:
        await at.store.accounts.add_user(name, password, rights, by=at.by, now=now())

    visit(config, work)
    tell(f"user {name} added")


@app.command("list")
def list_(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """All users, one a line."""

    async def work(at: Visit) -> list[User]:
        return await at.store.accounts.users()

    rows = (
        (user.name, " ".join(sorted(user.rights)), moment(user.created_at), user.created_by)
        for user in visit(config, work)
    )
    put_rows(("name", "rights", "created", "by"), rows, as_json=as_json)


@app.command()
def remove(name: Name, config: ConfigFile = None) -> None:
    """Remove a user. What he was given, access and refresh tokens, is worth nothing from now on."""

    async def work(at: Visit) -> None:
        await at.store.accounts.remove_user(name, by=at.by, now=now())

    visit(config, work)
    tell(f"user {name} removed")


@app.command()
def password(name: Name, config: ConfigFile = None) -> None:
    """Give a user another password, read from standard input. It ends his sessions."""
    fresh = _password()

    async def work(at: Visit) -> None:
        await at.store.accounts.set_password(name, fresh, by=at.by, now=now())

    visit(config, work)
    tell(f"user {name} has a new password")


def _password() -> str:
    """From the keyboard twice and unseen, or the first line of standard input. Raises Invalid."""
    if sys.stdin.isatty():
        given = getpass.getpass("Password: ")
        if getpass.getpass("Once more: ") != given:
            raise Invalid([Problem("password", "was not the same twice")])
    else:
        given = sys.stdin.readline().rstrip("\r\n")
    if 0 < len(given) < GOOD_LENGTH:
        tell(f"a password of fewer than {GOOD_LENGTH} characters is easily guessed")
    return given

"""dialer-engine token ...: API tokens, for programs that have no password to type."""

from __future__ import annotations

from typing import Annotated

import typer

from dialer_engine.cli.session import AsJson, ConfigFile, Visit, end, moment, now, put_rows, tell, visit
from dialer_engine.cli.users import Name, Rights
from dialer_engine.store.accounts import ApiToken

app = typer.Typer(help="API tokens for programs.", no_args_is_help=True)

Until = Annotated[str | None, typer.Option("--until", metavar="TIME", help="ISO 8601; without it, for ever.")]


@app.command()
def create(name: Name, rights: Rights, config: ConfigFile = None, until: Until = None) -> None:
    """Make a token and print it, alone on standard output. It cannot be shown again."""
    ends_at = end(until, "--until")

    async def work(at: Visit) -> str:
        return await at.store.accounts.create_token(name, rights, until=ends_at, by=at.by, now=now())

    print(visit(config, work))


@app.command("list")
def list_(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """All tokens but not their secrets, one a line."""

    async def work(at: Visit) -> list[ApiToken]:
        return await at.store.accounts.tokens()

    rows = (
        (
            token.name,
            " ".join(sorted(token.rights)),
            moment(token.created_at),
            token.created_by,
            moment(token.until),
        )
        for token in visit(config, work)
    )
    put_rows(("name", "rights", "created", "by", "until"), rows, as_json=as_json)


@app.command()
def revoke(name: Name, config: ConfigFile = None) -> None:
    """End a token: the next request with it is refused."""

    async def work(at: Visit) -> None:
        await at.store.accounts.revoke_token(name, by=at.by, now=now())

    visit(config, work)
    tell(f"token {name} revoked")

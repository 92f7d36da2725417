"""The lab and a daemon on it: one for each module, and more of them where a test ends or restarts its own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.lab.fixtures import lab
from tests.lab.lab import Lab
from tests.rig import Rig

__all__ = ["lab"]

_apps = itertools.count(1)


@pytest.fixture(scope="module")
def new_rig(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Rig]]:
    """Makes rigs with a Redis and a Stasis application of their own; the daemon is not started."""
    with ExitStack() as rigs:

        def make(toml: str = "") -> Rig:
            app = f"dialer{next(_apps)}"
            return rigs.enter_context(Rig(tmp_path_factory.mktemp("rig"), lab, toml=toml, name=app, app=app))

        yield make
        lab.hang_up_everything()


@pytest.fixture(scope="module")
def rig(new_rig: Callable[[str], Rig], request: pytest.FixtureRequest) -> Rig:
    """The daemon that a module's tests share, with the configuration in its `TOML`."""
    rig = new_rig(getattr(request.module, "TOML", ""))
    rig.start()
    return rig

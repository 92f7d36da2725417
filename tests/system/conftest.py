"""A lab and a daemon on it: one for each module, and more of them where a test ends or restarts its own.

A module marked `lab`, and a test marked so, is for the real one; all others that want a lab run on the simulated one,
too.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.lab.fixtures import lab as real_lab
from tests.rig import Rig
from tests.simulated import AnyLab, SimulatedLab

__all__ = ["real_lab"]

_apps = itertools.count(1)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "lab" not in metafunc.fixturenames:
        return
    labs = [pytest.param("real", marks=pytest.mark.lab, id="lab")]
    if metafunc.definition.get_closest_marker("lab") is None:
        labs.insert(0, pytest.param("simulated", id="simulated"))
    metafunc.parametrize("lab", labs, indirect=True, scope="module")


@pytest.fixture(scope="module")
def lab(request: pytest.FixtureRequest) -> Iterator[AnyLab]:
    """The real one or the simulated one."""
    if request.param == "real":
        yield request.getfixturevalue("real_lab")
        return
    with SimulatedLab() as simulated:
        yield simulated


@pytest.fixture(scope="module")
def new_rig(lab: AnyLab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Rig]]:
    """Makes rigs with a Redis and a Stasis application of their own; the daemon is not started."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
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

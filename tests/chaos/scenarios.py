"""The faults, one function each; every one ends with the ledger's verdict on everybody's calls."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.chaos.ledger import Ledger, Verdict
from tests.chaos.place import Place, place
from tests.lab.lab import Lab


def kills(lab: Lab, seed: int, count: int = 200) -> Verdict:
    """kill -9 of the daemon at random moments, at once or after a pause started again."""
    verdict = Verdict(f"kill -9 of the daemon, {count} times", seed)
    with place(lab, seed, proxied=False) as here:
        dice = here.dice
        here.feed()
        idle = here.rig.campaign(None, whenDone="wait", callLists=[])
        for n in range(count):
            here.rig.begin(here.feed())
            time.sleep(_lifetime(here))
            here.look_at_the_dead(here.rig.murder())
            if dice.random() < 0.3:  # orders given while nobody is there must not get in the way of recovery
                for order in ("pause", "unpause"):
                    here.rig.command(idle, order)
            if dice.random() < 0.4:
                time.sleep(dice.uniform(0.0, 4.0 if n % 10 else 9.0))
        here.rig.begin(here.feed())
        here.run_out()
        ledger = Ledger(here)
        ledger.audit(verdict)
        ledger.restarts(verdict)
        verdict.figures["calls met by kills"] = dict(here.phases.most_common())
        verdict.figures["kills that met such a call"] = dict(here.met.most_common())
        orders = here.rig.redis.llen(here.rig.key("commands"))
        verdict.expect(not orders, f"{orders} orders were not obeyed")
    return verdict


def _lifetime(here: Place) -> float:
    """A process takes some 0.9 s to be connected; some lives end before that, most amid the first calls."""
    kind = here.dice.random()
    if kind < 0.1:
        return here.dice.uniform(0.05, 1.0)
    return here.dice.uniform(1.0, 3.3) if kind < 0.8 else here.dice.uniform(3.3, 6.0)


SCENARIOS: dict[str, Callable[[Lab, int], Verdict]] = {
    "kills": kills,
}

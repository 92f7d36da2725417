"""`python -m tests.chaos [--simulated] [--seed N] [--kills N] [SCENARIO ...]`: the figures of every scenario, or of
those named, on the lab or on the simulated one."""

from __future__ import annotations

import argparse
import secrets
import sys
import time

from tests.chaos.scenarios import SCENARIOS, kills
from tests.lab.lab import Lab
from tests.simulated import SimulatedLab

SPEED = 4.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=None, help="repeat the run of this seed")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument(
        "--simulated", action="store_true", help="no Asterisk; its callees are SPEED times as fast"
    )
    parser.add_argument("--speed", type=float, default=SPEED, help="of the simulated callees")
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=", ".join(SCENARIOS))
    chosen = parser.parse_args()
    unknown = set(chosen.scenarios) - SCENARIOS.keys()
    if unknown:
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}")
    seed = secrets.randbelow(10**6) if chosen.seed is None else chosen.seed
    print(f"seed {seed}", flush=True)
    failed = 0
    with SimulatedLab(speed=chosen.speed, seed=seed) if chosen.simulated else Lab() as lab:
        for name in chosen.scenarios or SCENARIOS:
            began = time.monotonic()
            verdict = kills(lab, seed, chosen.kills) if name == "kills" else SCENARIOS[name](lab, seed)
            verdict.figures["took"] = f"{time.monotonic() - began:.0f} s"
            print(verdict.text(), flush=True)
            failed += bool(verdict.wrong)
    options = f"--simulated --speed {chosen.speed:g} " if chosen.simulated else ""
    print(f"again: python -m tests.chaos {options}--seed {seed} {' '.join(chosen.scenarios)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

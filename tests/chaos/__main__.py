"""`python -m tests.chaos [--seed N] [--kills N] [SCENARIO ...]`: the figures of every scenario, or of those named."""

from __future__ import annotations

import argparse
import secrets
import sys
import time

from tests.chaos.scenarios import SCENARIOS, kills
from tests.lab.lab import Lab


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=None, help="repeat the run of this seed")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=", ".join(SCENARIOS))
    chosen = parser.parse_args()
    unknown = set(chosen.scenarios) - SCENARIOS.keys()
    if unknown:
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}")
    seed = secrets.randbelow(10**6) if chosen.seed is None else chosen.seed
    print(f"seed {seed}", flush=True)
    failed = 0
    with Lab() as lab:
        for name in chosen.scenarios or SCENARIOS:
            began = time.monotonic()
            verdict = kills(lab, seed, chosen.kills) if name == "kills" else SCENARIOS[name](lab, seed)
            verdict.figures["took"] = f"{time.monotonic() - began:.0f} s"
            print(verdict.text(), flush=True)
            failed += bool(verdict.wrong)
    print(f"again: python -m tests.chaos --seed {seed} {' '.join(chosen.scenarios)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

"""Replay one simulated world: ``make sim SEED=4711``."""

import argparse
import sys

from tests.sim.mutations import MUTATIONS
from tests.sim.world import PRODUCT, SimulationError, run_seed, template


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--mutation", choices=sorted(MUTATIONS), help="plant this bug")
    arguments = parser.parse_args()
    parts = MUTATIONS[arguments.mutation].parts if arguments.mutation else PRODUCT
    with template() as folder:
        try:
            run_seed(arguments.seed, folder, parts=parts, tell=print)
        except SimulationError as error:
            print(f"FAILED {error.check}\n{str(error).splitlines()[0]}")
            return 1
    print(f"seed {arguments.seed}: every check held")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The command line: run the seeds, and print a line for each."""

import argparse
import sys

from tests.chaos import simulation
from tests.chaos.simulation.report import SimulationError
from tests.chaos.simulation.runs import STORES, run
from tests.support.output import print_line


def main() -> None:
    """Run the seeds, and print a line for each."""
    options = _options()
    for seed in range(options.seed, options.seed + options.seeds):
        try:
            report = run(options.store, seed, options.steps)
        except SimulationError as exc:
            notes = "\n".join(exc.__notes__)
            sys.exit(f"FAIL  {options.store}, seed {seed}: {exc}\n{notes}")
        print_line(
            f"ok    {options.store}, seed {seed}: {report.steps} steps, {report.events} deliveries,"
            f" {report.simulated_days:.0f} days, {1000 * report.seconds / report.steps:.2f} ms per step;"
            f" {dict(report.faults)}; {len(report.explained)} losses, each reported"
        )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=simulation.__doc__)
    parser.add_argument("--store", choices=STORES, default="sqlite")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--seeds", type=int, default=1, help="the number of runs, each with the next seed")
    return parser.parse_args()


if __name__ == "__main__":
    main()

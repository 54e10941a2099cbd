"""python -m lib.attacks: make a network's adversarial sets, or look at those that are there."""

import argparse
import sys

from lib import compute, config, data, permission
from lib.attacks.sets import adversarials
from lib.attacks.suite import SUITE, AttackError, find


def main(arguments: list[str] | None = None) -> int:
    """The command line. Returns: its exit code."""
    parser = argparse.ArgumentParser(prog="python -m lib.attacks", description=__doc__)
    parser.add_argument("--scale", default="smoke", choices=config.SCALES)
    parser.add_argument("--network", required=True, help="a key of `networks` in config/<scale>.yaml")
    parser.add_argument("--seed", type=int, default=0, help="of the network and of the attack")
    parser.add_argument(
        "--attack", nargs="+", choices=SUITE, default=list(SUITE), metavar="A", help=f"{', '.join(SUITE)}; default: all"
    )
    chosen = parser.parse_args(arguments)
    try:
        compute.set_threads(config.load(chosen.scale).compute.threads)
        compute.deterministic()
        for name in chosen.attack:
            with permission.asked():
                made = adversarials(chosen.network, chosen.scale, chosen.seed, name=name)
            print(
                f"{find(name).label}: {made.success_rate:.1%} of {len(made)} images, median {find(name).norm} distance "
                f"{made.median_distance:.4g}, {made.seconds:.1f} s",
                flush=True,
            )
    except (AttackError, config.ConfigError, data.DataError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

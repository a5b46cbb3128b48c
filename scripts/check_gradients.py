"""Compare the gradients of variants with the official model's, every parameter, over several seeds.

    python scripts/check_gradients.py a0-base a0-stream a2-base a2-stream
    python scripts/check_gradients.py a0-stream --dtype float64
    python scripts/check_gradients.py a0-stream --frames 2 2 --norms inference

Needs the extra [tf]. One row per step: the largest relative difference of gradients and moving
statistics, and in float32 the distance of each from float64. Exits with 1 if a tolerance is
exceeded: 1e-4 with the normalisations in inference mode, 1e-3 in training mode, and 1e-4 for the
moving statistics after the step; in float64 1e-9 for gradients and 1e-7 for statistics.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from movinet_convert.model.settings import get_variant
from tests.parity.gradients import TOLERANCES, compare_gradients, training_reference

if TYPE_CHECKING:
    from tests.parity.gradients import GradientComparison

ROW = "{:10} {:9} {:>4} {:>6}  {:>8} {:>8} {:>8}  {:>8}  {}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", metavar="VARIANT")
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    parser.add_argument("--norms", nargs="+", choices=list(TOLERANCES), default=list(TOLERANCES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], metavar="N")
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--frames", type=int, nargs="+", default=[4], metavar="N")
    parser.add_argument("--size", type=int, default=64)
    args = parser.parse_args()
    titles = ("variant", "norms", "seed", "params", "TF-ours", "ours-64", "TF-64", "moving")
    print(ROW.format(*titles, "the worst gradient"), flush=True)
    failed = False
    for name in args.names:
        reference = training_reference(get_variant(name), dtype=args.dtype)
        for norms in args.norms:
            for seed in args.seeds:
                comparison = compare_gradients(
                    reference,
                    norms=norms,
                    clips=args.clips,
                    frames=args.frames,
                    height=args.size,
                    width=args.size,
                    seed=seed,
                )
                failed |= bool(comparison.faults())
                print(_row(comparison, seed), flush=True)
    sys.exit(1 if failed else 0)


def _row(comparison: GradientComparison, seed: int) -> str:
    worst = [
        f"{comparison.worst(differences).relative:.1e}" if differences else "-"
        for differences in (
            comparison.gradients,
            comparison.rounding,
            comparison.reference_rounding,
            comparison.statistics,
        )
    ]
    name = comparison.worst(comparison.gradients).name
    return ROW.format(
        comparison.variant.name, comparison.norms, seed, len(comparison.gradients), *worst, name
    )


if __name__ == "__main__":
    main()

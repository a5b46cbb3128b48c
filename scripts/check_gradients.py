"""Compare the gradients of variants with the official model's, every parameter.

    python scripts/check_gradients.py a0-base a0-stream a2-base a2-stream

Needs the extra [tf]. Prints the largest relative difference and where it is; exits with 1 where a
tolerance is exceeded: 1e-4 with the normalisations in inference mode, 1e-3 in training mode, and
1e-4 for the moving statistics after the step.
"""

from __future__ import annotations

import argparse
import sys

from movinet_convert.parity.gradients import compare_gradients, training_reference
from movinet_convert.variants import get_variant

TOLERANCES = {"inference": 1e-4, "training": 1e-3}
STATISTICS_TOLERANCE = 1e-4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", metavar="VARIANT")
    parser.add_argument("--clips", type=int, default=2)
    parser.add_argument("--frames", type=int, nargs="+", default=[4], metavar="N")
    parser.add_argument("--size", type=int, default=48)
    # With some seeds a gradient is by chance next to zero, a difference of large sums of which
    # float32 gives either program its own rounding; the printed rounding tells. Not with this one.
    parser.add_argument("--seed", type=int, default=3)
    args = parser.parse_args()
    failed = False
    for name in args.names:
        reference = training_reference(get_variant(name))
        for norms, tolerance in TOLERANCES.items():
            report = compare_gradients(
                reference,
                norms=norms,  # type: ignore[arg-type]
                clips=args.clips,
                frames=args.frames,
                height=args.size,
                width=args.size,
                seed=args.seed,
            )
            worst = report.worst(report.gradients)
            failed |= bool(report.faults(tolerance))
            line = (
                f"{name:10} {norms:9} {len(report.gradients):4} gradients: "
                f"worst {worst.relative:.1e} {worst.name}; rounding ours "
                f"{report.worst(report.rounding).relative:.1e}, TensorFlow's "
                f"{report.worst(report.reference_rounding).relative:.1e}"
            )
            if report.statistics:
                statistic = report.worst(report.statistics)
                failed |= statistic.relative > STATISTICS_TOLERANCE
                line += f"; {len(report.statistics)} statistics: worst {statistic.relative:.1e}"
            print(line, flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()

"""Run ``movinet-convert demo`` until its page is served, then press Ctrl-C.

python -m tests.helpers.served demo a0-stream
"""

from __future__ import annotations

import signal
import subprocess
import sys

SERVED = "The page is at http://127.0.0.1:"


def main() -> int:
    command = [sys.executable, "-m", "movinet_convert", *sys.argv[1:], "--no-browser"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            sys.stderr.write(line)
            if line.startswith(SERVED):
                process.send_signal(signal.SIGINT)
        return process.wait()


if __name__ == "__main__":
    sys.exit(main())

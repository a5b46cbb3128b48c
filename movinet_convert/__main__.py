"""``python -m movinet_convert`` is the command ``movinet-convert``."""

from movinet_convert.cli.app import main

main(prog_name="movinet-convert")

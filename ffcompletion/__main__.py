"""``python -m ffcompletion``."""

from ffcompletion.cli import main

main()

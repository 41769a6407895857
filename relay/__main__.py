"""`python -m relay` is `outbox relay`."""

import sys

from app.cli import main

if __name__ == "__main__":
    main(["relay", *sys.argv[1:]])

"""Break everything on purpose, under load, and let a machine judge what is left: `python -m tests.chaos --help`."""

"""Bugs that are put into the product on purpose, each for one test: the suite's checks must catch every one of them.

The product has no switches for them. What seeds one is a patch of its code, made and taken back by the test.
"""

from tests.seeded_bugs import input_bugs, relay_bugs

BUGS = (*relay_bugs.BUGS, *input_bugs.BUGS)

"""When two names of users are the same."""

import unicodedata


def fold(name: str) -> str:
    """The form in which names are compared: two names are equal, ignoring case, if their folds are.

    Canonical caseless matching (Unicode 3.13, D145): it also ignores whether "й" came as one character or as
    two.
    """
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())

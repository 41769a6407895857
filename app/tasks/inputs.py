"""When two tasks are the same, and when two inputs are."""

import hashlib
import re
import unicodedata

from app.tasks.outcomes import TaskType

_SPACE = re.compile(r"\s+")
_PUNCTUATION = re.compile(r"[\s()\-.]")
_RUSSIAN = re.compile(r"\+?[78]\d{10}")


def fingerprint(task_type: TaskType, text: str) -> bytes:
    """Equal for tasks that ask the same in the same words."""
    return hashlib.sha256(f"{task_type}\0{text}".encode()).digest()


def cache_key(task_type: TaskType, text: str) -> bytes | None:
    """Equal for inputs that get the same answer; None where each question gets an answer of its own.

    A hash, because the inputs are personal data.
    """
    if task_type == "gpt":
        return None
    return fingerprint(task_type, _normalise(task_type, text))


def _normalise(task_type: TaskType, text: str) -> str:
    """Without what Dadata itself passes over: spaces, the case of an email, punctuation inside of one whole phone.

    Anything less clear than one Russian phone with all its digits keeps its punctuation: it may tell two phones apart.
    """
    plain = _SPACE.sub(" ", unicodedata.normalize("NFC", text)).strip()
    if task_type == "email":
        return plain.casefold()
    digits = _PUNCTUATION.sub("", plain)
    return digits if _RUSSIAN.fullmatch(digits) else plain

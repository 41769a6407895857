"""Headers as they lie in the outbox.

Either a list of name, value, name, value and so on, or one part with all of them as they stand in a record of Kafka
(version 2 of its format, KIP-82): their number, then each as length, name, length, value; lengths are zigzag varints.
`add` stores them so, because what is made here once need not be made by the relay, which has less time. Whoever writes
SQL stores a list; the function `outbox_headers` makes one of either.
"""

from collections.abc import Sequence

_MORE = 128
"""A byte from here on is not the last of its varint."""
_AT_ONCE = 32
"""More headers than this are stored as a list: their number, with the relay's own, must stay one byte."""


def zigzag(number: int) -> bytes:
    """A signed number, as Kafka writes lengths: small ones of either sign take few bytes."""
    rest = number << 1 ^ number >> 63
    result = bytearray()
    while rest >= _MORE:
        result.append(rest % _MORE + _MORE)
        rest //= _MORE
    result.append(rest)
    return bytes(result)


LENGTHS = [zigzag(number) for number in range(1 << 13)]
"""Those of up to two bytes, ready-made: nearly all there are."""


def sized(part: bytes) -> bytes:
    """A part of a record, its length first."""
    length = len(part)
    return (LENGTHS[length] if length < len(LENGTHS) else zigzag(length)) + part


def header(name: bytes, value: bytes) -> bytes:
    """A header of a record."""
    return sized(name) + sized(value)


def stored(headers: Sequence[tuple[str, bytes]]) -> list[bytes]:
    """What is stored of these headers."""
    pairs = [(name.encode(), value) for name, value in headers]
    if not 0 < len(pairs) <= _AT_ONCE:
        return [part for pair in pairs for part in pair]
    return [b"".join((LENGTHS[len(pairs)], *(header(name, value) for name, value in pairs)))]

"""The messages that are measured: the same for everybody, and as `outbox.add` would write them."""

import random
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from app.outbox.headers import stored
from app.outbox.message import event

TYPE = "application.created"
SOURCE = "/outbox-service"
_SYLLABLES = [
    "ba",
    "be",
    "bi",
    "bo",
    "da",
    "de",
    "di",
    "do",
    "fa",
    "fe",
    "ga",
    "go",
    "ka",
    "ke",
    "ki",
    "ko",
    "la",
    "le",
    "li",
    "lo",
    "ma",
    "me",
    "mi",
    "mo",
    "na",
    "ne",
    "ra",
    "re",
    "sa",
    "se",
    "ta",
    "te",
    "to",
]
_TEXT = 1_000_000


@dataclass(frozen=True, slots=True)
class Sample:
    """A message. `headers` is flat: name, value, name, value and so on; `stored_headers` are as the outbox has them."""

    message_id: UUID
    key: bytes
    headers: list[bytes]
    stored_headers: list[bytes]
    payload: bytes


def samples(count: int, *, topic: str, keys: int = 1000, size: int = 300, seed: int = 1) -> list[Sample]:
    """`count` messages with payloads of `size` bytes of JSON, over `keys` keys in no order; the same for each seed.

    Text made of words, an id and a name: about as compressible as what people type.
    """
    dice = random.Random(seed)
    words = ["".join(dice.choices(_SYLLABLES, k=dice.randint(1, 4))) for _ in range(2000)]
    text = " ".join(dice.choices(words, k=_TEXT // 5))
    names = [str(UUID(int=dice.getrandbits(128), version=4)) for _ in range(keys)]
    result = []
    for number in range(count):
        key = names[dice.randrange(keys)]
        head = f'{{"application_id":{number},"user_name":"{key}","description":"'
        start = dice.randrange(len(text) - size)
        body = text[start : start + size - len(head) - 2]
        message = event(topic=topic, key=key, type=TYPE, source=SOURCE, data=f'{head}{body}"}}'.encode())
        traceparent = f"00-{dice.getrandbits(128):032x}-{dice.getrandbits(64):016x}-01".encode()
        named = (*message.headers, ("traceparent", traceparent))
        headers = [part for name, value in named for part in (name.encode(), value)]
        result.append(Sample(_version_7(number, dice), key.encode(), headers, stored(named), message.payload or b""))
    return result


def _version_7(number: int, dice: random.Random) -> UUID:
    """A UUID that begins with a time, as those of the outbox do: it costs an index less than a random one."""
    milliseconds = 1_700_000_000_000 + number
    return UUID(int=milliseconds << 80 | 7 << 76 | dice.getrandbits(12) << 64 | 2 << 62 | dice.getrandbits(62))


def record_headers(message_id: UUID, headers: list[bytes], created_at: datetime) -> list[tuple[str, bytes]]:
    """The headers of the Kafka record, the same as the relay's, so that everybody sends the same bytes."""
    flat = iter(headers)
    return [
        ("ce_specversion", b"1.0"),
        ("ce_id", str(message_id).encode()),
        ("ce_type", TYPE.encode()),
        ("ce_time", f"{created_at.isoformat(timespec='microseconds')[:26]}Z".encode()),
        *((name.decode(), value) for name, value in zip(flat, flat, strict=True)),
    ]


def now() -> datetime:
    return datetime.now(UTC)

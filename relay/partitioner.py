"""Which partition a key belongs to: the choice of Kafka's own clients (murmur2), so that ours and theirs agree."""

from functools import lru_cache

_MASK = 0xFFFFFFFF
_M = 0x5BD1E995


def murmur2(data: bytes) -> int:
    """MurmurHash2, 32 bits, with the seed of Kafka's DefaultPartitioner."""
    length = len(data)
    h = 0x9747B28C ^ length
    whole = length & ~3
    for i in range(0, whole, 4):
        k = int.from_bytes(data[i : i + 4], "little") * _M & _MASK
        k = (k ^ k >> 24) * _M & _MASK
        h = h * _M & _MASK ^ k
    if whole < length:
        h = (h ^ int.from_bytes(data[whole:], "little")) * _M & _MASK
    h = (h ^ h >> 13) * _M & _MASK
    return h ^ h >> 15


@lru_cache(maxsize=65_536)  # keys repeat; hashing in Python costs about 0.1 µs a byte
def partition_of(key: bytes, partitions: int) -> int:
    """The partition, from 0 to `partitions` - 1, that messages with this key go to."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions

"""Which partition a key lives in: a decision of our own, because every client library has another one.

An object store's notifier hashes keys by FNV-1a, the Java and Python clients by murmur2: with their defaults one object
would have two homes, and the order of what happened to it would be lost. Once entries are stored the answer may never
change, so the tests pin it by known values, and the number of partitions is fixed at installation.
"""

from __future__ import annotations

from hashlib import blake2b


def partition_of(key: bytes, partitions: int) -> int:
    """The home of `key` among `partitions` >= 1: the first 8 bytes of its BLAKE2b digest, big endian, modulo."""
    if partitions == 1:
        return 0
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "big") % partitions

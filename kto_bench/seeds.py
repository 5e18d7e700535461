"""Seeds by axis: one number of the user's, and a stream of its own for everything that is random.

Streams are derived by hashing names, so two losses at the same seed see the same data order, and adding a cell or a
stream to a sweep changes no other.
"""

from __future__ import annotations

import hashlib


def derive(seed: int, *names: str | int) -> int:
    """A seed in [0, 2**31) for the stream called ``names`` (for example ``derive(3, "data order", epoch)``)."""
    text = "\x1f".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") & 0x7FFFFFFF

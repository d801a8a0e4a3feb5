"""Random bits: a stateless function of names, the same on every machine and in every version of NumPy."""
from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

BLOCK = 4  # integers that Philox makes of one value of its counter


def random_bits(stop: int, *key: object, start: int = 0) -> npt.NDArray[np.uint64]:
    """The uniform 64-bit integers number `start` to `stop`, exclusive, of the stream that `key` names."""
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    stream = np.random.Philox(key=int.from_bytes(digest[:16], "little"))
    stream.advance(start // BLOCK)  # by blocks: the counter goes up by one for each
    before = start % BLOCK
    bits: npt.NDArray[np.uint64] = np.atleast_1d(stream.random_raw(stop - start + before))
    return bits[before:]

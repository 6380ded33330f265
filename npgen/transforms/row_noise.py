"""Noise that is a function of the row: what Dequantize adds where there is no stream.

Legend: n rows, d columns, m words.
"""
import numpy as np


def _mix(h):
    """Scramble 64-bit words: the finaliser of SplitMix64 (Steele, Lea and Flood 2014)."""
    h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return h ^ (h >> np.uint64(31))


class RowNoise:
    """In a stream's place: uniforms that are a function of each row of words (n, m), unsigned 64-bit integers."""

    def __init__(self, words):
        self._row, self._n_drawn = _mix(words + self._columns(0, words.shape[1], words)), 0
        self._row = _mix(self._row.sum(axis=1, dtype=np.uint64, keepdims=True))

    @classmethod
    def of(cls, x):
        """Of rows of any numbers: float64 and float32 rows that round to the same float32 have the same noise."""
        with np.errstate(over="ignore"):
            return cls((x.astype(np.float32) + np.float32(0)).view(np.uint32).astype(np.uint64))  # -0 is 0

    def uniform(self, shape, dtype, like=None):
        """(n, d) in [0, 1), each a hash of its whole row and of how many columns were drawn before it."""
        column = self._columns(self._n_drawn, shape[1], self._row)
        self._n_drawn += shape[1]
        return ((_mix(self._row + column) >> np.uint64(11)) * 2.0**-53).astype(dtype)

    @staticmethod
    def _columns(start, n, like):
        return np.arange(start + 1, start + n + 1, dtype=np.uint64, like=like) * np.uint64(0x9E3779B97F4A7C15)

"""All weight-based connections of a set of transcoders: arithmetic on tensors, no files.

Everything is a dot product of vectors that :mod:`ingest.folding` made. Nothing of the size features x features is ever
held: products are looked at a tile at a time, and what the rules of :class:`Keep` keep is all that stays. ::

    units.compute     a block of rows against all its columns: what its rows keep, statistics, candidates for columns
      moments         mean and deviation of every row, before the product
      tiles.scan      the seam for speed: all products once, the wanted pairs and the sums come out
        compiled      on the CPU: a product a tile (multiply), then the compiled comparison (sweep)
        portable      on an accelerator, by torch or one Triton kernel (fused), in few bits where they do (precision)
      kernels         compiled: exact weights, order, the strongest of each group
    merging.merge     what columns keep, from all units' candidates
"""

from ingest.edges.merging import Kept, merge, union
from ingest.edges.moments import Spread, moments, spread
from ingest.edges.pool import Pool
from ingest.edges.strips import ahead
from ingest.edges.units import Candidates, Group, Keep, Result, Rules, compute, rules

__all__ = [
    "Candidates",
    "Group",
    "Keep",
    "Kept",
    "Pool",
    "Result",
    "Rules",
    "Spread",
    "ahead",
    "compute",
    "merge",
    "moments",
    "rules",
    "spread",
    "union",
]

"""Triton's kernels are interpreted here: their logic is tested, without an accelerator.

The variable must be there before :mod:`ingest.edges.fused` is first imported, which only a test of it does.
"""

import os

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

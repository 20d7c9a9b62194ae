"""Transcoders trained on a model's own activations: three activations, one loop.

A transcoder stands in for one MLP: it reads what the MLP module reads (site ``norm_post_gain``) and writes what the
module returns (``mlp_raw``). :mod:`~ingest.train.activations` runs the model, :mod:`~ingest.train.dictionary` is the
network, :mod:`~ingest.train.loop` trains it, :mod:`~ingest.train.measure` says how good it is,
:mod:`~ingest.train.files` writes it.
"""

from ingest.train.activations import windows
from ingest.train.dictionary import Activation, Settings
from ingest.train.loop import Progress, train_transcoders
from ingest.train.measure import Fidelity, Recovery, fidelity, recovery

__all__ = [
    "Activation",
    "Fidelity",
    "Progress",
    "Recovery",
    "Settings",
    "fidelity",
    "recovery",
    "train_transcoders",
    "windows",
]

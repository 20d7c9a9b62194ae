"""From weights and activations to a staged build.

Axes of tensors, by name::

    n_vocab       rows of the embedding, padding included
    n_positions   learned positions
    n_features    features of one layer; n_src and n_dst where two layers meet
    d_model       the residual stream
    d_in, d_out   what a transcoder reads and writes: d_model for one that stands in for an MLP

Rows are features, always; a vector of the stream is a row.

Sites, where a transcoder reads and writes, are a closed list (:class:`atlas.model.ReadSite`,
:class:`atlas.model.WriteSite`)::

    stream ─┬─ norm ─┬─ gain ─┬─ MLP ─┬─ post norm ─┬─ stream
            │        │        │       │             └ mlp_post_norm
            │        │        │       └ mlp_raw, mlp_raw_centred
            │        │        └ norm_post_gain
            │        └ norm_pre_gain
            └ resid_mid, resid_mid_centred

``*_centred``: the same tensor with its mean over d_model taken off, as TransformerLens' processed models show it.
The post norm stands in Gemma 2 and 3 only. :mod:`ingest.sources.hooks` says which published hook name is which site,
:mod:`ingest.folding` what each does to an edge.
"""

from ingest.build import build, plan, share
from ingest.edges import Keep
from ingest.plan import compared
from ingest.ranks import Rank
from ingest.registering import register
from ingest.through import KEEP as KEEP_HEADS

__all__ = ["KEEP_HEADS", "Keep", "Rank", "build", "compared", "plan", "register", "share"]

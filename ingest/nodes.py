"""The node tables of a build: model, set, run, tokens, features (:data:`atlas.schema.NODES`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from atlas import schema
from atlas.model import FeatureKey, TokenKey
from atlas.provenance import Run, canonical

if TYPE_CHECKING:
    from ingest.folding import Vectors
    from ingest.plan import Sizes
    from ingest.transcoder import SetInfo
    from ingest.weights import ModelWeights


@dataclass
class LayerRows:
    """What a build knows of one layer's features; arrays are [n_features] or [n_features, n_layers]."""

    label: list[str]
    label_source: list[str]
    l1_in: np.ndarray
    l1_out: np.ndarray
    tokens: np.ndarray
    """mean and deviation of the weights from all tokens [2, n_features]"""
    logits: np.ndarray
    means_in: np.ndarray
    stds_in: np.ndarray
    cut_in_z: np.ndarray
    cut_out_z: np.ndarray
    cuts_in: np.ndarray
    cuts_out: np.ndarray
    cut_tokens: np.ndarray
    """positive and negative [2, n_features]"""
    cut_logits: np.ndarray


def name(rows: LayerRows, directions: list[str]) -> None:
    """Label the last features of a layer, its directions, with their names."""
    if directions:
        rows.label[-len(directions) :] = directions
        rows.label_source[-len(directions) :] = ["direction"] * len(directions)


def model(name: str, weights: ModelWeights) -> pa.Table:
    return _one(
        "Model",
        key=name,
        name=name,
        family=weights.family,
        n_layers=weights.n_layers,
        d_model=weights.d_model,
        n_vocab=weights.n_vocab,
        tokenizer=weights.vocabulary.name,
        repo=weights.repo,
        revision=weights.revision,
    )


def transcoder_set(
    model: str, name: str, info: SetInfo, sizes: Sizes, cut: dict[str, Any], n_edges: int, run: Run
) -> pa.Table:
    return _one(
        "TranscoderSet",
        key=f"{model}/{name}",
        model=model,
        name=name,
        kind="directions" if sum(sizes.n_features) > sum(info.n_features.values()) else info.kind,
        read_site=str(info.read),
        write_site=str(info.write),
        activation=str(info.activation),
        n_layers=len(sizes.layers),
        n_features=sum(sizes.n_features),
        n_edges=n_edges,
        repo=info.repo,
        revision=info.revision,
        saelens_release=info.saelens_release or "",
        neuronpedia_id=info.neuronpedia_id or "",
        label_source="tokens",
        cut=canonical(cut),
        run=run.id,
    )


def run_node(run: Run) -> pa.Table:
    return _one("Run", **run.row())


def tokens(vocabulary: str, texts: list[str]) -> pa.Table:
    rows = range(len(texts))
    columns = {
        "key": [str(TokenKey(vocabulary, row)) for row in rows],
        "vocabulary": [vocabulary] * len(texts),
        "token_id": list(rows),
        "text": texts,
    }
    return pa.table(columns, schema=schema.NODE["Token"].arrow)


def features(model: str, name: str, layer: int, vectors: Vectors, rows: LayerRows) -> pa.Table:
    """One layer's features, by idx."""
    n = len(rows.label)
    columns: dict[str, Any] = {
        "key": [str(FeatureKey(model, layer, name, idx)) for idx in range(n)],
        "model": [model] * n,
        "set": [f"{model}/{name}"] * n,
        "layer": np.full(n, layer),
        "idx": np.arange(n),
        "label": rows.label,
        "label_source": rows.label_source,
        "bias": vectors.bias(layer).cpu().numpy(),
        "threshold": vectors.threshold(layer).cpu().numpy(),
        "norm_enc": vectors.norm_enc(layer).cpu().numpy(),
        "norm_dec": vectors.norm_dec(layer).cpu().numpy(),
        "constant": vectors.constant(layer).cpu().numpy(),
        "l1_in": rows.l1_in,
        "l1_out": rows.l1_out,
        "mean_tokens": rows.tokens[0],
        "std_tokens": rows.tokens[1],
        "mean_logits": rows.logits[0],
        "std_logits": rows.logits[1],
        "means_in_by_layer": rows.means_in,
        "stds_in_by_layer": rows.stds_in,
        "cut_in_z": rows.cut_in_z,
        "cut_out_z": rows.cut_out_z,
        "cuts_in_by_layer": rows.cuts_in,
        "cuts_out_by_layer": rows.cuts_out,
        "cut_token_pos": rows.cut_tokens[0],
        "cut_token_neg": rows.cut_tokens[1],
        "cut_logit_pos": rows.cut_logits[0],
        "cut_logit_neg": rows.cut_logits[1],
    }
    described = schema.NODE["Feature"].arrow
    return pa.table([_column(columns[field.name], field.type) for field in described], schema=described)


def _column(values: Any, type_: pa.DataType) -> pa.Array:
    if pa.types.is_list(type_):
        n, width = values.shape
        offsets = pa.array(np.arange(0, n * width + 1, max(width, 1), dtype=np.int32)[: n + 1])
        return pa.ListArray.from_arrays(offsets, pa.array(values.astype(np.float32).ravel()), type=type_)
    return pa.array(values.astype(np.float32) if type_ == pa.float32() else values, type_)


def _one(label: str, **row: Any) -> pa.Table:
    return pa.Table.from_pylist([row], schema=schema.NODE[label].arrow)

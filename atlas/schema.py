"""The graph, declared once: node tables, relationship tables, their properties and what each means.

Arrow schemas, the embedded engine's DDL, Neo4j's constraints and the headers of its importer all derive from
:data:`NODES` and :data:`EDGES`. To add a property, add a line here.

Units and deviations of ``weight``, ``z`` and ``share`` are those of the project's data model:

* ``weight`` is signed and raw: the norms' denominators, and nothing else, are left out;
* ``z`` is (weight - mean) / population deviation, for ACTIVATES over all tokens into the target, for FEEDS over all
  features of that source layer into the target, for PROMOTES over all tokens out of the source; through a head, over
  all tokens (or all earlier features) that reach the target through it, or all tokens that the source so reaches;
* ``share`` is ``abs(weight)`` over the L1 norm of everything that reaches the target, kept or not: all tokens and all
  features of all earlier layers (for a logit, the direct paths of all tokens and all features of all layers).
"""

from __future__ import annotations

import pyarrow as pa

from atlas.declared import ARROW, IMPORT, Edge, Node, Property, Type


def _text(name: str, meaning: str) -> Property:
    return Property(name, Type.STRING, meaning)


def _int(name: str, meaning: str) -> Property:
    return Property(name, Type.INT, meaning)


def _float(name: str, meaning: str) -> Property:
    return Property(name, Type.FLOAT, meaning)


def _floats(name: str, meaning: str) -> Property:
    return Property(name, Type.FLOATS, meaning)


def _bool(name: str, meaning: str) -> Property:
    return Property(name, Type.BOOL, meaning)


_KEY = _text("key", "the node's key, unique")
_WEIGHTS = (
    _float("weight", "signed, raw, in the relationship's unit"),
    _float("z", "(weight - mean) / population deviation of its row"),
    _float("share", "abs(weight) over the L1 of everything that reaches the target"),
)

_EVIDENCE = (
    _int("n_both", "counted positions at which both ends are active; null into a logit"),
    _float("lift", "n_both over what it would be if the two were independent"),
    _float("drive_active", "weight * mean activation of the source when active * mean of 1 / sigma"),
    _float("drive_mean", "the same with the mean over all counted positions"),
    _float("era", "weight * mean over all counted positions of the source where the target is active"),
    _float("twera", "weight * mean of the product of both activations / mean of the target's"),
    _text("kept_by", "what keeps the edge: weight, z, twera, drive"),
)

_VIA = (
    *_WEIGHTS,
    _int("layer", "the block whose attention it passes through"),
    _int("head", "which of that block's heads, from 0"),
)
_EVIDENCE_VIA = (
    _float("attended", "attention to firings of the source, summed where the target is active; null into a logit"),
    _float("lift", "attended over what it would be if attention to the source and the target were independent"),
    _float(
        "drive_active", "weight * mean activation of the source when active * mean of 1 / sigma of every norm passed"
    ),
    _float("drive_mean", "the same with the mean over all counted positions of what the head brings of the source"),
    _float("era", "weight * mean over all counted positions of what the head brings where the target is active"),
    _float("twera", "weight * mean of what the head brings * the target's activation / mean of the target's"),
)
MOST_HEADS, MOST_POSITIONS = 8, 16
"""of each, what a feature names"""
THROUGH = (
    Property("heads", Type.STRINGS, f"keys of the {MOST_HEADS} heads that can move it most, strongest first"),
    _floats("head_norms", "for each of them the length of its OV map's pull-back of the read vector"),
    Property(
        "positions",
        Type.INTS,
        f"the {MOST_POSITIONS} learned positions that move it most, by abs(weight), strongest first; no others",
    ),
    _floats("position_weights", "what each of them adds to it, in the unit of weight"),
)
"""What a build with heads knows of a feature beside its relationships."""

NODES: tuple[Node, ...] = (
    Node(
        "Model",
        "a language model",
        (
            _KEY,
            _text("name", "the name in keys"),
            _text("family", "the architecture, as transformers names it"),
            _int("n_layers", "blocks"),
            _int("d_model", "width of the residual stream"),
            _int("n_vocab", "rows of the embedding"),
            _text("tokenizer", "the vocabulary's name in token keys"),
            _text("repo", "hub repository, or the name of the local folder"),
            _text("revision", "commit, or the hash of the weights' files"),
        ),
    ),
    Node(
        "TranscoderSet",
        "one trained transcoder for each of some layers of a model",
        (
            _KEY,
            _text("model", "the model's key"),
            _text("name", "the name in keys"),
            _text("kind", "transcoder, skip, cross-layer, sae or directions"),
            _text("read_site", "where it reads (atlas.model.ReadSite)"),
            _text("write_site", "where it writes (atlas.model.WriteSite)"),
            _text("activation", "relu, jumprelu or topk"),
            _int("n_layers", "layers with a transcoder in this build"),
            _int("n_features", "features over all layers"),
            _int("n_edges", "weighted relationships over all kinds"),
            _text("repo", "hub repository, or the name of the local folder"),
            _text("revision", "commit, or the hash of the weights' files"),
            _text("saelens_release", "SAELens' name of the release, where it has one"),
            _text("neuronpedia_id", "Neuronpedia's name of the set, where it has one"),
            _text("label_source", "what the features' labels are made from"),
            _text("cut", "what was kept, as JSON"),
            _text("run", "the run that computed it"),
        ),
        evidence=(_text("observation", "the text that evidence rests on, as JSON; empty where there is none"),),
    ),
    Node(
        "Feature",
        "one feature of one layer's transcoder",
        (
            _KEY,
            _text("model", "the model's key"),
            _text("set", "the set's key"),
            _int("layer", "the block whose MLP it stands for"),
            _int("idx", "row in the transcoder"),
            _text("label", "a few words a person can read"),
            _text("label_source", "where the label comes from: tokens, or a description's method"),
            _float("bias", "the encoder's bias with the norm's bias read through it; not divided by the norm"),
            _float("threshold", "pre-activation above which it fires"),
            _float("norm_enc", "length of the effective read vector"),
            _float("norm_dec", "length of the effective write vector"),
            _float("constant", "what constants of the stream add to the pre-activation, in the unit of weight"),
            _float("l1_in", "L1 of all tokens and all earlier features into it, kept or not"),
            _float("l1_out", "L1 of all its weights into later features and logits, kept or not"),
            _float("mean_tokens", "mean weight from a token"),
            _float("std_tokens", "population deviation of the weights from all tokens"),
            _float("mean_logits", "mean weight to a logit (0 but for rounding: logits are centred)"),
            _float("std_logits", "population deviation of the weights to all logits"),
            _floats("means_in_by_layer", "mean weight from a feature of each layer of the set, in order; 0 where none"),
            _floats("stds_in_by_layer", "population deviation of the same"),
            _float("cut_in_z", "no feature reaches it with a larger abs(z) than this and is left out"),
            _float("cut_out_z", "it reaches no feature with a larger abs(z) than this that is left out"),
            _floats("cuts_in_by_layer", "the same by abs(weight), for each source layer of the set, in order"),
            _floats("cuts_out_by_layer", "the same by abs(weight), for each target layer of the set, in order"),
            _float("cut_token_pos", "no token with a larger weight is left out"),
            _float("cut_token_neg", "no token with a weight below minus this is left out"),
            _float("cut_logit_pos", "no logit with a larger weight is left out"),
            _float("cut_logit_neg", "no logit with a weight below minus this is left out"),
        ),
        indexed=("model", "layer", "idx"),
        evidence=(
            _int("n_fires", "counted positions at which it is active"),
            _float("density", "n_fires over all counted positions"),
            _float("mean_active", "mean activation when active"),
            _float("max_active", "largest activation"),
            _float("inv_sigma", "mean of 1 / sigma of the norm it reads behind; 1 where it reads the raw stream"),
            _float("token_share", "part of the variance of its activation that the token alone explains"),
            _bool("live", "active ten times or more, and oftener than once in ten thousand positions"),
            _bool("always_on", "active at more than a tenth of all positions"),
        ),
        through=THROUGH,
    ),
    Node(
        "Head",
        "one attention head of a model; there where edges through heads were asked for",
        (
            _KEY,
            _text("model", "the model's key"),
            _int("layer", "the block"),
            _int("head", "its number within the block, from 0"),
            _int("value_group", "heads of one group share their values"),
            _float("norm_ov", "length (Frobenius) of its OV map, norms' gains included"),
        ),
        indexed=("model", "layer", "head"),
    ),
    Node(
        "Token",
        "one entry of one vocabulary; an input and an output",
        (
            _KEY,
            _text("vocabulary", "the vocabulary's name"),
            _int("token_id", "row in the embedding"),
            _text("text", "what it decodes to, alone"),
        ),
        indexed=("text",),
    ),
    Node(
        "Description",
        "what somebody or something says a feature is; no winner is picked silently",
        (
            _KEY,
            _text("text", "the words"),
            _text("method", "how it was made"),
            _text("explainer", "by whom or by which model"),
            _text("scores", "its scores, as JSON"),
            _text("created", "date, ISO 8601"),
            _text("run", "the run that made it"),
        ),
    ),
    Node(
        "Run",
        "one computation: its inputs and settings",
        (
            _KEY,
            _text("code", "version of the atlas"),
            _text("inputs", "hashes and revisions of what went in, as JSON"),
            _text("settings", "what was asked, as JSON"),
        ),
    ),
)

EDGES: tuple[Edge, ...] = (
    Edge(
        "ACTIVATES",
        "Token",
        "Feature",
        "what a token's embedding adds to a feature",
        "pre-activation of the feature per unit of the token's embedding, scale included",
        _WEIGHTS,
        _EVIDENCE,
    ),
    Edge(
        "FEEDS",
        "Feature",
        "Feature",
        "what one feature writes that another reads",
        "pre-activation of the target per unit activation of the source",
        _WEIGHTS,
        _EVIDENCE,
    ),
    Edge(
        "PROMOTES",
        "Feature",
        "Token",
        "what a feature adds to a token's logit",
        "logit, centred over the vocabulary, per unit activation",
        _WEIGHTS,
        _EVIDENCE,
    ),
    Edge(
        "MATCHES",
        "Feature",
        "Feature",
        "two features of different sets that stand for each other; from the set whose key comes first",
        "",
        (
            _float("score", "how alike they are: 1 is the same, 0 nothing in common"),
            _float("null_p", "how often chance finds a counterpart as good"),
            _text("method", "what was compared: tokens, inputs, outputs, description or all"),
            _text("run", "the run that compared them"),
        ),
    ),
    Edge(
        "ACTIVATES_VIA",
        "Token",
        "Feature",
        "what a token's embedding adds to a feature through one attention head that attends to it alone",
        "as ACTIVATES, at attention 1; the denominators of the norms around attention left out too",
        _VIA,
        _EVIDENCE_VIA,
    ),
    Edge(
        "FEEDS_VIA",
        "Feature",
        "Feature",
        "what one feature adds to another through one attention head that attends to it alone",
        "as FEEDS, at attention 1; the denominators of the norms around attention left out too",
        _VIA,
        _EVIDENCE_VIA,
    ),
    Edge(
        "PROMOTES_VIA",
        "Feature",
        "Token",
        "what a feature adds to a token's logit through one attention head that attends to it alone",
        "as PROMOTES, at attention 1; the denominators of the norms around attention left out too",
        _VIA,
        _EVIDENCE_VIA,
    ),
    Edge(
        "PREDICTS",
        "Token",
        "Token",
        "what a token's embedding adds to a logit past everything else",
        "logit, centred over the vocabulary, per unit of the token's embedding, scale included",
        (*_WEIGHTS, _text("run", "the run that computed it: two models may share their tokens")),
    ),
    Edge("OF", "TranscoderSet", "Model", "the set's model", "", ()),
    Edge("LOADED_BY", "TranscoderSet", "Run", "the run that computed the set's edges", "", ()),
    Edge("DESCRIBED_BY", "Feature", "Description", "what is said of a feature", "", ()),
)

NODE = {node.label: node for node in NODES}
EDGE = {edge.type: edge for edge in EDGES}


def embedded_ddl() -> list[str]:
    """``CREATE`` statements for the embedded engine, nodes first."""
    statements = []
    for node in NODES:
        columns = ", ".join(f"{p.name} {p.type}" for p in node.stored)
        statements.append(f"CREATE NODE TABLE {node.label}({columns}, PRIMARY KEY(key))")
    for edge in EDGES:
        columns = "".join(f", {p.name} {p.type}" for p in edge.stored)
        statements.append(f"CREATE REL TABLE {edge.type}(FROM {edge.source} TO {edge.target}{columns})")
    return statements


def neo4j_ddl() -> list[str]:
    """Constraints and indexes for a Neo4j server, each safe to repeat (Community edition, 5.26 to 2026.x)."""
    statements = []
    for node in NODES:
        name = node.label.lower()
        statements.append(f"CREATE CONSTRAINT {name}_key IF NOT EXISTS FOR (n:{node.label}) REQUIRE n.key IS UNIQUE")
        if node.indexed:
            columns = ", ".join(f"n.{column}" for column in node.indexed)
            statements.append(
                f"CREATE INDEX {name}_{'_'.join(node.indexed)} IF NOT EXISTS FOR (n:{node.label}) ON ({columns})"
            )
    return statements


def import_type(kind: pa.DataType) -> str:
    """What ``neo4j-admin database import`` calls a column's type."""
    return next(IMPORT[type] for type, arrow in ARROW.items() if arrow == kind)


def import_header(table: Node | Edge) -> list[str]:
    """Column names of one table for ``neo4j-admin database import``, in the order of its Arrow schema."""
    if isinstance(table, Node):
        first, *others = table.properties
        return [f"{first.name}:ID({table.label})"] + [f"{p.name}:{IMPORT[p.type]}" for p in others]
    ends = [f":START_ID({table.source})", f":END_ID({table.target})"]
    return ends + [f"{p.name}:{IMPORT[p.type]}" for p in table.properties]

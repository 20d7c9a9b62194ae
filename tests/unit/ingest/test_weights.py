"""A model's part in an edge is the same from a folder, from memory and from TransformerLens; what is none says so."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from atlas.errors import BadModel, BadSource
from ingest import vocabulary
from ingest.weights import LayerWeights, ModelWeights, open_model
from tests.unit.ingest import models

PLACE = {"name", "repo", "revision", "files", "vocabulary"}


def stored(path: Path, family: str, **options: Any) -> Path:
    models.model(family).save_pretrained(path, **options)
    models.tokenizer().save_pretrained(path)
    return path


def same(found: ModelWeights | LayerWeights, expected: ModelWeights | LayerWeights) -> None:
    for field in (field for field in fields(expected) if field.compare):
        here, there = getattr(found, field.name), getattr(expected, field.name)
        if field.name == "layers":
            for one, other in zip(here, there, strict=True):
                same(one, other)
        elif isinstance(there, Tensor):
            torch.testing.assert_close(here, there, msg=lambda text, name=field.name: f"{name}: {text}")
        elif field.name not in PLACE:
            assert here == there, field.name


@pytest.mark.parametrize("family", models.EVERY)
def test_a_folder_gives_what_the_loaded_model_gives(tmp_path: Path, family):
    found = open_model(stored(tmp_path / "My Model", family))

    same(found, open_model(models.model(family), models.tokenizer()))
    assert (found.name, found.repo, found.family) == ("my-model", "My Model", family.removesuffix("_serial"))
    if family != "qwen2":  # for which the library picks Qwen's own tokenizer, whatever the folder's files say
        assert found.vocabulary == open_model(models.model(family), models.tokenizer()).vocabulary
    assert set(found.files) == {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}


def test_shards_and_names_without_their_prefix_are_read_alike(tmp_path: Path):
    whole = open_model(stored(tmp_path / "whole", "gpt2"))
    sharded = stored(tmp_path / "sharded", "gpt2", max_shard_size="20KB")
    bare = shutil.copytree(tmp_path / "whole", tmp_path / "bare")  # as openai-community/gpt2 is published
    tensors = load_file(bare / "model.safetensors")
    save_file({name.removeprefix("transformer."): t for name, t in tensors.items()}, bare / "model.safetensors")

    assert len(list(sharded.glob("*.safetensors"))) > 1
    same(open_model(sharded), whole)
    same(open_model(bare), whole)


def test_half_precision_is_read_as_float32(tmp_path: Path):
    models.model("llama").to(torch.bfloat16).save_pretrained(tmp_path)
    models.tokenizer().save_pretrained(tmp_path)

    assert open_model(tmp_path).embedding.dtype is torch.float32


def test_the_revision_is_of_the_content_not_of_the_place(tmp_path: Path):
    one = stored(tmp_path / "a" / "model", "qwen3")
    copy = shutil.copytree(one, tmp_path / "b" / "model")

    assert open_model(one).revision == open_model(copy).revision
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-3}))
    assert open_model(one).revision != open_model(copy).revision


def bridge(library: PreTrainedModel, tmp_path: Path) -> Any:
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoTokenizer

    models.tokenizer().save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    library.config.architectures = [type(library).__name__]  # as every published config says
    return TransformerBridge.boot_transformers("tiny", hf_model=library, tokenizer=tokenizer)


@pytest.mark.parametrize("family", [family for family in models.EVERY if family != "gemma3"])
def test_transformer_lens_bridge_gives_what_transformers_gives(tmp_path: Path, family):
    expected = open_model(models.model(family), models.tokenizer())

    found = open_model(bridge(models.model(family), tmp_path))

    same(found, expected)


def test_weights_that_transformer_lens_has_processed_are_refused(tmp_path: Path):
    processed = bridge(models.model("gpt2"), tmp_path)
    processed.enable_compatibility_mode()

    with pytest.raises(BadModel, match=r"folded or centred.*without enable_compatibility_mode"):
        open_model(processed)


def hooked(family: str, library: PreTrainedModel, **changes: Any) -> Any:
    """A HookedTransformer with the library's own conversion; it knows no biases of attention but GPT-2's."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.pretrained import weight_conversions as convert

    grouped = family != "gpt2"
    cfg = HookedTransformerConfig(
        n_layers=models.N_LAYERS,
        d_model=models.D_MODEL,
        n_ctx=models.N_POSITIONS,
        d_head=models.D_HEAD if grouped else models.D_MODEL // models.N_HEADS,
        n_heads=models.N_HEADS,
        n_key_value_heads=models.N_KV if grouped else None,
        d_mlp=models.D_MLP,
        d_vocab=models.N_VOCAB,
        act_fn="silu" if grouped else "gelu_new",
        gated_mlp=grouped,
        original_architecture=type(library).__name__,
        normalization_type="RMS" if grouped else "LN",
        positional_embedding_type="rotary" if grouped else "standard",
        rotary_dim=models.D_HEAD if grouped else None,
        use_normalization_before_and_after=family == "gemma2",
        output_logits_soft_cap=30.0 if family == "gemma2" else -1.0,
        use_qk_norm=family == "qwen3",
        eps=1e-5 if family == "gpt2" else 1e-6,
        model_name="tiny",
        device="cpu",
        **changes,
    )
    made = HookedTransformer(cfg)
    made.load_state_dict(getattr(convert, f"convert_{CONVERTED[family]}_weights")(library, cfg), strict=False)
    return made


CONVERTED = {"gpt2": "gpt2", "llama": "llama", "qwen3": "qwen3", "gemma2": "gemma"}


going = pytest.mark.filterwarnings("ignore:HookedTransformer is deprecated:DeprecationWarning")


@going
@pytest.mark.parametrize("family", models.FAMILIES)
def test_a_hooked_transformer_gives_what_transformers_gives(family):
    library = models.model(family)
    if family != "gpt2":
        for name, parameter in library.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
    expected = open_model(library, models.tokenizer())

    found = open_model(hooked(family, library), models.tokenizer())

    assert found.embedding_scale == 1.0  # it is in the embedding already
    torch.testing.assert_close(found.embedding, expected.embedding * expected.embedding_scale)
    torch.testing.assert_close(found.unembedding, expected.unembedding)
    torch.testing.assert_close(found.final_gain, expected.final_gain)
    assert (found.norm, found.soft_cap, found.family) == (expected.norm, expected.soft_cap, family)
    for one, other in zip(found.layers, expected.layers, strict=True):
        same(one, other)


@going
def test_a_hooked_transformer_with_folded_norms_is_refused():
    folded = hooked("gpt2", models.model("gpt2"))
    folded.cfg.normalization_type = "LNPre"

    with pytest.raises(BadModel, match="from_pretrained_no_processing"):
        open_model(folded, models.tokenizer())


@pytest.mark.parametrize("named", ["TokenizersBackend", "LlamaTokenizerFast", "OfTomorrow", None])
def test_a_tokenizer_is_read_whatever_class_its_folder_names(tmp_path: Path, named: str | None):
    """Version 5 of transformers writes a class that version 4 cannot read; what counts is tokenizer.json."""
    folder = stored(tmp_path / "model", "mistral")
    path = folder / "tokenizer_config.json"
    stated = json.loads(path.read_text())
    assert stated.pop("tokenizer_class") == "TokenizersBackend"
    path.write_text(json.dumps(stated | ({} if named is None else {"tokenizer_class": named})))

    assert open_model(folder).vocabulary == open_model(models.model("mistral"), models.tokenizer()).vocabulary


def unprefixed(name: str) -> Any:
    def take_away(path: Path) -> None:
        tensors = load_file(path / "model.safetensors")
        save_file({key: tensor for key, tensor in tensors.items() if name not in key}, path / "model.safetensors")

    return take_away


def configured(**changes: Any) -> Any:
    def change(path: Path) -> None:
        config = json.loads((path / "config.json").read_text()) | changes
        (path / "config.json").write_text(json.dumps(config))

    return change


def infinite(path: Path) -> None:
    tensors = load_file(path / "model.safetensors")
    tensors["model.embed_tokens.weight"][17] = float("inf")
    save_file(tensors, path / "model.safetensors")


BAD = {
    "no config": (lambda p: (p / "config.json").unlink(), "holds no language model: it has no config.json"),
    "a config that is no JSON": (
        lambda p: (p / "config.json").write_text("{"),
        "not the JSON of a transformers config",
    ),
    "a family no test proves": (
        configured(model_type="mamba"),
        "family 'mamba', but norms.*gemma2, gemma3.*gpt2.*llama.*qwen3",
    ),
    "a family nobody knows": (configured(model_type="mine"), "family 'mine', but norms and sites are proven only for"),
    "no weights": (lambda p: (p / "model.safetensors").unlink(), "has no weights; save the model as safetensors"),
    "weights in a pickle": (
        lambda p: (p / "model.safetensors").rename(p / "pytorch_model.bin"),
        r"only pytorch_model.bin, a pickle",
    ),
    "weights cut short": (
        lambda p: (p / "model.safetensors").write_bytes((p / "model.safetensors").read_bytes()[:9000]),
        "model.safetensors is cut short",
    ),
    "a norm that is missing": (unprefixed("1.post_attention_layernorm"), "no parameter 'layers.1.post_attention_lay"),
    "an unembedding that is missing": (unprefixed("lm_head"), "no parameter 'lm_head.weight'"),
    "quantised weights": (configured(quantization_config={"quant_method": "gptq", "bits": 4}), "is quantised"),
    "an infinity": (infinite, "embed_tokens.weight has NaN or Inf in row 17"),
    "another model's tokenizer": (
        lambda p: models.tokenizer(60).save_pretrained(p),
        "ids up to 59, but the embedding has 53 rows",
    ),
    "a broken tokenizer": (
        lambda p: (p / "tokenizer.json").write_text("{}"),
        r"its tokenizer cannot be read \(.*\); save it again with this version of transformers \(",
    ),
    "no tokenizer": (lambda p: (p / "tokenizer.json").unlink(), "holds no tokenizer: it has none of tokenizer.json"),
}


@pytest.mark.parametrize("wrong", BAD)
def test_what_is_wrong_with_a_model_is_said_in_one_line(tmp_path: Path, wrong):
    spoil, says = BAD[wrong]
    folder = stored(tmp_path / "model", "llama")
    spoil(folder)

    with pytest.raises(BadModel, match=says) as caught:
        open_model(folder)

    assert "\n" not in str(caught.value)


def test_what_is_no_model_is_refused():
    with pytest.raises(BadModel, match="a model is a path, a hub repo, or a model"):
        open_model(3)
    with pytest.raises(BadModel, match="carries no tokenizer"):
        open_model(models.model("gpt2"))
    with pytest.raises(BadSource, match="neither a folder on this machine"):
        open_model("/nowhere/at/all")


def test_every_id_of_a_byte_level_vocabulary_says_what_it_decodes_to_alone():
    tokens = ["<|bos|>", "Ġrabbit", "rabbit", "Ċ", "â", "Ġâ", "Ã©", "âĢĻ"]
    backend = Tokenizer(BPE({token: index for index, token in enumerate(tokens)}, []))
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<|bos|>")

    found = vocabulary.read(tokenizer, n_rows=10)

    assert found.texts == [
        *("<|bos|>", " rabbit", "rabbit", "\n"),
        *("<0xE2>", " <0xE2>", "é", "’"),
        *("<row 8>", "<row 9>"),
    ]
    assert found.bos == 0


def test_every_id_of_a_sentencepiece_vocabulary_keeps_its_leading_space():
    tokens = ["<s>", "▁rabbit", "rabbit", "<0x0A>", "<0xE2>", "▁"]
    backend = Tokenizer(BPE({token: index for index, token in enumerate(tokens)}, [], byte_fallback=True))
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>")

    assert vocabulary.read(tokenizer, n_rows=6).texts == ["<s>", " rabbit", "rabbit", "\n", "<0xE2>", " "]


def test_a_vocabulary_is_named_by_its_content_whatever_the_embedding_adds():
    padded, exact = (vocabulary.read(models.tokenizer(51), n_rows) for n_rows in (53, 51))
    other = vocabulary.read(models.tokenizer(50), 53)

    assert padded.name == exact.name
    assert padded.name != other.name
    assert len(padded.texts) == 53
    assert padded.texts[51:] == ["<row 51>", "<row 52>"]


def test_a_known_vocabulary_has_its_known_name(monkeypatch):
    tokens = [token for token, _ in sorted(models.tokenizer().get_vocab().items(), key=lambda item: item[1])]
    monkeypatch.setitem(vocabulary.KNOWN, vocabulary.digest(tokens), "tiny-words")

    assert open_model(models.model("gpt2"), models.tokenizer()).vocabulary.name == "tiny-words"

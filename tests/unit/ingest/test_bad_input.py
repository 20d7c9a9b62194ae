"""Whatever is wrong with a folder of transcoders, one line says what, where, and what to do."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from atlas.errors import BadSource, BadTranscoder
from atlas.model import Activation, ReadSite, WriteSite
from ingest.sources import InMemory, open_transcoders
from ingest.transcoder import Transcoder
from tests.unit.ingest import models


def rewrite(folder: Path, layer: int, **changes: Any) -> None:
    """Replace tensors of one layer; None takes one away, a function gets the old one."""
    path = folder / f"layer_{layer}.safetensors"
    tensors = load_file(path)
    for name, value in changes.items():
        old = tensors.pop(name, None)
        if value is not None:
            tensors[name] = (value(old) if callable(value) else value).contiguous()
    save_file(tensors, path)


def configure(folder: Path, **changes: Any) -> None:
    config = yaml.safe_load((folder / "config.yaml").read_text()) | changes
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


def with_value(row: int, value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def change(tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.clone()
        tensor[row] = value
        return tensor

    return change


def cut_short(folder: Path, bytes_left: int) -> None:
    path = folder / "layer_1.safetensors"
    path.write_bytes(path.read_bytes()[:bytes_left])


def replace_by(folder: Path, name: str, content: bytes) -> None:
    for path in folder.iterdir():
        path.unlink()
    (folder / name).write_bytes(content)


def cross_layer(folder: Path) -> None:
    replace_by(folder, "W_enc_0.safetensors", b"")


def square(tensor: torch.Tensor) -> torch.Tensor:
    return tensor[: models.D_MODEL]


BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "nothing here": (
        lambda f: replace_by(f, "notes.txt", b"hello"),
        r"holds no transcoders: looked for .*config.yaml.*cfg.json.*; found notes.txt",
    ),
    "an empty folder": (lambda f: [p.unlink() for p in f.iterdir()], "holds no transcoders.*found nothing"),
    "only pickles": (lambda f: replace_by(f, "sae.pt", b"\x80"), r"sae.pt is a pickle.*safetensors"),
    "a pickle in the list": (lambda f: configure(f, transcoders=["layer_0.pt"]), r"layer_0.pt is a pickle"),
    "pickles beside a config": (
        lambda f: [p.rename(p.with_suffix(".pt")) for p in f.glob("*.safetensors")],
        r"layer_\d.pt is a pickle",
    ),
    "no config": (lambda f: (f / "config.yaml").unlink(), "no config.yaml, so nothing says where they read and write"),
    "a config of nothing": (lambda f: (f / "config.yaml").write_text(""), "no table of settings"),
    "a config that is no YAML": (lambda f: (f / "config.yaml").write_text("a: [b"), "not readable YAML"),
    "a config of megabytes": (lambda f: (f / "config.yaml").write_text("a: b\n" * 300_000), "1,500,000 bytes"),
    "no hooks": (lambda f: configure(f, feature_input_hook=None), "must name feature_input_hook"),
    "an unknown read site": (
        lambda f: configure(f, feature_input_hook="hook_resid_pre"),
        "reads at 'hook_resid_pre'.*known are hook_resid_mid, hook_mlp_in, ln2.hook_normalized, mlp.hook_in",
    ),
    "an unknown write site": (
        lambda f: configure(f, feature_output_hook="hook_attn_out"),
        "writes at 'hook_attn_out'.*known are mlp.hook_out, hook_mlp_out",
    ),
    "hook_mlp_in of Gemma 3": (
        lambda f: configure(f, feature_input_hook="hook_mlp_in", model_name="google/gemma-3-4b"),
        "hook_mlp_in for google/gemma-3-4b",
    ),
    "an ambiguous write site": (
        lambda f: configure(f, feature_output_hook="hook_mlp_out", model_name=None),
        "behind a norm in Gemma and not elsewhere",
    ),
    "a cross-layer set": (
        lambda f: configure(f, model_kind="cross_layer_transcoder"),
        "is a cross-layer set without a W_enc_N.safetensors",
    ),
    "a cross-layer set without config": (cross_layer, "has W_enc_N.safetensors but no config.yaml"),
    "an unknown kind": (lambda f: configure(f, model_kind="lorsa"), "model_kind is 'lorsa'"),
    "an unknown activation": (lambda f: configure(f, activation="gelu"), "activation is 'gelu', known are"),
    "an activation that is no name": (
        lambda f: configure(f, activation=["relu"]),
        "activation is .'relu'.*, known are",
    ),
    "several k": (lambda f: rewrite(f, 0, k=torch.ones(3)), r"k is \(3,\), expected how many"),
    "TopK without k": (lambda f: configure(f, activation="topk"), "TopK set, but neither.*`k: N`"),
    "a k that is no number": (lambda f: configure(f, activation="topk", k="many"), "k is 'many'"),
    "a k of zero": (lambda f: configure(f, activation="topk", k=0), "k is 0"),
    "a k beyond the features": (
        lambda f: configure(f, activation="topk", k=10**9),
        "k is 1000000000, but there are 29",
    ),
    "jumprelu without thresholds": (lambda f: configure(f, activation="jumprelu"), "its files have no thresholds"),
    "thresholds in one layer": (
        lambda f: rewrite(f, 1, **{"activation_function.threshold": torch.ones(31)}),
        "some layers have thresholds",
    ),
    "a skip in one layer": (
        lambda f: rewrite(f, 1, W_skip=torch.ones(20, 20)),
        "layer 1 has a skip, layer 0 has none; a set is of one kind",
    ),
    "a skip of another width": (
        lambda f: [rewrite(f, layer, W_skip=torch.ones(20, 19)) for layer in range(3)],
        r"layer 0: w_skip has shape \(20, 19\), expected \(20, 20\)",
    ),
    "a list that names nothing": (lambda f: configure(f, transcoders=["gone.safetensors"]), "which is not there"),
    "a list that is none": (lambda f: configure(f, transcoders="layer_0.safetensors"), "must list one file a layer"),
    "a list of numbers": (lambda f: configure(f, transcoders=[1, 2]), "must list one file a layer"),
    "a path out of the folder": (
        lambda f: configure(f, transcoders=["../set/layer_0.safetensors"]),
        "not in it; a set names only files of its own",
    ),
    "an absolute path": (lambda f: configure(f, transcoders=["/etc/passwd"]), "'/etc/passwd', which is not in it"),
    "a path out of a repository": (
        lambda f: configure(f, transcoders=["hf://org/repo/../../x.safetensors"]),
        "neither a folder on this machine nor a name on the hub",
    ),
    "wrong orientation": (
        lambda f: rewrite(f, 1, W_enc=torch.ones(5, 7)),
        r"layer 1: w_enc has shape \(5, 7\), .* 31 features",
    ),
    "a decoder of another width": (lambda f: rewrite(f, 1, W_dec=torch.ones(31, 19)), r"w_dec has shape \(31, 19\)"),
    "a layer of another width": (
        lambda f: rewrite(f, 1, W_enc=torch.ones(31, 19), W_dec=torch.ones(31, 19), b_dec=torch.ones(19)),
        r"different widths \[19, 20\]",
    ),
    "a bias with two axes": (lambda f: rewrite(f, 1, b_enc=torch.ones(31, 1)), r"shapes \(31, 1\) and \(20,\)"),
    "as many features as the width": (
        lambda f: rewrite(f, 1, W_enc=square, W_dec=square, b_enc=square),
        "20 features and a width of 20",
    ),
    "no decoder": (lambda f: rewrite(f, 1, W_dec=None), "layer 1: the file has no w_dec"),
    "a tensor nobody knows": (
        lambda f: rewrite(f, 1, W_enc_glu=torch.ones(2)),
        "layer 1: the file has a tensor 'W_enc_glu' that this layout does not have",
    ),
    "a file cut in its header": (lambda f: cut_short(f, 20), "layer 1: layer_1.safetensors is cut short or damaged"),
    "a file cut in its tensors": (lambda f: cut_short(f, 3000), "layer 1: layer_1.safetensors is cut short or damaged"),
    "an empty file": (lambda f: cut_short(f, 0), "layer 1: layer_1.safetensors is cut short or damaged"),
    "integers": (lambda f: rewrite(f, 1, W_enc=lambda t: t.to(torch.int8)), "w_enc is stored as torch.int8"),
    "a NaN": (lambda f: rewrite(f, 1, W_dec=with_value(7, float("nan"))), "layer 1: w_dec has NaN or Inf in row 7"),
    "an infinity": (
        lambda f: rewrite(f, 2, W_enc=with_value(3, float("inf"))),
        "layer 2: w_enc has NaN or Inf in row 3",
    ),
    "a NaN in a bias": (
        lambda f: rewrite(f, 0, b_dec=with_value(4, float("nan"))),
        "layer 0: b_dec has NaN or Inf in row 4",
    ),
    "an overflow": (
        lambda f: rewrite(f, 0, W_enc=lambda t: with_value(4, 1e300)(t.double())),
        "layer 0: w_enc has NaN or Inf in row 4",
    ),
}


def read_all(folder: Path) -> None:
    source = open_transcoders(folder)
    for layer in source.info.layers:
        source.load(layer)


@pytest.mark.parametrize("wrong", BAD)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, wrong: str):
    spoil, says = BAD[wrong]
    folder = models.write_circuit_tracer(tmp_path / "set", [models.transcoder(layer) for layer in range(3)])
    spoil(folder)

    with pytest.raises(BadSource) as caught:
        read_all(folder)

    assert re.search(says, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(("asked", "says"), [([7], "layer 7 is not in"), ([0, 9, 11], "layers 9, 11 are not in")])
def test_layers_that_are_not_there_are_named_with_those_that_are(tmp_path: Path, asked, says):
    folder = models.write_circuit_tracer(tmp_path, [models.transcoder(layer) for layer in range(3)])

    with pytest.raises(BadTranscoder, match=rf"{says} .*; it has 0, 1, 2"):
        open_transcoders(folder, asked)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("/nowhere/at/all", "neither a folder on this machine nor a name on the hub"),
        ("../up", "neither a folder"),
        ("org/repo@../main", "neither a folder"),
        ("org/re po", "neither a folder"),
        (Path("gone"), "not there"),
        (3, "transcoders are a path, a hub repo"),
        ({}, "there are no transcoders"),
    ],
)
def test_a_place_that_is_none_is_told_apart_from_one_out_of_reach(spec, says):
    with pytest.raises(BadSource, match=says):
        open_transcoders(spec)


def test_layers_of_different_kinds_make_no_set():
    mixed = {0: models.transcoder(0), 1: models.transcoder(1, ReadSite.RESID_MID)}

    with pytest.raises(BadTranscoder, match="layer 1 has read resid_mid, layer 0 has norm_post_gain"):
        InMemory(mixed)


@pytest.fixture
def shapes_unchecked():
    """As in production: where jaxtyping checks shapes itself, it would speak first."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


@pytest.mark.usefixtures("shapes_unchecked")
def test_a_record_that_contradicts_itself_is_not_made():
    good = vars(models.transcoder(1))

    with pytest.raises(BadTranscoder, match=r"w_enc has shape \(20, 31\), expected \(31, 31\).*Rows must be features"):
        Transcoder(**good | {"w_enc": good["w_enc"].T})
    with pytest.raises(BadTranscoder, match="there is no threshold"):
        Transcoder(**good | {"activation": Activation.JUMPRELU})
    with pytest.raises(BadTranscoder, match="topk needs a k"):
        Transcoder(**good | {"activation": Activation.TOPK})


def test_an_npz_that_unpacks_to_gigabytes_is_refused_before_it_is_unpacked(tmp_path: Path):
    import numpy as np

    folder = models.write_circuit_tracer(tmp_path, [models.transcoder(0)])
    np.savez_compressed(folder / "bomb.npz", W_enc=np.zeros((4000, 4000), np.float32))
    configure(folder, transcoders=["bomb.npz"])

    with pytest.raises(BadTranscoder, match=r"bomb\.npz unpacks to 64,000"):
        open_transcoders(folder)


def test_an_npz_with_objects_in_it_runs_nothing(tmp_path: Path):
    import numpy as np

    folder = models.write_circuit_tracer(tmp_path, [models.transcoder(0)])
    np.savez(folder / "objects.npz", W_enc=np.array([WriteSite.MLP_RAW, {"a": 1}], dtype=object))
    configure(folder, transcoders=["objects.npz"])

    with pytest.raises(BadTranscoder, match=r"objects\.npz is cut short or damaged"):
        open_transcoders(folder)


def test_a_saelens_config_that_is_no_json_is_named(tmp_path: Path):
    (tmp_path / "cfg.json").write_text("{")
    (tmp_path / "sae_weights.safetensors").write_bytes(b"")

    with pytest.raises(BadTranscoder, match=r"cfg\.json is not readable JSON"):
        open_transcoders(tmp_path)
    (tmp_path / "cfg.json").write_text(json.dumps([1]))
    with pytest.raises(BadTranscoder, match="no table of settings"):
        open_transcoders(tmp_path)

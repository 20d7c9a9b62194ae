"""Gemma Scope and Gemma Scope 2: files of those layouts are read, with the activations and outputs they document."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from atlas.model import Activation, ReadSite, WriteSite
from ingest.sources import open_transcoders
from tests.unit.ingest import layouts, models
from tests.unit.ingest.reading import agrees, said_when

R, W = ReadSite, WriteSite


def test_gemma_scope_reads_the_norm_before_its_gain_and_writes_behind_the_norm_after_the_mlp(tmp_path: Path):
    folder = tmp_path / "gemma-scope-2b-pt-transcoders"
    agrees(folder, layouts.gemma_scope(folder))

    info = open_transcoders(folder).info
    assert (info.read, info.write, info.activation) == (R.NORM_PRE_GAIN, W.MLP_POST_NORM, Activation.JUMPRELU)
    assert (info.name, info.model_name, info.kind) == ("gemmascope-transcoder-16k", "gemma-2-2b", "transcoder")
    assert info.l0 == {0: 70.0, 1: 71.0, 2: 72.0}


@pytest.mark.parametrize(
    ("name", "read", "write"),
    [
        ("gemma-scope-2b-pt-res", R.RESID_POST, W.RESID_POST),
        ("gemma-scope-9b-it-mlp", R.MLP_POST_NORM, W.MLP_POST_NORM),
        ("gemma-scope-2b-pt-att", R.ATTN_Z, W.ATTN_Z),
    ],
)
def test_the_name_of_a_gemma_scope_repository_says_what_its_features_read(tmp_path: Path, name, read, write):
    agrees(tmp_path / name, layouts.gemma_scope(tmp_path / name))

    info = open_transcoders(tmp_path / name).info
    assert (info.read, info.write, info.kind) == (read, write, "sae")


def test_gemma_scope_under_another_name_says_nothing_of_its_sites_and_is_refused(tmp_path: Path):
    layouts.gemma_scope(tmp_path / "downloads")

    assert "which says nowhere what it reads; name the folder as the repository" in said_when(tmp_path / "downloads")


def test_of_several_sets_of_features_a_layer_the_published_choice_is_taken_or_none(tmp_path: Path):
    folder = tmp_path / "gemma-scope-2b-pt-transcoders"
    layouts.gemma_scope(folder, n=123)
    assert open_transcoders(folder).info.l0 == dict.fromkeys(range(3), 123.0)
    for layer, l0 in enumerate((76, 65, 49)):
        here = folder / f"layer_{layer}" / "width_16k"
        (here / "average_l0_123").rename(here / f"average_l0_{l0}")
    layouts.gemma_scope(folder, n=124)

    assert open_transcoders(folder).info.l0 == {0: 76.0, 1: 65.0, 2: 49.0}
    (folder / "layer_1" / "width_16k" / "average_l0_65").rename(folder / "layer_1" / "width_16k" / "average_l0_66")
    assert "has 2 sets of features for layer 1" in said_when(folder)


def test_the_same_features_under_another_repository_have_the_same_name_so_that_labels_are_shared(tmp_path: Path):
    published = tmp_path / "gemma-scope-2b-pt-transcoders"
    layouts.gemma_scope(published)
    copied = models.write_circuit_tracer(
        tmp_path / "gemma-scope-transcoders",
        [models.transcoder(layer, activation=Activation.JUMPRELU) for layer in range(3)],
        read="ln2.hook_normalized",
        write="hook_mlp_out",
        model_name="google/gemma-2-2b",
    )

    one, other = open_transcoders(published).info, open_transcoders(copied).info

    assert other.name == other.neuronpedia_id == one.name == "gemmascope-transcoder-16k"
    assert (other.read, other.write) == (one.read, one.write)


def test_of_an_npz_only_headers_are_read_to_open_it(tmp_path: Path, monkeypatch):
    folder = tmp_path / "gemma-scope-2b-pt-transcoders"
    layouts.gemma_scope(folder)
    monkeypatch.setattr("numpy.load", lambda *_, **__: pytest.fail("weights were read"))

    assert open_transcoders(folder).info.n_features == dict(enumerate(models.N_FEATURES))


@pytest.mark.parametrize("affine", [False, True], ids=["plain", "affine skip"])
@pytest.mark.parametrize("config", [False, True], ids=["no config", "config"])
def test_gemma_scope_2_with_its_affine_skip_and_without_a_config(tmp_path: Path, affine, config):
    folder = tmp_path / "gemma-scope-2-270m-pt-transcoder"
    agrees(folder, layouts.gemma_scope_2(folder, affine, config))

    info = open_transcoders(folder).info
    assert (info.read, info.write) == (R.NORM_POST_GAIN, W.MLP_POST_NORM)
    assert (info.kind, info.has_skip) == ("skip" if affine else "transcoder", affine)
    assert info.model_name == ("gemma-3-270m" if config else "gemma-3-270m-pt")


def test_gemma_scope_2_without_a_config_in_a_folder_of_another_name_is_refused(tmp_path: Path):
    layouts.gemma_scope_2(tmp_path / "set", config=False)

    assert "no config.json with hf_hook_point_in" in said_when(tmp_path / "set")


def test_gemma_scope_2_reads_the_stream_where_its_config_names_no_output(tmp_path: Path):
    folder = tmp_path / "gemma-scope-2-270m-pt-resid_post"
    layouts.gemma_scope_2(folder, affine=False, config=False)

    info = open_transcoders(folder).info
    assert (info.read, info.write, info.kind) == (R.RESID_POST, W.RESID_POST, "sae")


def test_a_gemma_scope_2_set_of_another_architecture_is_refused(tmp_path: Path):
    folder = tmp_path / "gemma-scope-2-270m-pt-transcoder"
    layouts.gemma_scope_2(folder)
    path = next(folder.rglob("config.json"))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"architecture": "gated"}))

    assert "architecture is 'gated', expected jump_relu" in said_when(folder)

"""Evidence for edges through heads equals the dense computation on the library's own patterns, however divided."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from atlas import observations
from atlas.model import Activation, ReadSite, WriteSite
from atlas.observed import observed
from atlas.through import VIA
from ingest.evidence.attended import groups, head_bytes
from ingest.evidence.observe import Options, observe
from tests.unit.ingest.evidence.attending import attending, statistics
from tests.unit.ingest.evidence.observed import dense, ids_file, subject

CASES = {
    "gpt2": ("gpt2", Activation.RELU, ReadSite.NORM_POST_GAIN, WriteSite.MLP_RAW),
    "llama, shared values": ("llama", Activation.TOPK, ReadSite.NORM_PRE_GAIN, WriteSite.MLP_RAW),
    "gemma2, before its norm": ("gemma2", Activation.JUMPRELU, ReadSite.NORM_POST_GAIN, WriteSite.MLP_RAW),
    "gemma2, behind its norm": ("gemma2", Activation.RELU, ReadSite.RESID_MID, WriteSite.MLP_POST_NORM),
}
OPTIONS = Options(examples=3, strongest=3)


def close(found: float | None, expected: float | None, what: str) -> None:
    if expected is None or found is None:
        assert found is expected, what
    else:
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-9), what


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory):
    home = tmp_path_factory.mktemp("home")
    family, activation, read, write = CASES["gpt2"]
    return subject(home, family, activation=activation, read=read, write=write, heads=3)


@pytest.mark.parametrize("case", CASES)
def test_every_statistic_equals_the_dense_computation_on_the_librarys_own_patterns(case: str, tmp_path: Path):
    family, activation, read, write = CASES[case]
    tiny = subject(tmp_path, family, activation=activation, read=read, write=write, heads=3)
    request = ids_file(tmp_path)
    before = tiny.runner.model.config._attn_implementation

    seen = observe(tiny, request, OPTIONS)

    assert tiny.runner.model.config._attn_implementation == before
    truth, heads = dense(tiny, request), attending(tiny, request)
    both = observed(tiny.build, seen.name)
    seen_heads, defined = set(), 0
    for kind in VIA:
        for edge in [edge for table in both.edges(kind) for edge in table.to_pylist()]:
            layer, head = edge["layer"], edge["head"]
            seen_heads.add((kind, layer, head))
            for name, value in statistics(truth, heads, kind, edge, layer, head).items():
                close(edge[name], value, f"{name} of {kind} {edge['source']} -> {edge['target']} by L{layer}H{head}")
                defined += value not in (None, 0.0)
    assert {kind for kind, *_ in seen_heads} == set(VIA)
    assert len(seen_heads) == 12 + 8 + 8  # tokens reach every head; no feature reaches those of the first layer
    assert defined > 3000


@pytest.mark.parametrize(
    "options",
    [
        Options(batch=15, shard=30, examples=3, strongest=3),
        Options(batch=10_000, shard=150, examples=3, strongest=3),
        Options(memory=40_000, batch=45, shard=90, examples=3, strongest=3),
    ],
    ids=["a window at a time", "all at once", "in groups of heads"],
)
def test_batches_shards_and_groups_change_no_bit(gpt2, tmp_path: Path, options: Options):
    request = ids_file(tmp_path, seed=1)
    whole = observe(gpt2, request, Options(batch=75, examples=3, strongest=3), name=f"whole-{tmp_path.name}")
    assert len(groups(gpt2.build, options.memory)) == (1 if options.memory > 40_000 else 8)

    parts = observe(gpt2, request, options, name=f"parts-{tmp_path.name}")

    names = [name for name in whole.manifest["files"] if "_VIA" in name]
    assert len(names) == 28
    for name in names:
        one, other = whole._read(name), parts._read(name)
        for statistic in ("attended", "lift", "era", "twera", "drive_active", "drive_mean"):
            # 1 / sigma before an MLP is summed a batch at a time, in double precision
            exact = {} if statistic.startswith("drive") else {"rtol": 0, "atol": 0}
            np.testing.assert_allclose(
                one[statistic].to_numpy(), other[statistic].to_numpy(), **({"rtol": 2e-7} | exact), err_msg=name
            )


def test_groups_of_heads_hold_every_head_once_and_keep_to_the_memory(gpt2):
    found = groups(gpt2.build, 120_000)

    assert len(found) > 1
    assert [(head.layer, head.number) for group in found for head in group] == [
        (i, j) for i in range(3) for j in range(4)
    ]
    assert all(sum(head_bytes(gpt2.build, head) for head in group) <= 120_000 for group in found)


def test_what_is_observed_without_heads_is_named_otherwise_and_reads_as_null(gpt2, tmp_path: Path):
    request = ids_file(tmp_path, seed=2)
    followed = observe(gpt2, request, OPTIONS)

    plain = observe(gpt2, request, Options(examples=3, strongest=3, heads=False))

    assert followed.heads
    assert not plain.heads
    assert followed.name != plain.name
    assert plain.manifest["run"] != followed.manifest["run"]
    assert followed.manifest["files"]["edges/FEEDS.parquet"] == plain.manifest["files"]["edges/FEEDS.parquet"]
    table = next(observed(gpt2.build, plain.name).edges("FEEDS_VIA"))
    assert all(table[name].null_count == len(table) for name in observations.EVIDENCE_VIA.names)

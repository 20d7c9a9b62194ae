"""What an observation will cost is said before it is paid, also for a device that is not here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from atlas.model import Activation, ReadSite, WriteSite
from ingest.evidence import capture
from ingest.evidence.attended import groups, head_bytes, heads_of
from ingest.evidence.capture import Reader
from ingest.evidence.corpus import head
from ingest.evidence.observe import Options
from ingest.evidence.plan import plan
from ingest.evidence.subject import Subject
from tests.unit.ingest import models
from tests.unit.ingest.evidence.observed import LENGTH, ids_file, subject


@pytest.fixture
def request_of(tmp_path: Path):
    return replace(ids_file(tmp_path), tokens=2_000_000_000)


def test_the_flop_of_a_position_are_those_of_its_products(tiny: Subject, request_of):
    found = plan(tiny, request_of, Options(batch=60), away="cuda")

    blocks = tiny.runner.model.transformer.h
    weights = sum(p.numel() for p in blocks.parameters() if p.ndim == 2)
    d_model = tiny.weights.d_model
    scores = 2 * 2 * LENGTH * d_model * len(blocks)
    encoders = 2 * d_model * sum(tiny.shape_of)
    # the model runs on a whole window, of which BOS does not count
    assert found.flop == pytest.approx((2 * weights + scores) * LENGTH / (LENGTH - 1) + encoders)


def test_a_run_of_two_billion_tokens_on_a_device_elsewhere_has_a_plan(tiny: Subject, request_of):
    away = plan(tiny, request_of, Options(), away="cuda")
    here = plan(tiny, request_of, Options())

    assert away.reading is None
    assert here.reading > 0
    said = str(away)
    for part in (
        "2,000,000,000 positions",
        "not known on cuda",
        "at 10 TFLOP/s",
        "at 100 TFLOP/s",
        "counting on the CPU",
    ):
        assert part in said
    assert f"{away.flop * 2e9:.2g} FLOP" in said
    assert "16.00 GB of token ids" in said
    assert "not known" not in str(here)
    held = [*tiny.runner.model.parameters(), *tiny.runner.model.buffers()]
    for layer in tiny.source.info.layers:
        one = tiny.source.load(layer)
        held += [one.w_enc, one.b_enc]
    least = sum(tensor.nbytes for tensor in held)
    assert least < away.on_device == here.on_device
    wider = plan(tiny, request_of, Options(batch=2 * Options().batch), away="cuda")
    assert least < wider.on_device - away.on_device + least < wider.on_device


def test_what_fires_is_the_same_where_a_layer_is_read_some_positions_at_a_time(
    tiny: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    text = head(ids_file(tmp_path), tiny.tokenizer, models.N_VOCAB, 4)
    ids = text.windows(0, 4)
    reader, counted = Reader(tiny.runner, tiny.source), text.counted(ids, *tiny.special)
    whole = reader.read(ids, counted, 0)
    seen = []
    encode = capture.Transcoder.encode
    monkeypatch.setattr(capture.Transcoder, "encode", lambda one, x: seen.append(len(x)) or encode(one, x))
    monkeypatch.setattr(capture, "CELLS", 5 * max(tiny.shape_of))

    parts = reader.read(ids, counted, 0)

    assert max(seen) * min(tiny.shape_of) <= capture.CELLS
    for name in ("position", "start", "feature"):
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))
    np.testing.assert_allclose(parts.value, whole.value, rtol=1e-6)
    nothing = reader.read(ids, np.zeros_like(counted), 0)
    assert (len(nothing.token), len(nothing.feature)) == (0, 0)


def test_a_plan_says_what_following_attention_adds_and_nothing_where_it_is_not_followed(request_of, tmp_path: Path):
    sites = {"read": ReadSite.NORM_POST_GAIN, "write": WriteSite.MLP_RAW}
    heads = subject(tmp_path, "gpt2", activation=Activation.RELU, heads=3, **sites)
    in_parts = Options(memory=60_000)

    found = plan(heads, request_of, Options()).heads
    parts = plan(heads, request_of, in_parts)

    assert found is not None
    assert parts.heads is not None
    assert (found.passes, parts.heads.passes) == (1, len(groups(heads.build, in_parts.memory)))
    assert parts.heads.passes > 1
    assert parts.heads.memory <= in_parts.memory
    assert found.memory == sum(head_bytes(heads.build, head) for head in heads_of(heads.build))
    assert found.edges == sum(heads.build.rows(f"edges/{kind}/") for kind in ("FEEDS_VIA", "ACTIVATES_VIA"))
    assert found.seconds > found.reading > 0 < found.counting
    said = str(plan(heads, request_of, Options()))
    assert f"heads   {found.edges:,} edges through 12 heads: the model runs once more in" in said
    assert "of what fires, checkpoints" in said
    assert f"the model runs {parts.heads.passes} times more" in str(parts)
    assert "the model runs once more, and the CPU" in str(plan(heads, request_of, Options(), away="cuda"))
    without = plan(heads, request_of, Options(heads=False))
    assert without.heads is None
    assert "heads" not in str(without)

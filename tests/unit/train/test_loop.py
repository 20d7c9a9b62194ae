import pytest
import torch

from atlas.errors import BadModel, BadSetting, BadSource
from ingest.train import Settings, fidelity, recovery, train_transcoders, windows
from ingest.train.activations import capture, counted, mlps
from ingest.train.files import layer_file, write_config, write_layer
from ingest.train.loop import train_layer
from tests.unit.train import tiny

FEATURES = 48


def settings(activation: str, **changes) -> Settings:
    return Settings(
        **{"activation": activation, "features": FEATURES, "l0": 6.0, "tokens": 200_000, "batch": 500} | changes
    )


@pytest.mark.parametrize("activation", ["relu", "topk", "jumprelu"])
def test_training_explains_more_of_an_mlp_and_ends_at_the_wanted_sparsity(activation):
    torch.manual_seed(2)
    x = torch.randn(4000, 12)
    y = (x @ torch.randn(12, 20)).relu() @ torch.randn(20, 12)
    seen = []

    tensors = train_layer(x.half(), y.half(), settings(activation), layer=0, progress=seen.append)

    assert seen[-1].step == seen[-1].steps == 400
    assert seen[-1].explained > seen[0].explained
    assert seen[-1].explained > 0.6
    assert seen[-1].l0 == pytest.approx(6.0, rel=0.15)
    assert seen[-1].dead < 0.05
    assert tensors["W_enc"].shape == tensors["W_dec"].shape == (FEATURES, 12)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "qwen3"])
def test_what_is_captured_is_what_the_mlp_reads_and_writes_but_at_bos(family):
    model, tokenizer = tiny.model(family), tiny.tokenizer()
    ids = windows(tokenizer, [tiny.TEXT * 3], context=16)
    ids[1, 5] = tokenizer.bos_token_id

    x, y = capture(model, ids, [1], tokenizer.bos_token_id)[1]

    assert len(x) == counted(ids, tokenizer.bos_token_id).sum() == ids.numel() - len(ids) - 1
    with torch.no_grad():
        again = mlps(model)[1](x.float())
    torch.testing.assert_close(again, y.float(), atol=0.02 * y.float().abs().max().item(), rtol=0)


def test_every_window_begins_with_bos_and_text_is_cut_without_overlap():
    tokenizer = tiny.tokenizer()

    ids = windows(tokenizer, [tiny.TEXT * 2], context=10)

    assert (ids[:, 0] == tokenizer.bos_token_id).all()
    whole = tokenizer(tiny.TEXT * 2, add_special_tokens=False)["input_ids"]
    assert ids[:, 1:].flatten().tolist() == whole[: len(whole) // 9 * 9]


def test_a_transcoder_that_is_the_mlp_recovers_everything_and_one_that_is_silent_nothing(tmp_path):
    model, tokenizer = tiny.model("relu-gpt2"), tiny.tokenizer()
    ids = windows(tokenizer, [tiny.TEXT * 6], context=32)
    for layer, mlp in enumerate(mlps(model)):
        same = {
            "W_enc": mlp.c_fc.weight.T,
            "b_enc": mlp.c_fc.bias,
            "W_dec": mlp.c_proj.weight,
            "b_dec": mlp.c_proj.bias,
        }
        same = {name: value.detach().contiguous() for name, value in same.items()}
        write_layer(tmp_path / "same", layer, same, {})
        write_layer(tmp_path / "silent", layer, {name: 0 * value for name, value in same.items()}, {})
    for name in ("same", "silent"):
        write_config(tmp_path / name, "tiny", f"tiny/{name}", settings("relu"))

    assert recovery(model, tmp_path / "same", ids, 0).share == pytest.approx(1.0, abs=0.01)
    assert recovery(model, tmp_path / "silent", ids, 0).share == pytest.approx(0.0, abs=1e-6)
    for row in fidelity(model, tmp_path / "same", ids, 0):
        assert row.explained > 0.999
    for row in fidelity(model, tmp_path / "silent", ids, 0):
        assert (row.l0, row.dead, row.busy) == (0.0, 1.0, 0.0)


def test_a_finished_layer_is_kept_and_a_changed_setting_trains_it_anew(tmp_path):
    model, tokenizer = tiny.model(), tiny.tokenizer()
    ids = windows(tokenizer, [tiny.TEXT * 20], context=32)
    quick = settings("relu", tokens=5_000)
    steps = []

    def run(chosen: Settings, layers: list[int]) -> list[int]:
        steps.clear()
        train_transcoders(
            model, tokenizer, ids, chosen, tmp_path, model_name="tiny", scan="tiny/a", layers=layers,
            progress=lambda at: steps.append(at.layer),
        )  # fmt: skip
        return steps

    assert run(quick, [1]) == [1]
    first = layer_file(tmp_path, 1).read_bytes()
    assert run(quick, [0, 1, 2]) == [0, 2]
    assert layer_file(tmp_path, 1).read_bytes() == first
    assert run(settings("relu", tokens=6_000), [1]) == [1]


def test_two_trainings_from_one_seed_give_one_result():
    torch.manual_seed(2)
    x, y = torch.randn(2000, 8), torch.randn(2000, 9)

    first, second, other = (
        train_layer(x, y, settings("jumprelu", tokens=20_000, seed=seed), layer=0) for seed in (4, 4, 5)
    )

    for name in first:
        assert torch.equal(first[name], second[name])
    assert not torch.equal(first["W_dec"], other["W_dec"])


def test_what_cannot_be_trained_is_refused_in_one_line(tmp_path):
    model, tokenizer = tiny.model(), tiny.tokenizer()
    ids = windows(tokenizer, [tiny.TEXT], context=16)

    with pytest.raises(BadSetting, match=r"Layers \[3\] were asked for; the model has layers 0 to 2"):
        train_transcoders(model, tokenizer, ids, settings("relu"), tmp_path, model_name="t", scan="t/a", layers=[3])
    with pytest.raises(BadModel, match="has no MLP modules"):
        mlps(torch.nn.Linear(2, 2))
    with pytest.raises(BadSource, match="no 99 tokens in a row"):
        windows(tokenizer, [tiny.TEXT], context=100)
    assert not list(tmp_path.iterdir())

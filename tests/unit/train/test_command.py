from click.testing import CliRunner

from atlas.cli.train import train
from atlas.errors import BadModel, BadSource
from tests.unit.train import tiny


def saved(tmp_path):
    tiny.model().save_pretrained(tmp_path / "model")
    tiny.tokenizer().save_pretrained(tmp_path / "model")
    (tmp_path / "text.txt").write_text(tiny.TEXT * 30)
    return [str(tmp_path / "model"), "--text", str(tmp_path / "text.txt"), "--out", str(tmp_path / "set")]


def test_a_model_and_a_text_become_a_folder_of_transcoders(tmp_path):
    asked = [*saved(tmp_path), "--activation", "topk", "--k", "3", "--features", "30", "--tokens", "3000"]

    result = CliRunner().invoke(train, [*asked, "--layers", "0,2", "--context", "32", "--device", "cpu"])

    assert result.exit_code == 0, result.output
    assert "2 layers in" in result.output
    assert {path.name for path in (tmp_path / "set").iterdir()} == {
        "config.yaml",
        "layer_0.safetensors",
        "layer_2.safetensors",
    }
    assert "activation: topk\nk: 3" in (tmp_path / "set" / "config.yaml").read_text()


def test_what_is_no_model_or_no_text_is_refused_before_anything_is_written(tmp_path):
    model, *options = saved(tmp_path)

    nowhere = CliRunner().invoke(train, [str(tmp_path), *options])
    no_text = CliRunner().invoke(train, [model, "--text", str(tmp_path / "none.txt"), "--out", str(tmp_path / "set")])
    k_for_relu = CliRunner().invoke(train, [model, *options, "--activation", "relu", "--k", "3"])

    assert isinstance(nowhere.exception, BadModel)
    assert isinstance(no_text.exception, BadSource)
    assert k_for_relu.exit_code == 2
    assert "--k is for topk" in k_for_relu.output
    assert not (tmp_path / "set").exists()

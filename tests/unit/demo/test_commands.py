"""The demo's own commands: training, transcoders, figures."""

import pytest

from atlas.demo import evaluate, train_model, train_transcoders


@pytest.mark.parametrize("command", [train_model, train_transcoders, evaluate], ids=lambda command: command.__name__)
def test_a_command_explains_itself_where_python_dropped_docstrings_too(command, monkeypatch, capsys):
    monkeypatch.setattr(command, "__doc__", None)  # as python -OO does
    monkeypatch.setattr("sys.argv", ["command", "--help"])

    with pytest.raises(SystemExit) as ended:
        command.main()

    assert ended.value.code == 0
    assert "--help" in capsys.readouterr().out

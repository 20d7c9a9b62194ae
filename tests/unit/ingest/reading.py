"""What every reader's test asks: are activations and outputs the layout's own, is what is wrong said in one line?"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from atlas.errors import BadTranscoder
from ingest.sources import open_transcoders
from tests.unit.ingest import layouts, models

X = models.random(11, models.D_MODEL, seed=77)


def agrees(folder: Path, written: dict[int, layouts.Layer], **options) -> None:
    """Activations and outputs of every layer are those of the layout's own formula."""
    source = open_transcoders(folder, **options)

    assert source.info.layers == sorted(written)
    assert source.info.n_features == {layer: models.N_FEATURES[layer] for layer in written}
    for layer, expected in written.items():
        found = source.load(layer)
        active = found.encode(X)
        assert 0 < (active > 0).float().mean() < 1
        torch.testing.assert_close(active, expected.encode(X))
        torch.testing.assert_close(found.decode(active, X), expected.output(X))


def read_all(folder: Path, **options) -> None:
    source = open_transcoders(folder, **options)
    for layer in source.info.layers:
        source.load(layer)


def said_when(folder: Path, **options) -> str:
    with pytest.raises(BadTranscoder) as caught:
        read_all(folder, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)

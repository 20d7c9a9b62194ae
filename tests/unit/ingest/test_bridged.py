"""Families that are read off TransformerLens' map of parts."""

import pytest
from transformers import MistralConfig

from atlas.errors import BadModel
from ingest.families import family_of


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("part", ["blocks", "ln_final"])
def test_a_map_that_does_not_say_where_a_part_is_found_is_refused_in_one_line(part, monkeypatch):
    from transformer_lens.factories.architecture_adapter_factory import ArchitectureAdapterFactory

    select = ArchitectureAdapterFactory.select_architecture_adapter

    def nameless(described):
        adapter = select(described)
        adapter.component_mapping[part].name = None
        return adapter

    monkeypatch.setattr(ArchitectureAdapterFactory, "select_architecture_adapter", nameless)

    with pytest.raises(BadModel, match=f"transformer-lens does not say where a model's {part} are found"):
        family_of(MistralConfig(), "a model")

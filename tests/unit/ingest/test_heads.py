"""An edge through a head is what switching its source on does to its target where that head alone carries it.

The head attends, from one position, to another at which the source is switched on; norms' denominators, MLPs and all
other heads are held (:mod:`tests.unit.ingest.frozen`). The values and the maps around them are the library's own.
"""

from __future__ import annotations

import pytest
import torch

from atlas.model import ReadSite, WriteSite
from ingest.folding import Vectors
from ingest.heads import first_target, heads
from tests.unit.ingest import models
from tests.unit.ingest.sites import SITES
from tests.unit.ingest.test_intervention import frozen, largest_error, weights

SOURCE, TARGET = 2, 5
SWITCHED_ON = 3.0
TOLERANCE = 1e-5

every_site = pytest.mark.parametrize(("family", "read", "write"), SITES, ids=lambda value: str(value))
every_read = pytest.mark.parametrize(("family", "read"), list(dict.fromkeys(site[:2] for site in SITES)), ids=str)
every_write = pytest.mark.parametrize(
    ("family", "write"), list(dict.fromkeys((family, write) for family, _, write in SITES)), ids=str
)


class Case:
    """One model and set, and what one head carries from its first layer's features or from tokens."""

    def __init__(self, family: str, read: ReadSite, write: WriteSite) -> None:
        self.read, self.write = read, write
        self.source = models.transcoders(read, write)
        self.real, self.model = frozen(family, torch.float32), weights(family, torch.float32)
        self.vectors = Vectors(self.model, self.source)
        self.layer, self.number = 1, 2
        self.head = heads(self.model, self.layer)[self.number]

    def moved(self, put: torch.Tensor, layer: int | None):
        """Two runs: with the change and without."""
        options = {"layer": layer, "site": self.write if layer is not None else None}
        where = (SOURCE, TARGET, (self.layer, self.number))
        return self.real.carried(put, *where, **options), self.real.carried(torch.zeros_like(put), *where, **options)

    def measured(self, put: torch.Tensor, layer: int | None, target: int) -> torch.Tensor:
        after, before = self.moved(put, layer)
        to = self.source.load(target)
        moved = (self.real.pre_activations(after, to) - self.real.pre_activations(before, to))[:, TARGET]
        return moved * self.scale(layer) * self.real.read_sigma(target, self.read, TARGET)

    def scale(self, layer: int | None) -> torch.Tensor:
        sigma = self.real.head_sigma(self.layer, SOURCE, TARGET) / SWITCHED_ON
        return sigma if layer is None else sigma * self.real.write_sigma(layer, self.write, SOURCE)


@every_site
def test_an_edge_between_features_through_a_head_is_what_it_carries(family, read, write):
    case = Case(family, read, write)
    put = SWITCHED_ON * case.source.load(0).w_dec

    measured = case.measured(put, 0, 2)

    carried = case.head.carried(case.vectors.writes(0))
    assert largest_error(measured, carried @ case.head.pulled(case.vectors.reads(2)).T) < TOLERANCE


@every_read
def test_an_edge_from_a_token_through_a_head_is_what_it_carries_to_its_own_layer_too(family, read):
    case = Case(family, read, WriteSite.MLP_RAW)
    embedded = case.real.embedding(torch.arange(models.N_VOCAB)).detach()

    first = first_target(case.model, case.layer)
    assert first == (2 if family in ("gpt_neox", "phi") else 1)
    for target in range(first, models.N_LAYERS):
        measured = case.measured(SWITCHED_ON * embedded, None, target)
        carried = case.head.carried(case.vectors.token_writes())
        assert largest_error(measured, carried @ case.head.pulled(case.vectors.reads(target)).T) < TOLERANCE


@pytest.mark.parametrize("family", ["gpt_neox", "phi"])
def test_an_mlp_beside_attention_reads_nothing_of_its_own_layers_heads(family):
    case = Case(family, ReadSite.RESID_MID, WriteSite.MLP_RAW)

    measured = case.measured(SWITCHED_ON * case.source.load(0).w_dec, 0, case.layer)

    assert measured.abs().max() < TOLERANCE


@every_write
def test_an_edge_to_a_logit_through_a_head_is_what_it_carries_there(family, write):
    case = Case(family, ReadSite.RESID_MID, write)
    put = SWITCHED_ON * case.source.load(0).w_dec

    after, before = case.moved(put, 0)
    moved = (after.logits - before.logits)[:, TARGET]
    moved = (moved - moved.mean(-1, keepdim=True)) * case.scale(0) * case.real.final_sigma(TARGET)

    carried = case.head.carried(case.vectors.writes(0))
    assert largest_error(moved, carried @ case.head.pulled(case.vectors.logit_reads()).T) < TOLERANCE


@pytest.mark.parametrize("family", models.EVERY)
def test_every_head_of_every_layer_carries_what_its_own_maps_say(family):
    model, real = weights(family, torch.float32), frozen(family, torch.float32)
    vectors = Vectors(model, models.transcoders(ReadSite.RESID_MID, WriteSite.MLP_RAW))
    put = SWITCHED_ON * real.embedding(torch.arange(models.N_VOCAB)).detach()

    errors = []
    for layer in range(models.N_LAYERS):
        scale = real.head_sigma(layer, SOURCE, TARGET) * real.final_sigma(TARGET) / SWITCHED_ON
        for head in heads(model, layer):
            of_head = (SOURCE, TARGET, (layer, head.number))
            after, before = real.carried(put, *of_head), real.carried(torch.zeros_like(put), *of_head)
            moved = (after.logits - before.logits)[:, TARGET]
            measured = (moved - moved.mean(-1, keepdim=True)) * scale
            predicted = head.carried(vectors.token_writes()) @ head.pulled(vectors.logit_reads()).T
            errors.append(largest_error(measured, predicted))

    assert len(errors) == models.N_LAYERS * models.N_HEADS
    assert max(errors) < TOLERANCE


@pytest.mark.parametrize("family", models.EVERY)
def test_all_heads_at_attention_one_are_what_the_layers_attention_adds_to_a_text_of_one_token(family):
    """Alone, every head attends to its own position: their sum is the module's output, its constant taken off."""
    model, real = weights(family, torch.float32), frozen(family, torch.float32)
    read = {}
    layer, block = 1, real.blocks[1]
    attention = block.get_submodule(real.anatomy.attention)
    name = real.anatomy.attention_norm
    hooks = [
        attention.register_forward_hook(lambda module, inputs, output: read.update(added=output[0][0, 0])),
        block.register_forward_pre_hook(
            lambda module, inputs, given: read.update(stream=(inputs[0] if inputs else given["hidden_states"])[0, 0]),
            with_kwargs=True,
        ),
    ]
    with torch.no_grad():
        real.model(torch.tensor([[7]]), use_cache=False)
    for hook in hooks:
        hook.remove()

    stream, behind = read["stream"], real.anatomy.post_attention
    centred = stream - stream.mean() if real.layer_norm else stream
    eps = model.eps if name else 0.0
    sigma = (centred.pow(2).mean() + eps).sqrt() if name else torch.ones(())
    total = sum(stream @ head.reads @ head.writes for head in heads(model, layer)) / sigma
    added = read["added"]
    if behind:
        gain = block.get_submodule(behind).weight
        added = added * (1 + gain if real.anatomy.one_more else gain)
    expected = (added - model.layers[layer].attention_constant).detach()
    assert ((total - expected).abs().max() / expected.abs().max()).item() < TOLERANCE


def test_the_norm_of_a_heads_pullback_is_that_of_the_read_vector_through_the_whole_map():
    case = Case("llama", ReadSite.NORM_POST_GAIN, WriteSite.MLP_RAW)
    reads = case.vectors.reads(2)
    whole = case.head.reads @ case.head.writes

    torch.testing.assert_close(case.head.pullback_norms(case.head.pulled(reads)), (reads @ whole.T).norm(dim=1))
    assert case.head.norm() == pytest.approx(whole.norm().item(), rel=1e-5)


def test_heads_whose_values_are_clipped_are_refused():
    from atlas.errors import BadModel
    from ingest.weights import open_model

    library = models.model("olmo")
    library.config.clip_qkv = 8.0

    with pytest.raises(BadModel, match=r"clips its values at 8\.0"):
        heads(open_model(library, models.tokenizer()), 0)

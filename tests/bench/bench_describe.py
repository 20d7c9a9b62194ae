"""What describing costs at GPT-2 small's shapes: 50,257 tokens, 24,576 features a layer, some 70 of which fire at once.

Weights are random; biases are set so that the wanted number fires. CPU seconds by layer say how it grows: a layer
costs its tokens and logits, and a pair of layers its features. ``BENCH_LAYERS`` (default 2) says how many layers to
take, ``BENCH_FEATURES`` how many features of each, ``BENCH_VOCAB`` how many tokens.
"""

from __future__ import annotations

import os
import resource
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import GPT2Config, PreTrainedTokenizerFast
from transformers.models.gpt2 import GPT2LMHeadModel

from atlas.model import Activation, ReadSite, WriteSite
from ingest.describe.evidence import gather
from ingest.describe.validated import Describer
from ingest.evidence.capture import Runner
from ingest.folding import Vectors
from ingest.sources.memory import InMemory
from ingest.transcoder import Transcoder
from ingest.weights import open_model

N_VOCAB, D_MODEL = int(os.environ.get("BENCH_VOCAB", "50257")), 768
N_FEATURES = int(os.environ.get("BENCH_FEATURES", "24576"))
AT_ONCE = 70 * N_FEATURES // 24_576


def layers(count: int) -> InMemory:
    made = {}
    for layer in range(count):
        generator = torch.Generator().manual_seed(layer)
        w_enc, w_dec = (torch.randn(N_FEATURES, D_MODEL, generator=generator) / D_MODEL**0.5 for _ in range(2))
        share = AT_ONCE / N_FEATURES  # what is read has length sqrt(d_model), so pre-activations are standard normal
        bias = float(torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor(share)))
        made[layer] = Transcoder(
            layer=layer,
            w_enc=w_enc,
            b_enc=torch.full((N_FEATURES,), bias),
            w_dec=w_dec,
            b_dec=torch.zeros(D_MODEL),
            activation=Activation.RELU,
            read=ReadSite.NORM_PRE_GAIN,
            write=WriteSite.MLP_RAW,
        )
    return InMemory(made, name="tc-24k")


@pytest.mark.timeout(4 * 3600)
def test_describing_gpt2_shapes(tmp_path: Path):
    count = int(os.environ.get("BENCH_LAYERS", "2"))
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_layer=count, vocab_size=N_VOCAB, bos_token_id=0, eos_token_id=0)).eval()
    words = {"<bos>": 0, "<unk>": 1} | {f" w{i}": i for i in range(2, N_VOCAB)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="<unk>")), bos_token="<bos>", unk_token="<unk>"
    )
    weights = replace(open_model(model, tokenizer), name="random")
    source = layers(count)

    clock = time.process_time()
    evidence = gather(Runner(model, weights), source, tmp_path)
    print(f"\nalone: {time.process_time() - clock:.0f} CPU s, {evidence.passes} passes", flush=True)
    fired = evidence.layer(0).nnz / N_VOCAB
    describer = Describer(Vectors(weights, source), evidence, np.zeros(N_VOCAB, bool))
    for layer in range(count):
        clock = time.process_time()
        details = describer.describe(layer)
        tried = int(np.sum(details["tried"].to_numpy()))
        print(f"layer {layer}: {time.process_time() - clock:.0f} CPU s, {tried:,} candidates", flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{fired:.0f} features fire at once; peak memory {peak:.1f} GB")

    assert 0.3 * AT_ONCE < fired < 3 * AT_ONCE
    assert peak < 4

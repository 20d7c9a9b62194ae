"""Small models with real byte-level vocabularies and transcoders whose features read a few tokens each."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from torch import Tensor
from transformers import Gemma2Config, GPT2Config, LlamaConfig, PreTrainedTokenizerFast
from transformers.models.gemma2 import Gemma2ForCausalLM
from transformers.models.gpt2 import GPT2LMHeadModel
from transformers.models.llama import LlamaForCausalLM

from atlas.model import Activation, ReadSite, WriteSite
from ingest.evidence.capture import Runner
from ingest.sources.memory import InMemory
from ingest.transcoder import Transcoder
from ingest.weights import ModelWeights, open_model

N_VOCAB, D_MODEL, N_LAYERS = 1060, 24, 3
N_FEATURES = (150, 130, 110)
BOS = 1
ODD = (190, 97, BOS, N_VOCAB - 2)
"""tokens that are NUL, half a character, BOS, and a row behind the tokenizer's last"""


@dataclass
class Small:
    """A model, its weights as edges know them, its transcoders."""

    model: Any
    tokenizer: Any
    weights: ModelWeights
    source: InMemory
    _seen: dict[tuple[tuple[int, ...], int], Tensor] = field(default_factory=dict)

    @property
    def runner(self) -> Runner:
        return Runner(self.model, self.weights)

    def activation(self, ids: list[int], layer: int, feature: int) -> list[float]:
        """One forward pass of exactly these ids, batch 1, without any code of ours but the formula of a feature."""
        transcoder = self.source.load(layer)
        p = self._read(tuple(ids), layer) @ transcoder.w_enc[feature] + transcoder.b_enc[feature]
        threshold = 0.0 if transcoder.threshold is None else transcoder.threshold[feature]
        return torch.where(p > threshold, p, 0.0).tolist()

    def _read(self, ids: tuple[int, ...], layer: int) -> Tensor:
        """What the layer's transcoder reads; the same pass is not made twice."""
        if (ids, layer) in self._seen:
            return self._seen[ids, layer]
        body = self.model.base_model
        block = (body.h if hasattr(body, "h") else body.layers)[layer]
        names = ("ln_2", "pre_feedforward_layernorm", "post_attention_layernorm")  # Gemma has the last two
        norm = next(getattr(block, name) for name in names if hasattr(block, name))
        seen: list[Tensor] = []
        handle = norm.register_forward_hook(lambda module, inputs, output: seen.extend([inputs[0][0], output[0]]))
        with torch.no_grad():
            body(torch.tensor([ids]), use_cache=False)
        handle.remove()
        x, normed = seen
        if hasattr(block, "ln_2"):
            bare = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        else:
            bare = x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()
        sites = {ReadSite.RESID_MID: x, ReadSite.NORM_POST_GAIN: normed, ReadSite.NORM_PRE_GAIN: bare}
        self._seen[ids, layer] = sites[self.source.load(layer).read]
        return self._seen[ids, layer]


@functools.cache
def tokenizer(adds_bos: bool = True) -> PreTrainedTokenizerFast:
    """Byte-level BPE of made-up words: whole words, pieces, and bytes that are no character alone."""
    made = Tokenizer(BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=N_VOCAB - 4,  # the embedding has four rows more
        special_tokens=["<pad>", "<bos>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    ends = ("a", "e", "i", "o", "u", "ai", "ea", "oo")
    syllables = [start + end for start in "bcdfghjklmnprstvw" for end in ends]
    texts = [f"{one}{two} {two}{one}s" for i, one in enumerate(syllables) for two in syllables[i % 7 :: 11]]
    made.train_from_iterator(texts * 3, trainer)
    from tokenizers import processors

    if adds_bos:
        made.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", BOS)])
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<bos>", pad_token="<pad>")


def small(
    family: str = "gpt2",
    activation: Activation = Activation.RELU,
    seed: int = 0,
    *,
    read: ReadSite = ReadSite.NORM_POST_GAIN,
    n_vocab: int = N_VOCAB,
) -> Small:
    """``gpt2``, ``gemma2`` or ``llama``, named so that the published method takes its branch of that name.

    ``n_vocab``: rows of the embedding; the tokenizer has the same words whatever it is.
    """
    shape: dict[str, Any] = {"vocab_size": n_vocab, "bos_token_id": BOS, "eos_token_id": BOS, "pad_token_id": 0}
    rms = {
        "num_hidden_layers": N_LAYERS,
        "hidden_size": D_MODEL,
        "intermediate_size": 40,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 6,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-6,
        "attn_implementation": "eager",
    }
    if family == "gpt2":
        model: Any = GPT2LMHeadModel(
            GPT2Config(n_layer=N_LAYERS, n_embd=D_MODEL, n_head=4, n_positions=256, n_inner=40, **shape)
        )
    elif family == "llama":
        model = LlamaForCausalLM(LlamaConfig(**rms, **shape))
    else:
        model = Gemma2ForCausalLM(Gemma2Config(**rms, **shape))
    model.eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            scale = 0.5 if parameter.dim() > 1 and ("wte" in name or "embed" in name) else 0.12
            is_gain = parameter.dim() == 1 and name.endswith("weight")
            parameter.copy_(noise * scale + (1.0 if is_gain and family != "gemma2" else 0.0))
    model.config._name_or_path = f"tiny-{family}"
    words = tokenizer()
    weights = open_model(model, words)
    source = InMemory(dict(enumerate(_transcoders(weights, activation, read, generator))), name="tc-small")
    return Small(model, words, weights, source)


def _transcoders(
    weights: ModelWeights, activation: Activation, read: ReadSite, generator: torch.Generator
) -> list[Transcoder]:
    """Features that read one to three tokens, or write what such features read in the next layers.

    A few read what is odd: a byte that is NUL or half a character, BOS, a row behind the tokenizer's last token, or
    nothing at all.
    """
    embedding = weights.embedding * weights.embedding_scale
    unit = embedding / embedding.norm(dim=1, keepdim=True)
    made: list[Transcoder] = []
    for layer, n in enumerate(N_FEATURES):

        def noise(*size: int, scale: float = 0.3) -> Tensor:
            return torch.randn(*size, generator=generator) * scale

        chosen = torch.randint(N_VOCAB, (n, 3), generator=generator)
        chosen[: len(ODD), 0] = torch.tensor(ODD)
        strength = torch.tensor([1.0, 0.8, 0.6]) * (torch.rand(n, 3, generator=generator) < 0.7)
        reads = (unit[chosen] * strength[..., None]).sum(dim=1) * 2 + noise(n, D_MODEL, scale=0.05)
        reads[len(ODD)] = 0
        if layer:  # read a feature of the layer before, and one of layer 0
            for earlier in {0, layer - 1}:
                picked = torch.randint(N_FEATURES[earlier], (n,), generator=generator)
                writes = made[earlier].w_dec[picked]
                reads = reads + 2 * writes / writes.norm(dim=1, keepdim=True)
            reads[len(ODD)] = 0
        made.append(
            Transcoder(
                layer=layer,
                w_enc=reads,
                b_enc=noise(n) - 0.2 - (8.0 if layer else 0.0) * (torch.rand(n, generator=generator) < 0.3),
                w_dec=noise(n, D_MODEL, scale=0.4) + (unit[torch.randint(N_VOCAB, (n,), generator=generator)] * 2),
                b_dec=noise(D_MODEL, scale=0.1),
                activation=activation,
                read=read,
                write=WriteSite.MLP_RAW,
                threshold=torch.rand(n, generator=generator) if activation is Activation.JUMPRELU else None,
                k=None,
            )
        )
    return made


def renamed(weights: ModelWeights, name: str, **changes: Any) -> ModelWeights:
    return replace(weights, name=name, repo=name, **changes)

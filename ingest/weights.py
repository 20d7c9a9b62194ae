"""The language model's part in an edge: embedding, unembedding, norms, and what attention adds on every text.

Nothing is run. Of a folder or a hub repository only these parameters are read, straight from its safetensors; a loaded
model (transformers, or TransformerLens' bridge or HookedTransformer) gives them from memory. What is folded into what
is the business of :mod:`ingest.folding`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from atlas.errors import BadModel
from ingest import vocabulary
from ingest.attention import Attention, constant, gain_of
from ingest.attention import attention as heads
from ingest.families import Family, Get, Norm, family_of, n_heads_of, required, row, sizes
from ingest.folders import Folder, open_folder
from ingest.vocabulary import Vocabulary

NAMES = {"gpt2": "gpt2-small"}
"""names that Neuronpedia uses, where they are not the repository's"""
_EPS = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon")
_TOKENIZER = re.compile(
    r"^(tokenizer.*|vocab.*|merges\.txt|special_tokens_map\.json|added_tokens\.json|spiece\.model)$"
)
_BESIDE_TOKENS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt")
"""files of a tokenizer that do not hold its tokens: of these alone transformers makes one without any"""


@dataclass(frozen=True)
class LayerWeights:
    """One block's norm before its MLP, and what its attention adds whatever it attends to."""

    mlp_gain: Float[Tensor, " d_model"] | None
    """None where the MLP reads the stream itself (OLMo 2)"""
    mlp_bias: Float[Tensor, " d_model"] | None
    post_mlp_gain: Float[Tensor, " d_model"] | None
    """gain of a norm behind the MLP (Gemma 2)"""
    attention_constant: Float[Tensor, " d_model"]
    """``b_O + (b_V + b_norm W_V) W_O``: patterns sum to one, so this is there on every text (where a norm stands behind
    attention, times that norm's gain, its denominator left out)"""


@dataclass(frozen=True)
class ModelWeights:
    """A language model as far as weight-based edges know it. Tensors are float32 on the CPU, gains as they multiply."""

    name: str
    """for keys; the repository's or folder's own name unless Neuronpedia has another"""
    family: str
    repo: str
    revision: str
    files: dict[str, str]
    """SHA-256 of every file that is read"""
    n_layers: int
    d_model: int
    n_vocab: int
    """rows of the embedding, padding included"""
    vocabulary: Vocabulary
    norm: Norm
    eps: float
    embedding: Float[Tensor, "n_vocab d_model"]
    embedding_scale: float
    """what the model multiplies the embedding by"""
    positions: Float[Tensor, "n_positions d_model"] | None
    """learned positions, added to the embedding"""
    layers: list[LayerWeights]
    final_gain: Float[Tensor, " d_model"]
    final_bias: Float[Tensor, " d_model"] | None
    unembedding: Float[Tensor, "n_vocab d_model"]
    unembedding_bias: Float[Tensor, " n_vocab"] | None
    soft_cap: float | None
    """logits are ``soft_cap * tanh(logits / soft_cap)`` at last: monotone, so centred weights rank, no more"""
    parallel: bool
    """an MLP reads what its own layer's attention reads (GPT-NeoX, Phi)"""
    n_heads: int
    attention: Callable[[int], Attention] = field(compare=False, repr=False)
    """one layer's heads, read when asked for: only edges through heads need them"""

    @property
    def bos_id(self) -> int | None:
        return self.vocabulary.bos

    @property
    def has_mlp_norm(self) -> bool:
        return self.layers[0].mlp_gain is not None

    @property
    def has_post_mlp_norm(self) -> bool:
        return self.layers[0].post_mlp_gain is not None


def open_model(spec: Any, tokenizer: Any = None) -> ModelWeights:
    """A local folder, a hub ``repo[@revision]``, or a loaded model.

    A loaded model that carries no tokenizer needs one: ``open_model(model, tokenizer)``, or the pair as ``spec``.
    Raises :class:`atlas.errors.BadModel` for a family whose norms and sites no test proves, for files that are missing,
    cut short or kept as pickles, and for a tokenizer that is not the model's.
    """
    if isinstance(spec, tuple):
        spec, tokenizer = spec
    if not isinstance(spec, str | Path):
        return _loaded(spec, tokenizer)
    return _stored(open_folder(spec), tokenizer)


Opened = Callable[[], AbstractContextManager[Get]]


def assemble(
    family: Family,
    config: Any,
    parameter: Get,
    opened: Opened,
    *,
    where: str,
    tokenizer: Any,
    identity: dict[str, Any],
) -> ModelWeights:
    """Put the parts of one family together. ``parameter`` knows names without the family's prefix, and ``lm_head``;
    ``opened`` gives it again, later."""

    def get(name: str) -> Tensor | None:
        return _clean(parameter, name, where)

    def gain(name: str | None, layer: int | None = None) -> Tensor | None:
        return gain_of(family, get, name, layer, d_model)

    def attention(layer: int) -> Attention:
        with opened() as again:
            return heads(family, config, lambda name: _clean(again, name, where), layer, d_model, where)

    if getattr(config, "quantization_config", None):
        raise BadModel(f"{where} is quantised; edges need its weights in floating point")
    embedding = required(get, family.embedding)
    n_vocab, d_model, n_layers = sizes(embedding, config, where)
    layers = []
    for layer in range(n_layers):
        added = constant(family, config, get, layer, d_model)
        post = gain(family.post_attention_norm, layer)
        layers.append(
            LayerWeights(
                mlp_gain=gain(family.mlp_norm, layer),
                mlp_bias=row(get, f"{family.mlp_norm.format(layer)}.bias", d_model) if family.mlp_norm else None,
                post_mlp_gain=gain(family.post_mlp_norm, layer),
                attention_constant=added if post is None else added * post,
            )
        )
    tied = getattr(config, "tie_word_embeddings", False)
    unembedding_bias = get("lm_head.bias")
    final_gain = gain(family.final_norm)
    assert final_gain is not None
    unembedding = embedding if tied else _unembedding(get)
    positions = get(family.positions) if family.positions else None
    for name, found in (("unembedding", unembedding), ("table of positions", positions)):
        if found is not None and (found.dim() != 2 or found.shape[1] != d_model):
            raise BadModel(
                f"{where}: its {name} has shape {tuple(found.shape)}, but its embedding a width of {d_model}"
            )
    if len(unembedding) != n_vocab:
        raise BadModel(f"{where}: its unembedding has {len(unembedding)} rows, its embedding {n_vocab}")
    return ModelWeights(
        family=family.name,
        n_layers=n_layers,
        d_model=d_model,
        n_vocab=n_vocab,
        vocabulary=vocabulary.read(tokenizer, n_vocab),
        norm=family.norm,
        eps=next((getattr(config, name) for name in _EPS if getattr(config, name, None)), 1e-5),
        embedding=embedding,
        embedding_scale=d_model**0.5 if family.scaled_embedding else 1.0,
        positions=positions,
        layers=layers,
        final_gain=final_gain,
        final_bias=row(get, f"{family.final_norm}.bias", d_model),
        unembedding=unembedding,
        # TransformerLens gives every model one, of zeros where there is none
        unembedding_bias=None if unembedding_bias is None or not unembedding_bias.any() else unembedding_bias,
        soft_cap=getattr(config, "final_logit_softcapping", None),
        parallel=family.parallel,
        n_heads=n_heads_of(config)[0],
        attention=attention,
        **identity,
    )


def _unembedding(get: Get) -> Tensor:
    """``embed_out`` is what GPT-NeoX' published files call it."""
    found = get("embed_out.weight")
    return required(get, "lm_head.weight") if found is None else found


def _stored(folder: Folder, tokenizer: Any) -> ModelWeights:
    """A model in transformers' layout; only what is needed of it is downloaded, and only edges' parameters are read."""
    from transformers import AutoConfig, AutoTokenizer

    names = [name for name in folder.names() if "/" not in name]
    weights = [name for name in names if name.endswith(".safetensors")]
    if "config.json" not in names:
        raise BadModel(f"{folder.where} holds no language model: it has no config.json")
    if not weights:
        pickles = [name for name in names if name.endswith((".bin", ".pt", ".pth"))]
        found = f"only {pickles[0]}, a pickle, which can run code when it is read" if pickles else "no weights"
        raise BadModel(f"{folder.where} has {found}; save the model as safetensors")
    index = [name for name in names if name.endswith(".safetensors.index.json")]
    config_path = folder.path("config.json")
    try:
        config = AutoConfig.from_pretrained(config_path.parent, local_files_only=True)
    except Exception as error:  # transformers raises whatever its configs raise
        kind = _model_type(config_path)
        family_of(kind, folder.where)
        raise BadModel(f"{folder.where}: config.json cannot be read ({_reason(error)})") from error
    family = family_of(config, folder.where)
    if tokenizer is None:
        used = [name for name in names if _TOKENIZER.match(name)]
        if not {*used} - {*_BESIDE_TOKENS}:
            raise BadModel(
                f"{folder.where} holds no tokenizer: it has none of tokenizer.json, tokenizer.model, vocab.json, which "
                "transformers' save_pretrained writes; add one, or give the loaded model and its tokenizer"
            )
        for name in used:
            folder.path(name)
        try:
            tokenizer = AutoTokenizer.from_pretrained(config_path.parent, local_files_only=True)
        except Exception as error:  # transformers raises whatever its tokenizers raise
            raise BadModel(
                f"{folder.where}: its tokenizer cannot be read ({_reason(error)}); save it again with this version of "
                f"transformers ({version('transformers')}), or give the loaded model and its tokenizer"
            ) from error
    else:
        used = []
    files = {name: folder.sha256(name) for name in ["config.json", *used, *index, *weights]}
    paths = [folder.path(name) for name in weights]

    @contextmanager
    def opened() -> Iterator[Get]:
        with ExitStack() as stack:
            yield _safetensors(stack, paths, family.prefix)

    with opened() as parameter:
        return assemble(
            family,
            config.get_text_config(),
            parameter,
            opened,
            where=folder.where,
            tokenizer=tokenizer,
            identity={
                "name": model_name(folder.repo),
                "repo": folder.repo,
                "revision": folder.revision or digest(files),
                "files": files,
            },
        )


def _safetensors(stack: ExitStack, paths: list[Path], prefix: str) -> Get:
    """Parameters by name over all shards; some repositories leave the prefix of the base model off."""
    from safetensors import SafetensorError, safe_open

    place: dict[str, Any] = {}
    for path in paths:
        try:
            shard = stack.enter_context(safe_open(path, framework="pt"))
        except (SafetensorError, OSError) as error:
            raise BadModel(f"{path.name} is cut short or no safetensors file ({error}); fetch it again") from error
        place |= {_plain(name, prefix): (shard, name) for name in shard.keys()}  # noqa: SIM118

    def get(name: str) -> Tensor | None:
        if name not in place:
            return None
        shard, stored = place[name]
        return shard.get_tensor(stored)

    return get


def _plain(name: str, prefix: str) -> str:
    """A stored name without its prefix; models that also see keep the text's part under another one."""
    for before in (prefix, "language_model.model.", "language_model."):
        if name.startswith(before):
            return name.removeprefix(before)
    return name


def _loaded(model: Any, tokenizer: Any) -> ModelWeights:
    from ingest import hooked

    if hooked.is_lens(model):
        config, family, get = hooked.parameters(model)
        tokenizer = tokenizer or model.tokenizer
    elif hasattr(model, "config") and hasattr(model, "state_dict"):
        family = family_of(model.config, type(model).__name__)
        config = model.config.get_text_config()
        state = {name.removeprefix(family.prefix): tensor for name, tensor in model.state_dict().items()}
        get = state.get
    else:
        raise BadModel(
            f"a model is a path, a hub repo, or a model of transformers or TransformerLens, not {type(model).__name__}"
        )
    name = str(getattr(model.config, "_name_or_path", "") if hasattr(model, "config") else "")
    name = name or str(getattr(config, "_name_or_path", "") or family.name)
    if tokenizer is None:
        raise BadModel(f"the loaded model {name!r} carries no tokenizer; give (model, tokenizer)")
    seen = hashlib.sha256()

    def hashed(parameter: str) -> Tensor | None:
        found = get(parameter)
        if found is not None:
            seen.update(f"{parameter}{tuple(found.shape)}".encode())
            seen.update(found.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
        return found

    short = Path(name).name
    found = assemble(
        family,
        config,
        hashed,
        lambda: nullcontext(get),
        where=type(model).__name__,
        tokenizer=tokenizer,
        identity={"name": model_name(short), "repo": short, "revision": "", "files": {}},
    )
    files = {"parameters": seen.hexdigest()}
    return ModelWeights(**vars(found) | {"files": files, "revision": digest(files)})


def model_name(repo: str) -> str:
    """A model's name in keys: the last part of its repository or folder, in small letters."""
    name = re.sub(r"[^a-z0-9._+-]+", "-", repo.rsplit("/", 1)[-1].lower()).strip("-._+")
    return NAMES.get(name, name) or "model"


def digest(files: dict[str, str]) -> str:
    """What stands for a revision where there is no commit: twelve digits over the hashes of the files."""
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()[:12]


def _model_type(path: Path) -> str:
    try:
        return str(json.loads(path.read_text()).get("model_type"))
    except (ValueError, AttributeError, OSError, RecursionError):
        raise BadModel(f"{path.name} is not the JSON of a transformers config") from None


def _reason(error: Exception) -> str:
    """A library's own words, as far as they go on one line."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200].rstrip(": ")


def _clean(parameter: Get, name: str, where: str) -> Tensor | None:
    found = parameter(name)
    if found is not None and not found.is_floating_point():
        raise BadModel(f"{where}: {name} is stored as {found.dtype}; weights must be floating point")
    return None if found is None else _finite(found.detach().to("cpu", torch.float32), name, where)


def _finite(tensor: Tensor, name: str, where: str) -> Tensor:
    if not torch.isfinite(tensor.sum()) and not torch.isfinite(tensor).all():
        row = int((~torch.isfinite(tensor.reshape(len(tensor), -1))).any(dim=1).nonzero()[0])
        raise BadModel(f"{where}: {name} has NaN or Inf in row {row}")
    return tensor

"""What a model's MLPs read and write on text.

Text is cut into windows that begin with a token to start on (BOS where the tokenizer has one). That first position,
and any later BOS, is left out of training and of every figure: models park attention there, and transcoders are not
meant to be read at it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from atlas.errors import BadModel, BadSource

BLOCKS = ("transformer.h", "model.layers", "model.decoder.layers", "gpt_neox.layers")


def mlps(model: nn.Module) -> list[nn.Module]:
    """The MLP module of every layer, first to last; raises :class:`BadModel` where none is found."""
    for path in BLOCKS:
        try:
            blocks = model.get_submodule(path)
        except AttributeError:
            continue
        found = [getattr(block, "mlp", None) for block in blocks.children()]
        modules = [mlp for mlp in found if isinstance(mlp, nn.Module)]
        if modules and len(modules) == len(found):
            return modules
    raise BadModel(
        f"{type(model).__name__} has no MLP modules at {', '.join(f'{path}[i].mlp' for path in BLOCKS)}. "
        "Transcoders are trained for GPT-2, Llama, Gemma, Qwen and what is built like them."
    )


def windows(
    tokenizer, texts: Iterable[str], context: int, limit: int | None = None
) -> Int[Tensor, "n_windows context"]:
    """Tokens of ``texts`` in windows of ``context`` positions, each beginning with the tokenizer's BOS.

    Without a BOS the window's own first token takes that place. What does not fill a window at the end of a text is
    left out. At most ``limit`` positions, spread evenly over the text. Raises :class:`BadSource` for text too short
    for one window.
    """
    bos = tokenizer.bos_token_id
    span = context if bos is None else context - 1
    rows = []
    for text in texts:
        ids = torch.tensor(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"], dtype=torch.long)
        rows.append(ids[: len(ids) // span * span].view(-1, span))
    cut = torch.cat(rows) if rows else torch.empty(0, span, dtype=torch.long)
    if not len(cut):
        raise BadSource(f"The text has no {span} tokens in a row to fill one window of {context}. Give more text.")
    if bos is not None:
        cut = nn.functional.pad(cut, (1, 0), value=bos)
    keep = len(cut) if limit is None else max(1, min(len(cut), limit // context))
    return cut[torch.linspace(0, len(cut) - 1, keep).round().long()]


def counted(ids: Int[Tensor, "batch context"], bos: int | None) -> Bool[Tensor, "batch context"]:
    """The positions that count: neither the first of a window nor a BOS."""
    mask = torch.ones_like(ids, dtype=torch.bool) if bos is None else ids != bos
    mask[:, 0] = False
    return mask


@contextmanager
def hooked(modules: list[nn.Module], hooks: list[Callable]) -> Iterator[None]:
    """Forward hooks on ``modules`` for the length of a ``with``."""
    handles = [module.register_forward_hook(hook) for module, hook in zip(modules, hooks, strict=True)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def capture(
    model: PreTrainedModel, ids: Int[Tensor, "n_windows context"], layers: list[int], bos: int | None, batch: int = 16
) -> dict[int, tuple[Float[Tensor, "n d_model"], Float[Tensor, "n d_model"]]]:
    """What the MLPs of ``layers`` read and write at the counted positions, on the CPU in half precision.

    Memory is ``4 * positions * layers * d_model`` bytes. Raises :class:`BadModel` where a value does
    not fit half precision.
    """
    modules = mlps(model)
    kept: dict[int, tuple[list[Tensor], list[Tensor]]] = {layer: ([], []) for layer in layers}
    mask = torch.empty(0)
    device = next(model.parameters()).device

    def keep(layer: int) -> Callable:
        def hook(module: nn.Module, inputs: tuple, output: Tensor) -> None:
            for store, value in zip(kept[layer], (inputs[0], output), strict=True):
                store.append(value[mask].to("cpu", torch.float16))

        return hook

    with hooked([modules[layer] for layer in layers], [keep(layer) for layer in layers]):
        for rows in ids.split(batch):
            rows = rows.to(device)
            mask = counted(rows, bos)
            model.base_model(rows, use_cache=False)
    found = {layer: (torch.cat(reads), torch.cat(writes)) for layer, (reads, writes) in kept.items()}
    for layer, pair in found.items():
        if not all(torch.isfinite(values).all() for values in pair):
            raise BadModel(f"layer {layer}: the MLP reads or writes values beyond half precision (65504), or NaN.")
    return found

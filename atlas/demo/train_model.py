"""Train ``bunny``: a GPT-2 of four layers on the books of ``corpus.parquet``.

``python -m atlas.demo.train_model`` does the whole of it on a CPU: tokenizer, model, evaluation, files. Settings,
seed and data order are fixed, so a run on another machine sees the same tokens in the same order; rounding may
differ.

Block matrices are trained with Muon (Jordan 2024, https://kellerjordan.github.io/posts/muon/), everything else with
AdamW. A run that is stopped goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
from transformers.models.gpt2.modeling_gpt2 import GPT2Block

from atlas.demo.corpus import Book, books

BOS = "<|bos|>"


@dataclass(frozen=True)
class Settings:
    """Everything that decides what comes out; recorded beside the weights."""

    d_model: int = 192
    n_layers: int = 4
    n_heads: int = 6
    vocabulary: int = 4096
    context: int = 256
    """Positions a window, the BOS token at its beginning included."""
    batch: int = 16
    tokens: int = 22_000_000
    """Positions seen in training, BOS included."""
    learning_rate: tuple[tuple[int, float], ...] = (
        (0, 0.0),
        (400_000, 1.0),
        (10_500_000, 1.0),
        (12_288_000, 0.885),
        (22_000_000, 0.0),
    )
    """Share of the full learning rate by position; straight lines between."""
    muon_lr: float = 0.02
    adam_lr: float = 3e-3
    weight_decay: float = 0.1
    seed: int = 3

    @property
    def steps(self) -> int:
        """Optimiser steps of the run."""
        return self.tokens // (self.batch * self.context)


def train_tokenizer(texts: list[str], size: int, context: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE with a BOS token of id 0, which the tokenizer puts before every text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=[BOS], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=BOS,
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )


def encode(tokenizer: PreTrainedTokenizerFast, text: str) -> Tensor:
    """Token ids of one text without its BOS, shape ``(n_tokens,)``."""
    return torch.tensor(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"], dtype=torch.long)


def batches(streams: list[Tensor], settings: Settings, bos: int) -> Iterator[Tensor]:
    """Endless batches ``(batch, context)``.

    An epoch cuts every book anew, at another offset, and shuffles the windows.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    span, left = settings.context - 1, torch.empty(0, settings.context, dtype=torch.long)
    while True:
        windows = []
        for stream in streams:
            offset = int(torch.randint(span, (1,), generator=generator))
            count = (len(stream) - offset) // span
            windows.append(stream[offset : offset + count * span].view(count, span))
        epoch = torch.cat(windows)
        epoch = epoch[torch.randperm(len(epoch), generator=generator)]
        epoch = torch.cat([left, F.pad(epoch, (1, 0), value=bos)])
        full = len(epoch) // settings.batch * settings.batch
        yield from epoch[:full].split(settings.batch)
        left = epoch[full:]


def orthogonal(matrices: Tensor) -> Tensor:
    """Replace the singular values of each ``(n_rows, n_columns)`` matrix by about 1: five Newton-Schulz steps."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices.size(-2) > matrices.size(-1)
    x = (matrices.mT if tall else matrices).bfloat16()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).float()


def block_matrices(model: GPT2LMHeadModel, of: Callable[[Tensor], Tensor]) -> list[list[Tensor]]:
    """The matrices of all blocks by shape, ``of`` applied to each; the fused query-key-value matrix counts as three."""
    blocks = cast("list[GPT2Block]", list(model.transformer.h))  # a ModuleList knows only modules
    return [
        [part for block in blocks for part in of(block.attn.c_attn.weight).chunk(3, dim=1)],
        [of(block.attn.c_proj.weight) for block in blocks],
        [of(block.mlp.c_fc.weight) for block in blocks],
        [of(block.mlp.c_proj.weight) for block in blocks],
    ]


class Muon:
    """Momentum whose step is orthogonalised; matrices of one shape go through Newton-Schulz together."""

    def __init__(self, model: GPT2LMHeadModel, momentum: float = 0.95) -> None:
        self.model, self.momentum = model, momentum
        self.weights = block_matrices(model, lambda weight: weight.detach())
        self.velocity = [torch.zeros(len(group), *group[0].shape) for group in self.weights]

    @torch.no_grad()
    def step(self, lr: float, weight_decay: float) -> None:
        """One update from the gradients of the model."""
        grads = block_matrices(self.model, _gradient)
        for weights, velocity, grad in zip(self.weights, self.velocity, map(torch.stack, grads), strict=True):
            velocity.lerp_(grad, 1 - self.momentum)
            update = orthogonal(grad.lerp(velocity, self.momentum))
            # Conv1D keeps (in, out): a matrix that widens takes the larger step.
            step = lr * max(1.0, update.size(-1) / update.size(-2)) ** 0.5
            for weight, delta in zip(weights, update, strict=True):
                weight.mul_(1 - lr * weight_decay).sub_(delta, alpha=step)


def _gradient(weight: Tensor) -> Tensor:
    assert weight.grad is not None  # a step comes after the backward pass
    return weight.grad


def bos_id(tokenizer: PreTrainedTokenizerFast) -> int:
    """Id of the BOS token, which ends texts too."""
    found = tokenizer.bos_token_id
    assert isinstance(found, int)  # transformers' own type allows lists and text, for other special tokens
    return found


def bits_per_character(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, shelf: list[Book], every: int = 1
) -> float:
    """Bits a character of the held-out parts, all books together; BOS is context, not counted.

    Windows overlap by half: a token is scored with at least half a window before it, but for the first half window of
    a book. ``every`` > 1 takes only every so many windows.
    """
    context = model.config.n_positions
    half = context // 2
    bits, characters = 0.0, 0
    for book in shelf:
        ids = encode(tokenizer, book.held_out)
        starts = range(0, max(1, len(ids) - half + 1), half)
        for number, start in enumerate(starts):
            if number % every:
                continue
            window = F.pad(ids[start : start + context - 1], (1, 0), value=bos_id(tokenizer))
            skip = 0 if start == 0 else context - 1 - half
            with torch.no_grad():
                scores = model(window[None]).logits[0, skip:-1].float()
            bits += F.cross_entropy(scores, window[skip + 1 :], reduction="sum").item() / math.log(2)
            characters += len(tokenizer.decode(window[skip + 1 :]))
    return bits / characters


def save(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the model in half precision and its tokenizer, beside ``folder``, then put them in its place."""
    beside = folder.with_name(folder.name + ".new")
    half = GPT2LMHeadModel(model.config).half()
    half.load_state_dict(model.state_dict())
    half.save_pretrained(beside)
    tokenizer.save_pretrained(beside)
    # transformers 5 writes a class name that 4.x cannot read, and both read this one.
    path = beside / "tokenizer_config.json"
    config = {**json.loads(path.read_text()), "tokenizer_class": "PreTrainedTokenizerFast"}
    path.write_text(json.dumps(config, indent=2) + "\n")
    for old in folder.glob("*") if folder.exists() else ():
        old.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    for new in beside.iterdir():
        new.chmod(0o644)
        os.replace(new, folder / new.name)
    beside.rmdir()


def learning_rate(tokens: int, settings: Settings) -> float:
    """Share of the full learning rate after ``tokens`` positions."""
    for (begin, low), (end, high) in pairwise(settings.learning_rate):
        if tokens <= end:
            return low + (high - low) * (tokens - begin) / (end - begin)
    return settings.learning_rate[-1][1]


def train(settings: Settings, work: Path, compile: bool = False) -> None:
    """Train from the last checkpoint in ``work``, if any, to the end.

    Logs to ``work/log.jsonl`` and writes ``work/model``.
    """
    torch.manual_seed(settings.seed)
    work.mkdir(parents=True, exist_ok=True)
    shelf = books()
    tokenizer = train_tokenizer([book.train for book in shelf], settings.vocabulary, settings.context)
    streams = [encode(tokenizer, book.train) for book in shelf]
    config = GPT2Config(
        vocab_size=settings.vocabulary,
        n_positions=settings.context,
        n_embd=settings.d_model,
        n_layer=settings.n_layers,
        n_head=settings.n_heads,
        bos_token_id=bos_id(tokenizer),
        eos_token_id=bos_id(tokenizer),
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    model = GPT2LMHeadModel(config)
    muon = Muon(model)
    rest = [p for name, p in model.named_parameters() if p.ndim < 2 or ".h." not in name]
    adam = torch.optim.AdamW(rest, lr=settings.adam_lr, betas=(0.9, 0.95), weight_decay=0.0)
    begin, seconds = 0, 0.0
    checkpoint = work / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        begin, seconds = state["step"], state["seconds"]
        model.load_state_dict(state["model"])
        adam.load_state_dict(state["adam"])
        for mine, saved in zip(muon.velocity, state["velocity"], strict=True):
            mine.copy_(saved)

    def loss_of(ids: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            hidden = model.transformer(ids, use_cache=False).last_hidden_state
            scores = model.lm_head(hidden[:, :-1])
        return F.cross_entropy(scores.flatten(0, 1), ids[:, 1:].flatten())

    forward = torch.compile(loss_of) if compile else loss_of
    clock, recent = time.perf_counter(), []
    for step, ids in zip(range(settings.steps), batches(streams, settings, bos_id(tokenizer)), strict=False):
        if step < begin:
            continue
        last = step + 1 == settings.steps
        loss = forward(ids)
        loss.backward()
        recent.append(loss.item())
        share = learning_rate((step + 1) * settings.batch * settings.context, settings)
        muon.step(settings.muon_lr * share, settings.weight_decay)
        for group in adam.param_groups:
            group["lr"] = settings.adam_lr * share
        adam.step()
        model.zero_grad(set_to_none=True)
        if (step + 1) % 250 == 0 or last:
            now = time.perf_counter()
            seconds, clock = seconds + now - clock, now
            row = {
                "tokens": (step + 1) * settings.batch * settings.context,
                "seconds": round(seconds),
                "lr": round(share, 4),
                "loss": round(sum(recent) / len(recent), 4),
                "held_out_bits_per_character": round(bits_per_character(model, tokenizer, shelf, 1 if last else 12), 4),
            }
            recent = []
            with (work / "log.jsonl").open("a") as log:
                log.write(json.dumps(row) + "\n")
            print(row, flush=True)
            state = {
                "step": step + 1,
                "seconds": seconds,
                "model": model.state_dict(),
                "adam": adam.state_dict(),
                "velocity": muon.velocity,
            }
            torch.save(state, checkpoint.with_suffix(".new"))
            os.replace(checkpoint.with_suffix(".new"), checkpoint)
    save(model, tokenizer, work / "model")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__ and __doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("build/bunny"), help="checkpoint, log and the finished model")
    parser.add_argument("--compile", action="store_true", help="needs a C++ compiler; about a fifth faster")
    given = parser.parse_args()
    train(Settings(), given.work, given.compile)


if __name__ == "__main__":
    main()

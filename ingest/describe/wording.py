"""A sentence for each description from a language model, through any address that speaks OpenAI's chat completions.

Off unless asked for. The model sees what the weights gave - tokens that fire the feature, what it promotes and
suppresses - and never a text it fires on. Prompt, model and answer are kept. Every answer is on disk before the
next is asked for, so whatever ends a run, the same call goes on behind it.
"""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from atlas.descriptions import Descriptions
from atlas.descriptions.staging import Staging, texts
from atlas.errors import BadExplainer, BadSetting
from atlas.provenance import Run
from atlas.stores import Progress

METHOD = "atlas-llm"
PROMPT = """You name what a feature inside a language model responds to. You are given tokens, strongest first.
Tokens that switch it on: {tokens}
Tokens it makes likelier next: {promotes}
Tokens it makes less likely next: {suppresses}
Answer with one short phrase, at most twelve words, no quotes, no explanation. Go by the tokens that switch it on; use
the others only where they agree. If the tokens share nothing, list the three strongest."""
_LONGEST = 200
_DETAILS = pa.schema([("feature", pa.int32()), ("prompt", pa.string()), ("answer", pa.string())])


@dataclass(frozen=True)
class Explainer:
    """Where to ask. ``address``: what stands before ``/chat/completions``, such as ``http://localhost:11434/v1``."""

    address: str
    model: str
    key: str = ""
    timeout: float = 60.0
    """seconds for one answer"""
    at_once: int = 4

    def __post_init__(self) -> None:
        if not self.address.startswith(("http://", "https://")):
            raise BadSetting(f"{self.address!r} is no address; write one such as http://localhost:11434/v1")

    def __repr__(self) -> str:
        return f"Explainer(address={self.address!r}, model={self.model!r})"

    def ask(self, prompt: str) -> str:
        """One answer; a failure is tried once more. Raises :class:`atlas.errors.BadExplainer`."""
        for attempt in (1, 2):
            try:
                return self._ask(prompt)
            except BadExplainer:
                if attempt == 2:
                    raise
        raise AssertionError

    def _ask(self, prompt: str) -> str:
        content = {"model": self.model, "messages": [{"role": "user", "content": prompt}], "temperature": 0}
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        request = urllib.request.Request(
            f"{self.address.rstrip('/')}/chat/completions", json.dumps(content).encode(), headers
        )
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as response:
                answer = json.loads(response.read())
        except urllib.error.HTTPError as error:
            said = " ".join(error.read(300).decode("utf-8", "replace").split())
            raise BadExplainer(f"{self.address} answered {error.code} {error.reason}: {said}") from error
        except TimeoutError as error:
            raise BadExplainer(f"{self.address} gave no answer within {self.timeout:g} s") from error
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            late = isinstance(reason, TimeoutError)
            raise BadExplainer(
                f"{self.address} gave no answer within {self.timeout:g} s"
                if late
                else f"{self.address} gave no answer that can be read ({reason})"
            ) from error
        return _phrase(answer, self.address)


def word(
    base: Descriptions, token_texts: list[str], explainer: Explainer, progress: Progress | None = None
) -> Descriptions:
    """Word the descriptions of a run of the preset ``atlas``; staged as a run of its own.

    Raises :class:`atlas.errors.BadExplainer` where the address fails, with how many answers are kept.
    """
    settings = {"model": explainer.model, "prompt": PROMPT, "of": base.run}
    staging = Staging(base.build, METHOD, Run({"build": base.build.run, "set": base.build.set_key}, settings))
    if found := staging.finished():
        return found
    prompts = dict(_prompts(base, token_texts))
    kept = _Kept(staging.path / "work" / "answers.jsonl")
    todo = [feature for feature in prompts if feature not in kept.answers]
    done = len(prompts) - len(todo)
    stop = threading.Event()

    def one(feature: int) -> None:
        nonlocal done
        if stop.is_set():
            return
        try:
            kept.add(feature, explainer.ask(prompts[feature]))
        except BaseException:
            stop.set()
            raise
        done += 1
        if progress:
            progress("wording", done, len(prompts))

    try:
        with ThreadPoolExecutor(explainer.at_once) as pool:
            for future in [pool.submit(one, feature) for feature in todo]:
                future.result()
    except BadExplainer as error:
        raise BadExplainer(
            f"{error}; {len(kept.answers)} of {len(prompts)} wordings are kept, and the same command goes on behind "
            "them"
        ) from error
    features = sorted(prompts)
    answers = [kept.answers[feature] for feature in features]
    details = pa.table([features, [prompts[feature] for feature in features], answers], schema=_DETAILS)
    rows = [(feature, answer, "{}") for feature, answer in zip(features, answers, strict=True)]
    return staging.finish(texts(rows, explainer.model), details, {"settings": settings})


class _Kept:
    """Answers on disk, a line each; a last line that is cut off is asked for again."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self.answers: dict[int, str] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        for line in lines:
            try:
                feature, answer = json.loads(line)
            except ValueError:
                continue
            self.answers[feature] = answer
        if lines:  # without what was cut off
            path.write_text("".join(json.dumps(pair) + "\n" for pair in self.answers.items()), encoding="utf-8")

    def add(self, feature: int, answer: str) -> None:
        with self._lock:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps([feature, answer]) + "\n")
            self.answers[feature] = answer


def _prompts(base: Descriptions, token_texts: list[str]) -> Iterator[tuple[int, str]]:
    details = base.details().select(["feature", "text", "tokens", "promotes", "suppresses"])
    for row in details.to_pylist():
        if row["text"] is None:
            continue
        fired = sorted((t for t in row["tokens"] if (t["activation"] or 0) > 0), key=lambda t: -t["activation"])
        lists = {"tokens": fired, "promotes": row["promotes"], "suppresses": row["suppresses"]}
        shown = {
            name: ", ".join(repr(token_texts[entry["index"]]) for entry in entries[:12]) or "none"
            for name, entries in lists.items()
        }
        yield row["feature"], PROMPT.format(**shown)


def _phrase(answer: Any, address: str) -> str:
    try:
        said = answer["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError):
        raise BadExplainer(
            f"{address} answered something else than chat completions: {json.dumps(answer)[:120]}"
        ) from None
    phrase = " ".join(said.split()).strip(" \"'") if isinstance(said, str) else ""
    if not phrase or len(phrase) > _LONGEST:
        raise BadExplainer(
            f"{address} answered {len(phrase)} characters where a phrase of 1 to {_LONGEST} was asked for"
        )
    return phrase

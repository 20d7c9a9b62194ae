"""What the command line calls: a build and a few words become a subject, a request, an answer."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd

from atlas import releases
from atlas.errors import BadSetting, BadSource
from atlas.staging import Build
from ingest.device import device as device_of
from ingest.device import elsewhere
from ingest.evidence.capture import Reader
from ingest.evidence.corpus import Request
from ingest.evidence.observe import Options, observe
from ingest.evidence.plan import Plan, plan
from ingest.evidence.subject import Subject, open_subject

__all__ = ["asked", "fires", "observe", "planned", "subject"]

CONTEXT = 256


def subject(build: Build, model: str | None = None, transcoders: str | None = None, device: str = "auto") -> Subject:
    """What a build was made from, found where it was read then, unless said."""
    try:
        noted = json.loads((build.path / "run.json").read_text())
    except (OSError, ValueError):
        noted = {}
    known = next((release for release in releases.RELEASES if release.name_as == build.set_key), None)
    places = {
        "model": model or noted.get("model") or (known and known.model),
        "transcoders": transcoders or noted.get("transcoders") or (known and known.transcoders),
    }
    missing = [name for name, place in places.items() if not place]
    if missing:
        raise BadSource(
            f"where {build.set_key}'s {' and '.join(missing)} are is not known; say it: --{' --'.join(missing)}"
        )
    allowed = bool(noted.get("allow_pickle"))
    return open_subject(build, places["model"], places["transcoders"], device_of(device), allow_pickle=allowed)


def planned(build: Build, places: dict[str, Any], given: dict[str, Any]) -> Plan:
    """What an observation would cost: ``places`` as :func:`subject` takes them, ``given`` as :func:`asked`.

    CUDA can be planned where there is none: what the model costs is then counted, not timed.
    """
    away = places["device"] if elsewhere(places["device"]) else None
    opened = subject(build, **(places | {"device": "cpu"} if away else places))
    request, options, _ = asked(opened, **given)
    return plan(opened, request, options, away)


def asked(subject: Subject, **given: Any) -> tuple[Request, Options, str | None]:
    """Options of the command line as a request, its settings, and the observation's name."""
    context = given["context"] or min(CONTEXT, subject.runner.longest or CONTEXT)
    subject.runner.refuse_longer(context, f"--context {context}")
    request = Request(
        text=given["text"],
        ids=given["ids"],
        tokens=given["tokens"],
        context=context,
        field=given["field"],
        seed=given["seed"],
        part=_part(given["part"]),
    )
    options = Options(
        examples=given["examples"],
        strongest=given["strongest"],
        memory=int(given["memory"] * 1e9),
        batch=given["batch"],
        heads=given["heads"],
    )
    return request, options, given["name_as"]


def fires(subject: Subject, text: str) -> pd.DataFrame:
    """What fires on a sentence: one row a firing.

    Columns ``position`` (in the sentence, from 0), ``token`` (id), ``feature`` (row number in the build), ``value``.
    Raises :class:`atlas.errors.BadSource` for a sentence without a token and BadSetting for one that is too long.
    """
    bos = subject.tokenizer.bos_token_id
    ids = subject.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    if not ids:
        raise BadSource("the sentence is empty; give a few words")
    subject.runner.refuse_longer(len(ids) + (bos is not None), f"a sentence of {len(ids):,} tokens")
    window = np.asarray([([] if bos is None else [bos]) + ids], np.int64)
    counted = np.ones_like(window, bool)
    counted[0, 0] = bos is None
    batch = Reader(subject.runner, subject.source).read(window, counted, 0)
    at = np.repeat(np.arange(len(batch.token)), np.diff(batch.start))
    return pd.DataFrame({"position": at, "token": batch.token[at], "feature": batch.feature, "value": batch.value})


def _part(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    number, _, of = text.partition("/")
    if not (number.isdecimal() and of.isdecimal()):
        raise BadSetting(f"--part {text!r} is no part; the first half is 1/2")
    return int(number), int(of)

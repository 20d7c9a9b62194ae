"""What a build is made of: a model and its transcoders, opened and checked, and what is asked of them.

Its name holds a hash of all of it, so that a changed input is another build.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from atlas.builds import folder as builds_folder
from atlas.errors import BadSetting
from atlas.model import MODEL_NAME, SET_NAME
from atlas.provenance import Run
from ingest import skips
from ingest.device import device as device_of
from ingest.directions import Direction, WithDirections
from ingest.edges import Keep
from ingest.guard import Rehearsal
from ingest.plan import CACHE
from ingest.sources import open_transcoders, resolved
from ingest.transcoder import SetInfo
from ingest.weights import ModelWeights, open_model

_WITH_SKIPS = "-with-skips"
"""stands behind the name of a set whose paths run through its skips"""


@dataclass(frozen=True)
class Job:
    """What is to be built, opened and checked, with nothing computed yet."""

    model_name: str
    set_name: str
    model: ModelWeights
    info: SetInfo
    vectors: WithDirections
    keep: Keep
    min_z: float | None
    run: Run
    device: str
    path: Path
    given: dict[str, Any]
    """where model and transcoders were read, for whoever runs them again, and how they fit; noted outside the hash"""
    rehearsal: Rehearsal
    staged_vectors: bool | None
    """whether the build holds the features' vectors; None where their size decides"""

    @property
    def name(self) -> str:
        return f"{self.model_name}/{self.set_name}"

    def checked(self, check: bool, force: bool, say: Callable[[str], None] | None) -> Job:
        """The job, if its set fits its model or nobody asks; the model that ran to tell is let go."""
        fit = self.rehearsal.check(force, say) if check else {}
        self.rehearsal.forget()
        return replace(self, given=self.given | fit)


def prepare(
    model: Any,
    transcoders: Any,
    name: str | None,
    layers: list[int] | None,
    keep: Keep | None,
    min_z: float | None,
    device: str,
    home: str | Path | None,
    local: int = 0,
    *,
    allow_pickle: bool = False,
    with_skips: bool = False,
    vectors: bool | None = None,
    directions: Sequence[Direction] = (),
) -> Job:
    """Open and check everything that goes in."""
    keep = keep or Keep()
    wrong = [option for option, count in vars(keep).items() if count < 0]
    if wrong or (min_z is not None and not min_z > 0):
        raise BadSetting(f"keep {', '.join(wrong)} must not be negative, and min_z ({min_z}) must be positive")
    weights = open_model(model)
    source = open_transcoders(transcoders, layers, model=weights, allow_pickle=allow_pickle)
    info = source.info
    model_name, set_name = _names(name, weights.name, info.name)
    rehearsal = Rehearsal(model, weights, source, device := device_of(device, local))
    paths: dict[str, Any] = {}
    if with_skips:
        skips.check(info)
        set_name = set_name if set_name.endswith(_WITH_SKIPS) else set_name + _WITH_SKIPS
        paths = skips.to_settings(rehearsal.sigmas() if skips.need_sigmas(info, weights) else None)
    run = Run(
        inputs={
            "model": {"repo": weights.repo, "revision": weights.revision, "files": weights.files},
            "set": {"repo": info.repo, "revision": info.revision, "files": info.files},
            "vocabulary": weights.vocabulary.name,
        },
        settings={
            "name": f"{model_name}/{set_name}",
            "layers": info.layers,
            "keep": keep.said,
            "min_z": min_z,
            **paths,
            **({"directions": [one.said for one in directions]} if directions else {}),
        },
    )
    given = {"model": _place(model), "transcoders": _place(transcoders), "allow_pickle": allow_pickle}
    return Job(
        model_name=model_name,
        set_name=set_name,
        model=weights,
        info=info,
        vectors=WithDirections(weights, source, cache_bytes=CACHE, directions=directions, **skips.of_settings(paths)),
        keep=keep,
        min_z=min_z,
        run=run,
        device=device,
        path=builds_folder(home) / f"{model_name}-{set_name}-{run.id}",
        given=given | _meant(transcoders, info),
        rehearsal=rehearsal,
        staged_vectors=vectors,
    )


def _meant(transcoders: Any, info: SetInfo) -> dict[str, Any]:
    """What an alias stood for: aliases move, so whoever runs this again is given the repository at its commit."""
    if not isinstance(transcoders, str) or resolved(transcoders) == transcoders:
        return {}
    return {"alias": transcoders, "transcoders": f"{info.repo}@{info.revision}"}


def _place(spec: Any) -> str:
    if not isinstance(spec, str | Path):
        return ""
    return str(Path(spec).expanduser().resolve()) if Path(spec).expanduser().is_dir() else str(spec)


def _names(name: str | None, model: str, set_: str) -> tuple[str, str]:
    if name is None:
        return model, set_
    given, slash, of_set = name.partition("/")
    if not slash or not MODEL_NAME.match(given) or not SET_NAME.match(of_set):
        raise BadSetting(f"{name!r} is no name; write MODEL/SET, such as gpt2-small/tc-24k")
    return given, of_set

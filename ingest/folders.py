"""Where files come from: a local folder, or a repository on the Hugging Face hub at one commit.

A reader sees names and gets a path for a name; :class:`HubFolder` downloads a file when it is first asked for, so a set
of a hundred gigabytes arrives a layer at a time. Downloads, resuming and the cache are huggingface-hub's; what is added
here is that a commit is pinned once and that a machine without a network is told so at once, not after retries.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Protocol, runtime_checkable
from urllib.parse import parse_qs, urlsplit

from atlas.errors import BadSource, NoSpace, Unreachable
from atlas.staging import sha256

TIMEOUT = 10.0
"""seconds the hub has to answer before it counts as out of reach"""
_DEPTH = 4
_PART = re.compile(r"^(?!\.{1,2}$)[\w.+-]+$", re.ASCII)
_SHA256 = re.compile(r"^[0-9a-f]{64}$")


@runtime_checkable
class Folder(Protocol):
    """Named files. ``repo`` and ``revision`` say where from; ``revision`` is None for a local folder."""

    @property
    def repo(self) -> str: ...
    @property
    def revision(self) -> str | None: ...
    @property
    def where(self) -> str:
        """How messages call it."""
        ...

    def names(self) -> list[str]:
        """Every file's path within the folder, with ``/``, sorted."""
        ...

    def path(self, name: str) -> Path:
        """A local path to read ``name`` from; raises :class:`atlas.errors.Unreachable` where there is no way to it."""
        ...

    def sha256(self, name: str) -> str: ...

    def shapes(self, name: str) -> dict[str, tuple[int, ...]] | None:
        """Shapes of the tensors of a safetensors file that is not here yet, from its header; None where it is here."""
        ...


def open_folder(spec: str | Path) -> Folder:
    """A local folder, or ``repo[/folder][@revision]`` or ``hf://repo[/folder][?revision=R]`` on the hub.

    What exists on disk is local. Raises :class:`atlas.errors.BadSource` for what is neither, and
    :class:`atlas.errors.Unreachable` for a repository that is not in the cache when there is no network.
    """
    local = Path(spec).expanduser()
    if local.is_dir():
        return LocalFolder(local)
    if local.exists() or isinstance(spec, Path):
        raise BadSource(f"{str(spec)!r} is {'a file' if local.exists() else 'not there'}; give a folder, or a hub repo")
    return open_hub(*parse(spec))


def parse(spec: str) -> tuple[str, str, str | None]:
    """Repository, folder in it (or empty) and revision (or None) of a place on the hub."""
    if spec.startswith("hf://"):
        address = urlsplit(spec)
        path = address.netloc + address.path
        revision = parse_qs(address.query).get("revision", [None])[0]
    else:
        path, _, at = spec.partition("@")
        revision = at or None
    parts = path.split("/")
    if not all(_PART.match(part) for part in [*parts, *(revision or "main").split("/")]):
        raise BadSource(
            f"{spec!r} is neither a folder on this machine nor a name on the hub; write a path, or "
            "repo[/folder][@revision] such as openai-community/gpt2@main"
        )
    return "/".join(parts[:2]), "/".join(parts[2:]), revision


def inside(name: str, where: str) -> str:
    """A path that a config names, held within its folder.

    Raises :class:`atlas.errors.BadSource` for one that leaves it.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or set(name) & set("\\:\0"):
        raise BadSource(f"{where} names the file {name[:99]!r}, which is not in it; a set names only files of its own")
    return str(path)


@dataclass(frozen=True)
class LocalFolder:
    """A folder on this machine, known by its last name: two machines give one build."""

    root: Path
    revision: None = field(default=None, init=False)

    @property
    def repo(self) -> str:
        return self.root.resolve().name

    @property
    def where(self) -> str:
        return str(self.root)

    def names(self) -> list[str]:
        found = []
        for here, folders, files in os.walk(self.root):
            within = Path(here).relative_to(self.root)
            folders[:] = sorted(name for name in folders if not name.startswith(".") and len(within.parts) < _DEPTH)
            found += [(within / name).as_posix() for name in files]
        return sorted(found)

    def path(self, name: str) -> Path:
        path = self.root / inside(name, self.where)
        if not path.is_file():
            raise BadSource(f"{self.where} has no file {name!r}")
        return path

    def sha256(self, name: str) -> str:
        return sha256(self.path(name))

    def shapes(self, name: str) -> None:
        return None


@dataclass(frozen=True)
class HubFolder:
    """A folder of a repository at a commit."""

    repo: str
    folder: str
    revision: str
    listing: dict[str, str | None]
    """every file of the repository, and its SHA-256 where the hub tells it"""
    unreachable: str = ""
    """why the hub does not answer, empty where it does"""
    whole: bool = True
    """whether the listing is the repository's, rather than what happens to be cached of it"""

    @property
    def where(self) -> str:
        return f"{self.repo}{'/' if self.folder else ''}{self.folder}@{self.revision[:12]}"

    @cached_property
    def _prefix(self) -> str:
        return f"{self.folder}/" if self.folder else ""

    def names(self) -> list[str]:
        return sorted(name.removeprefix(self._prefix) for name in self.listing if name.startswith(self._prefix))

    def path(self, name: str) -> Path:
        import httpx2
        from huggingface_hub import hf_hub_download, try_to_load_from_cache

        full = self._prefix + inside(name, self.where)
        cached = try_to_load_from_cache(self.repo, full, revision=self.revision)
        if isinstance(cached, str):
            return Path(cached)
        if self.unreachable:
            raise _unreachable(f"{name!r} of {self.where}", self.unreachable)
        try:
            return Path(hf_hub_download(self.repo, full, revision=self.revision, etag_timeout=TIMEOUT))
        except (httpx2.HTTPError, OSError) as error:
            if getattr(error, "errno", None) == 28:
                raise NoSpace(f"the disk is full: {name!r} of {self.where} has no room in the hub's cache") from error
            raise _unreachable(f"{name!r} of {self.where}", _reason(error)) from error

    def sha256(self, name: str) -> str:
        told = self.listing.get(self._prefix + name)
        if told:
            return told
        path = self.path(name)
        blob = path.resolve().name  # the cache keeps large files under their SHA-256
        return blob if _SHA256.match(blob) else sha256(path)

    def shapes(self, name: str) -> dict[str, tuple[int, ...]] | None:
        import httpx2
        from huggingface_hub import HfApi, try_to_load_from_cache
        from huggingface_hub.errors import SafetensorsParsingError

        full = self._prefix + inside(name, self.where)
        here = isinstance(try_to_load_from_cache(self.repo, full, revision=self.revision), str)
        if here or self.unreachable or not name.endswith(".safetensors"):
            return None
        try:
            header = HfApi().parse_safetensors_file_metadata(self.repo, full, revision=self.revision, timeout=TIMEOUT)
        except SafetensorsParsingError as error:
            raise BadSource(f"{name!r} of {self.where} is no safetensors file") from error
        except (httpx2.HTTPError, OSError) as error:
            raise _unreachable(f"{name!r} of {self.where}", _reason(error)) from error
        return {tensor: tuple(told.shape) for tensor, told in header.tensors.items()}


def open_hub(repo: str, folder: str, revision: str | None) -> HubFolder:
    """Pin a repository to a commit: the hub's answer, or, when it cannot be reached, what the cache knows."""
    import httpx2
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        found = HfApi().model_info(repo, revision=revision, files_metadata=True, timeout=TIMEOUT)
    except GatedRepoError as error:
        raise Unreachable(f"{repo!r} is gated: accept its terms on its page, then set HF_TOKEN") from error
    except RevisionNotFoundError as error:
        raise Unreachable(f"{repo!r} has no revision {revision!r}") from error
    except RepositoryNotFoundError as error:
        raise Unreachable(f"there is no {repo!r} on the hub, or it is private and HF_TOKEN does not open it") from error
    except (httpx2.HTTPError, OSError) as error:
        return _cached(repo, folder, revision, _reason(error))
    listing = {file.rfilename: file.lfs.sha256 if file.lfs else None for file in found.siblings or ()}
    _remember(repo, folder, revision)
    return HubFolder(repo, folder, str(found.sha), listing)


def _remember(repo: str, folder: str, revision: str | None) -> None:
    """Let the cache keep which commit a branch was and what it held, so that later no network is needed to know."""
    import httpx2
    from huggingface_hub import get_cached_repo_tree, snapshot_download
    from huggingface_hub.errors import CachedRepoTreeNotFoundError
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    try:
        get_cached_repo_tree(repo, revision=revision)
        return
    except CachedRepoTreeNotFoundError:
        pass
    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        configs = [f"{folder}/config.*" if folder else "config.*"]
        snapshot_download(repo, revision=revision, allow_patterns=configs, etag_timeout=TIMEOUT)
    except (httpx2.HTTPError, OSError):
        return  # a convenience for later; what is needed now is asked for by name
    finally:
        if shown:
            enable_progress_bars()


def _cached(repo: str, folder: str, revision: str | None, reason: str) -> HubFolder:
    from huggingface_hub import constants, get_cached_repo_tree, resolve_revision
    from huggingface_hub.errors import CachedRepoTreeNotFoundError, RevisionResolutionError
    from huggingface_hub.file_download import repo_folder_name

    try:
        commit = resolve_revision(repo, revision=revision, local_files_only=True).resolved
    except RevisionResolutionError as error:
        raise _unreachable(f"{repo!r}", reason) from error
    whole = True
    try:
        names = [file.path for file in get_cached_repo_tree(repo, revision=commit)]
    except CachedRepoTreeNotFoundError:
        whole = False
        kept = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type="model") / "snapshots" / commit
        names = [path.relative_to(kept).as_posix() for path in kept.rglob("*") if path.is_file()]
    if not names:
        raise _unreachable(f"{repo!r}", reason)
    return HubFolder(repo, folder, commit, dict.fromkeys(names), reason, whole)


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0][:120] if str(error) else type(error).__name__


def _unreachable(what: str, reason: str) -> Unreachable:
    from huggingface_hub import constants

    return Unreachable(
        f"{what} is not in the cache ({constants.HF_HUB_CACHE}), and the hub cannot be reached ({reason}); "
        "connect once, or give a local folder"
    )

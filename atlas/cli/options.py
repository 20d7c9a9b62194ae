"""What every command shares: where the atlas is, how the answer is written, how long work shows itself."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    import pandas as pd

    from atlas.stores import Progress, Store


@dataclass(frozen=True)
class Output:
    """How one answer is to be written."""

    store: str | None
    json: bool
    csv: bool
    provenance: bool
    quiet: bool
    show_cypher: bool
    timeout: float


_STORE = click.option("--store", metavar="PLACE", help="A folder, or an address such as bolt://localhost:7687.")
_QUIET = click.option("-q", "--quiet", is_flag=True, help="No progress, no footer.")
_OUTPUT = (
    _STORE,
    click.option("--json", is_flag=True, help="JSON: rows, and what they rest on."),
    click.option("--csv", is_flag=True, help="CSV, plain."),
    click.option("--provenance", is_flag=True, help="With --csv: a first line '# …' that says what the rows rest on."),
    _QUIET,
    click.option("--show-cypher", is_flag=True, help="Print the Cypher that answers this, instead of the answer."),
    click.option(
        "--timeout", type=click.FloatRange(min=0.1), default=30, show_default=True, help="Seconds a query may take."
    ),
)


def question(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of every question; they arrive as its first argument, an :class:`Output`."""

    @functools.wraps(command)
    def wrapper(**given: Any) -> None:
        output = Output(**{name: given.pop(name) for name in Output.__dataclass_fields__})
        if output.json and output.csv:
            raise click.UsageError("--json and --csv exclude each other")
        command(output, **given)

    for option in reversed(_OUTPUT):
        wrapper = option(wrapper)
    return wrapper


def worker(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command that changes something the options ``--store`` and ``-q``."""
    return _STORE(_QUIET(command))


@contextmanager
def opened(output: Output) -> Iterator[Store]:
    """The atlas, read-only; with ``--show-cypher`` one that also notes what it is asked."""
    import atlas

    with atlas.open(output.store, timeout=output.timeout) as graph:
        if not output.show_cypher:
            yield graph
            return
        noted: list[tuple[str, dict[str, Any]]] = []
        yield _Noting(graph, noted)  # type: ignore[misc]
        from queries import present

        click.echo(present.cypher_script(noted))


class _Noting:
    """A store that keeps the queries of ours it answers; everything else passes through."""

    def __init__(self, graph: Store, noted: list[tuple[str, dict[str, Any]]]) -> None:
        self._graph, self._noted = graph, noted

    def run(self, query: str, /, **parameters: Any) -> pd.DataFrame:
        self._note(query, parameters)
        return self._graph.run(query, **parameters)

    def rows(self, query: str, /, **parameters: Any) -> list[dict[str, Any]]:
        self._note(query, parameters)
        return self._graph.rows(query, **parameters)

    def _note(self, query: str, parameters: dict[str, Any]) -> None:
        if (query, parameters) not in self._noted:
            self._noted.append((query, parameters))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._graph, name)


def answer(output: Output, frame: pd.DataFrame, *, text: Callable[[pd.DataFrame], str] | None = None) -> None:
    """Write a table as asked: JSON with its envelope, CSV, or text with a footer line."""
    if output.show_cypher:
        return
    from queries import present

    if output.json:
        click.echo(present.to_json(frame))
    elif output.csv:
        click.echo(present.to_csv(frame, provenance=output.provenance), nl=False)
    else:
        click.echo((text or present.table)(frame))
        if not output.quiet and (line := present.footer(frame)):
            click.echo(f"\n{line}")


@contextmanager
def progress(quiet: bool) -> Iterator[Progress | None]:
    """A bar a task on stderr with rate and time left; without a terminal, a line at each tenth."""
    if quiet:
        yield None
        return
    if not sys.stderr.isatty():
        yield _Lines()
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        ProgressColumn,
        Task,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bar
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text("" if not task.speed else f"{task.speed:,.0f}/s" if task.speed >= 10 else f"{task.speed:.2g}/s")

    columns = (
        TextColumn("{task.description:<28}"),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=Console(stderr=True)) as bar:
        tasks: dict[str, Any] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done, total=total)

        yield show


class _Lines:
    """Progress for logs: one line at the start of a task and at every tenth of it."""

    def __init__(self) -> None:
        self._shown: dict[str, int] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        tenth = 10 if total <= 0 else 10 * done // total
        if self._shown.get(what) != tenth:
            self._shown[what] = tenth
            click.echo(f"{what}: {done:,} of {total:,}", err=True)

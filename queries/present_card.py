"""Cards for a terminal: everything about a node, on one screen, readable without colour."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Mapping
from typing import Any

import pandas as pd
from rich.cells import cell_len

from atlas.schema import MOST_POSITIONS
from queries.present_text import WIDTH, cut, names, number, pad, quoted, signed, visible

_BAR = 8
_SOURCES = {
    "tokens": "its strongest tokens",
    "logits": "the tokens it promotes",
    "weak": "its strongest tokens, none of which stands out",
}
"""What a label is made from, in words."""


def card_text(card: Mapping[str, Any], width: int = WIDTH) -> str:
    """A card for a terminal: two columns from 98 cells on, below that one above the other; never wider than 100."""
    width = min(max(width, 60), WIDTH)
    title, source = _title(card)
    label = quoted(card["label"]) if card["type"] == "Token" else visible(card["label"])
    lines = [*_beside(visible(card["key"]), title, width), *_beside(label, source, width)]
    for said in card.get("descriptions", []):
        text = visible(f"{said['text']} ({' · '.join([said['method'], *_confirmed(said['scores'])])})")
        lines += textwrap.wrap(text, width, initial_indent="  ", subsequent_indent="    ")
    if card.get("evidence"):
        lines += ["", *_fires(card["evidence"], width)]
    if card.get("heads"):
        named = [f"{one['head'].rpartition('/')[2]} {number(one['norm'])}" for one in card["heads"]]
        lines += ["", *_joined([f" MOVED BY heads {named[0]}", *named[1:]], width)]
    if card.get("positions"):
        placed = [f"{one['position']} {number(one['weight'])}" for one in card["positions"][:8]]
        if len(card["positions"]) == MOST_POSITIONS:
            placed.append(f"the {len(placed)} strongest of the {MOST_POSITIONS} that are kept")
        lines += _joined([f" MOVED AT positions {placed[0]}", *placed[1:]], width)
    one_set = isinstance(card.get("set"), str)
    two = width >= 98 and one_set
    room = 45 if two else width - 1
    columns = [
        _column(head, card[side], room, card["weight"], logits=side == "outputs", short=one_set, whole=not two)
        for head, side in (("READS", "inputs"), ("WRITES", "outputs"))
    ]
    lines.append("")
    if two:
        height = max(map(len, columns))
        left, right = ([*column, *[""] * (height - len(column))] for column in columns)
        lines += [f" {pad(a, room)}      {b}".rstrip() for a, b in zip(left, right, strict=True)]
    else:
        lines += [f" {line}".rstrip() for line in [*columns[0], "", *columns[1]]]
    lines.append("")
    if card.get("statistics"):
        lines += _joined(_statistics(card["statistics"]), width)
    lines += _joined(_rests_on(card), width)
    if card.get("page"):
        lines.append(f" page:  {visible(card['page'])}")
    return "\n".join([*lines, *_more(card, width)])


def _confirmed(scores: str) -> list[str]:
    """What a description says of itself: how many tokens fire the feature alone, and its confidence."""
    try:
        told = json.loads(scores or "{}")
    except ValueError:
        return []
    if not isinstance(told, dict):
        return []
    parts = []
    if isinstance(told.get("tried"), int) and isinstance(told.get("validated"), int) and told["tried"]:
        parts.append(f"{told['validated']} of {told['tried']} tokens fire it alone")
    if isinstance(told.get("confidence"), int | float):
        parts.append(f"confidence {told['confidence']:.2f}")
    return parts


def _statistics(told: Mapping[str, float]) -> list[str]:
    """The node's own numbers, in the units of :data:`atlas.schema.NODES`."""
    return [
        f"bias {number(told['bias'])}",
        f"threshold {number(told['threshold'])}",
        f"constant {number(told['constant'])}",
        f"reads {number(told['l1_in'])} in all, a token {number(told['mean_tokens'])} ± {number(told['std_tokens'])}",
        f"writes {number(told['l1_out'])} in all, a logit ± {number(told['std_logits'])}",
        f"vectors {number(told['norm_enc'])} and {number(told['norm_dec'])} long",
    ]


def _fires(seen: Mapping[str, Any], width: int) -> list[str]:
    """How often a feature fires, how strongly, and three contexts in which it does."""
    if not seen["n_fires"]:
        return [f" FIRES  nowhere in {seen['positions']:,} positions of {visible(seen['text'])}"]
    said = [
        f"at {seen['density']:.2%} of {seen['positions']:,} positions",
        f"mean {number(seen['mean_active'])}, at most {number(seen['max_active'])}",
    ]
    if seen["token_share"] is not None:
        said.append(f"the token explains {seen['token_share']:.0%}")
    lines = _joined([" FIRES  " + said[0], *said[1:]], width)
    if seen["histogram"]:
        edges, counts = seen["histogram"]["edges"], seen["histogram"]["counts"]
        lines.append(f"        {number(edges[0])} {_histogram(counts)} {number(edges[-1])}")
    if seen["top_tokens"]:
        most = [f"{quoted(token['text'])} {token['share']:.0%}" for token in seen["top_tokens"][:5]]
        lines += _joined(["        mostly on " + most[0], *most[1:]], width)
    for example in seen["examples"]:
        lines.append(f" {number(example['value']):>6}  " + cut(visible(example["text"]), width - 9))
    return lines


def _histogram(counts: list[int], bars: int = 24) -> str:
    """Counts as a line of blocks, neighbouring bins taken together; what holds anything shows."""
    step = -(-len(counts) // bars)
    sums = [sum(counts[start : start + step]) for start in range(0, len(counts), step)]
    return "".join(" ▁▂▃▄▅▆▇█"[-(-8 * count // max(sums))] for count in sums)


def _beside(left: str, right: str, width: int) -> list[str]:
    """Two texts on a line, the right one from the middle on; below each other where they do not fit."""
    middle = 52 if width >= 98 else 0
    if not right:
        return [cut(left, width)]
    if middle and cell_len(left) < middle and cell_len(right) <= width - middle:
        return [pad(left, middle) + right]
    return [cut(left, width), f"  {cut(right, width - 2)}"]


def _title(card: Mapping[str, Any]) -> tuple[str, str]:
    if card["type"] == "Token":
        models = ", ".join(card["models"])
        return f"token {card['token_id']:,} of the vocabulary {visible(card['vocabulary'])}", f"of {visible(models)}"
    where = f"layer {card['layer']} of {card['layers']} · feature {card['idx']:,} of {card['features']:,}"
    return where, _SOURCES.get(card["label_source"], f"from {visible(card['label_source'])}")


def _column(head: str, frame: pd.DataFrame, room: int, by: str, *, logits: bool, short: bool, whole: bool) -> list[str]:
    """One side of a card: a heading, then a neighbour a line with its name, label, bar, z and share.

    ``by``: what the bars show, beside them in place of z if it is something else. ``whole``: with the raw weight and z
    too, and where a text was observed with drive and TWERA.
    """
    if frame.empty:
        return [head, "nothing"]
    names = [_name(str(key), str(kind), logits, short) for key, kind in zip(frame["key"], frame["type"], strict=True)]
    name_room = max(8, *(cell_len(name) for name in names))
    found: list[dict[Any, Any]] = [{**row, "coactivation": row.get("n_both")} for row in frame.to_dict("records")]
    kinds = {"z": 6, "share": 7} if by in ("z", "share") or whole else {by: max(8, len(by)), "share": 7}
    if whole:
        seen = [kind for kind in ("drive", "twera") if kind in frame and any(frame[kind].notna())]
        kinds = {"weight": 8, **kinds, **dict.fromkeys(seen, 8)} | ({by: len(by)} if by == "coactivation" else {})
    numbers_room = sum(kinds.values()) + len(kinds)
    label_room = max(5, room - name_room - _BAR - numbers_room - 2)
    longest = max(abs(row[by]) for row in found) or 1.0
    header = " ".join(pad(kind, cells, right=True) for kind, cells in kinds.items())
    lines = [pad(head, room - cell_len(header)) + header]
    for name, row in zip(names, found, strict=True):
        label = quoted(row["label"]) if row["type"] == "Token" else visible(row["label"])
        numbers = [pad(_number(row[kind], kind), cells, right=True) for kind, cells in kinds.items()]
        left = (pad(name, name_room), pad(cut(label, label_room), label_room), pad(_bar(row, by, longest), _BAR))
        lines.append(" ".join((*left, *numbers)))
    return lines


def _number(value: float, kind: str) -> str:
    if kind == "coactivation":
        return "" if pd.isna(value) else f"{value:,}"
    return number(value, kind) if kind in ("z", "share") or pd.isna(value) else signed(value)


def _name(key: str, kind: str, logits: bool, short: bool) -> str:
    """How a card names a neighbour: token or logit, or its layer and index within the set."""
    if kind == "Token":
        return "logit" if logits else "token"
    owner, place, idx = key.rsplit("/", 2)
    layer, _, name = place.partition("-")
    return f"{layer}/{idx}" if short else f"{owner}/{layer}-{name}/{idx}"


def _bar(row: Mapping[str, Any], by: str, longest: float) -> str:
    """Length by size; a full block for what raises, a low one for what holds down."""
    cells = max(1, math.ceil(_BAR * min(abs(row[by]) / longest, 1.0) - 1e-9))
    return ("▇" if row[by if by in ("z", "drive", "twera") else "weight"] >= 0 else "▂") * cells


def _joined(parts: list[str], width: int) -> list[str]:
    """Parts with dots between them, a new line where the next does not fit."""
    lines = [""]
    for part in parts:
        if lines[-1] and cell_len(lines[-1]) + cell_len(part) + 3 <= width:
            lines[-1] += f" · {part}"
        else:
            lines += textwrap.wrap(part, width - 1, initial_indent=" ", subsequent_indent=" ")
    return lines[1:]


def _rests_on(card: Mapping[str, Any]) -> list[str]:
    bound, by = card.get("bound"), card["weight"]
    size = by if by in ("share", "coactivation") else f"|{by}|"
    if card["complete"]:
        state = "complete"
    elif bound is not None:
        state = f"of what is kept, certain above {size} " + (f"{bound:.1f}" if by == "z" else number(bound))
    else:
        state = "of what is kept"
    parts = [f"each column: the strongest by {size}, {state}"]
    if isinstance(seen := card.get("observation"), Mapping):
        parts.append(f"on {visible(str(seen['text']))}, {seen['positions']:,} positions")
    return parts + [f"{name} {names(card[name])}" for name in ("run", "set") if card.get(name)]


def _more(card: Mapping[str, Any], width: int) -> list[str]:
    key = card["key"]
    commands = [f"atlas inputs {key} -k 50", f"atlas circuit {key}"]
    line = " more:  " + "     ".join(commands)
    return [line] if cell_len(line) <= width else [" more:", *(f"   {command}" for command in commands)]

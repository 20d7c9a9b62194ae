"""Tables, cards and paths for a terminal: aligned, cut at words, readable without colour."""

from __future__ import annotations

import json
import math
import textwrap
import unicodedata
from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd
from rich.cells import cell_len

from queries.resolve import spans

WIDTH = 100
_BAR = 8
_WHOLE = {"key", "set_key", "set", "model", "source", "target", "run", "name", "command", "key_a", "key_b", "build"}
"""Columns that are never cut: one types them again."""
_PLAIN_NUMBERS = {"layer", "idx", "rank", "depth", "hops", "token_id", "source_layer", "target_layer"}


_SOURCES = {
    "tokens": "its strongest tokens",
    "logits": "the tokens it promotes",
    "weak": "its strongest tokens, none of which stands out",
}
"""What a label is made from, in words."""


def table(frame: pd.DataFrame, width: int = WIDTH) -> str:
    """A frame as aligned columns of at most ``width`` cells, labels cut at words; empty frames say why they are."""
    if frame.empty:
        return str(frame.attrs.get("note", "no rows"))
    shown = [name for name in frame.columns if name != "via" or any(frame["via"])]
    tokens = list(frame["type"] == "Token") if "type" in frame else [False] * len(frame)
    cells = {
        name: [_cell(name, value, token) for value, token in zip(frame[name], tokens, strict=True)] for name in shown
    }
    numeric = {name for name in shown if pd.api.types.is_numeric_dtype(frame[name].dtype)}
    widths = {name: max(cell_len(text) for text in (name, *cells[name])) for name in shown}
    _shrink(widths, [name for name in shown if name not in numeric and name not in _WHOLE], width)
    lines = [{name: name for name in shown}]
    lines += [dict(zip(shown, row, strict=True)) for row in zip(*(cells[name] for name in shown), strict=True)]
    return "\n".join(
        "  ".join(_pad(cut(line[name], widths[name]), widths[name], right=name in numeric) for name in shown).rstrip()
        for line in lines
    )


def footer(frame: pd.DataFrame, noun: str = "row") -> str:
    """What the rows rest on, in a line: their order, whether they are complete, set and run, or why there are none."""
    attrs = frame.attrs
    parts = []
    if len(frame) and "weight" in attrs:
        parts.append(f"{len(frame):,} {_plural(noun, len(frame))} by {attrs.get('score') or _order(attrs['weight'])}")
    if attrs.get("complete") is True and "weight" in attrs and len(frame):
        parts.append("complete")
    if "note" in attrs and len(frame):
        parts.append(visible(str(attrs["note"])))
    if isinstance(seen := attrs.get("observation"), dict) and seen:
        parts.append(f"on {visible(str(seen['text']))}, {seen['positions']:,} positions")
    parts += [f"{name} {_names(attrs[name])}" for name in ("set", "run") if attrs.get(name)]
    return " · ".join(parts)


def paths_text(frame: pd.DataFrame, width: int = WIDTH) -> str:
    """Paths below each other: a node a line, beside it the weight that leads into it."""
    if frame.empty:
        return str(frame.attrs.get("note", "no paths"))
    blocks = []
    for path in frame.to_dict("records"):
        kinds = ["Token" if key.startswith("tok:") else "Feature" for key in path["keys"]]
        room = max(cell_len(key) for key in path["keys"])
        steps = f"{path['hops']} {_plural('step', path['hops'])}"
        lines = [f"{path['rank']:>3}  {path['score_kind']} {_signed(path['score'])}, {steps}"]
        weights = ["", *(_signed(weight) for weight in path["weights"])]
        for key, kind, label, weight in zip(path["keys"], kinds, path["labels"], weights, strict=True):
            text = quoted(label) if kind == "Token" else visible(label)
            left = f"     {_pad(key, room)}  {_pad(weight, 8, right=True)}  "
            lines.append((left + cut(text, max(12, width - cell_len(left)))).rstrip())
        blocks.append("\n".join(lines))
    if total := frame.attrs.get("total"):
        blocks.append(_total(total))
    return "\n".join(blocks)


def _total(total: Mapping[str, float | None]) -> str:
    """What all paths sum to, and the part that those above carry."""
    said = [f"all paths sum to {_signed(total['signed'])}" if total["signed"] is not None else "all paths"]
    said.append(f"in absolute value {number(total['absolute'])}" if total["absolute"] is not None else "")
    if (part := total["part_of_absolute"]) is not None:
        said.append(f"of which these carry {part:.1%}")
    return "\n" + ", ".join(filter(None, said))


def card_text(card: Mapping[str, Any], width: int = WIDTH) -> str:
    """A card for a terminal: two columns from 98 cells on, below that one above the other; never wider than 100."""
    width = min(max(width, 60), WIDTH)
    title, source = _title(card)
    label = quoted(card["label"]) if card["type"] == "Token" else visible(card["label"])
    lines = [*_beside(visible(card["key"]), title, width), *_beside(label, source, width)]
    for said in card.get("descriptions", []):
        text = visible(f"{said['text']} ({said['method']})")
        lines += textwrap.wrap(text, width, initial_indent="  ", subsequent_indent="    ")
    if card.get("evidence"):
        lines += ["", *_fires(card["evidence"], width)]
    one_set = isinstance(card.get("set"), str)
    two = width >= 98 and one_set
    room = 45 if two else width - 1
    columns = [
        _column(head, card[side], room, logits=side == "outputs", short=one_set)
        for head, side in (("READS", "inputs"), ("WRITES", "outputs"))
    ]
    lines.append("")
    if two:
        height = max(map(len, columns))
        left, right = ([*column, *[""] * (height - len(column))] for column in columns)
        lines += [f" {_pad(a, room)}      {b}".rstrip() for a, b in zip(left, right, strict=True)]
    else:
        lines += [f" {line}".rstrip() for line in [*columns[0], "", *columns[1]]]
    lines.append("")
    lines += _joined(_rests_on(card), width)
    if card.get("page"):
        lines.append(f" page:  {visible(card['page'])}")
    return "\n".join([*lines, *_more(card, width)])


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
    for example in seen["examples"]:
        lines.append(f" {number(example['value']):>6}  " + cut(visible(example["text"]), width - 9))
    return lines


def _histogram(counts: list[int], bars: int = 24) -> str:
    """Counts as a line of blocks, neighbouring bins taken together; what holds anything shows."""
    step = -(-len(counts) // bars)
    sums = [sum(counts[start : start + step]) for start in range(0, len(counts), step)]
    return "".join(" ▁▂▃▄▅▆▇█"[-(-8 * count // max(sums))] for count in sums)


def visible(text: str) -> str:
    """Text with all that is not seen written out: control and format characters, line breaks, halves of pairs."""
    return "".join(_escape(char) if _unseen(char) else char for char in text)


def quoted(text: str) -> str:
    """A token's text in double quotes, so that its spaces show."""
    return '"' + visible(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'


def cut(text: str, room: int) -> str:
    """Text of at most ``room`` cells, cut at a space where there is one in its last half, with an ellipsis."""
    if cell_len(text) <= room:
        return text
    kept = ""
    for char in text:
        if cell_len(kept + char) > room - 1:
            break
        kept += char
    space = kept.rfind(" ")
    whole_word = text[len(kept)] == " " or space < len(kept) // 2
    return (kept if whole_word else kept[:space]).rstrip(" ,") + "…"


def number(value: float, kind: str = "") -> str:
    """A number with the digits that matter: z with one decimal, shares in percent, others with four figures."""
    if pd.isna(value):
        return ""
    if kind == "z":
        return f"{value:+.1f}".replace("-", "−")
    if kind == "share":
        percent = 100 * abs(value)
        return "<0.01 %" if 0 < percent < 0.005 else f"{percent:.{1 if percent >= 0.1 else 2}f} %"
    return f"{value:.4g}".replace("-", "−", 1) if value < 0 else f"{value:.4g}"


def _signed(value: float) -> str:
    return f"{value:+.3g}".replace("-", "−", 1) if value < 0 else f"{value:+.3g}"


def _cell(name: str, value: Any, token: bool) -> str:
    if isinstance(value, list | tuple | np.ndarray):
        return _list(list(value))
    if value is None or (not isinstance(value, str) and pd.isna(value)):
        return ""
    if isinstance(value, str):
        return quoted(value) if token and name == "label" else visible(value)
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return str(value) if name in _PLAIN_NUMBERS else f"{value:,}"
    if isinstance(value, float | np.floating):
        kind = "z" if name == "z" or name.startswith("z_") else name
        return _signed(float(value)) if kind.startswith("weight") else number(float(value), kind)
    return visible(json.dumps(value, default=str, ensure_ascii=False))


def _list(values: list[Any]) -> str:
    """Layers as spans, equal counts as one."""
    if values and all(isinstance(value, int | np.integer) for value in values):
        if len(values) > 1 and sorted(set(values)) == values:
            return spans(values)
        runs = [(value, len(list(group))) for value, group in groupby(values)]
        return ", ".join(f"{times} × {value:,}" if times > 1 else f"{value:,}" for value, times in runs)
    return ", ".join(visible(value) if isinstance(value, str) else number(value) for value in values)


def _shrink(widths: dict[str, int], elastic: list[str], width: int) -> None:
    """Take cells from the widest columns that may be cut until all fit."""
    while sum(widths.values()) + 2 * (len(widths) - 1) > width:
        widest = max(elastic, key=lambda name: widths[name], default=None)
        if widest is None or widths[widest] <= max(8, len(widest)):
            return
        widths[widest] -= 1


def _pad(text: str, width: int, right: bool = False) -> str:
    space = " " * (width - cell_len(text))
    return space + text if right else text + space


def _beside(left: str, right: str, width: int) -> list[str]:
    """Two texts on a line, the right one from the middle on; below each other where they do not fit."""
    middle = 52 if width >= 98 else 0
    if not right:
        return [cut(left, width)]
    if middle and cell_len(left) < middle and cell_len(right) <= width - middle:
        return [_pad(left, middle) + right]
    return [cut(left, width), f"  {cut(right, width - 2)}"]


def _title(card: Mapping[str, Any]) -> tuple[str, str]:
    if card["type"] == "Token":
        models = ", ".join(card["models"])
        return f"token {card['token_id']:,} of the vocabulary {visible(card['vocabulary'])}", f"of {visible(models)}"
    where = f"layer {card['layer']} of {card['layers']} · feature {card['idx']:,} of {card['features']:,}"
    return where, _SOURCES.get(card["label_source"], f"from {visible(card['label_source'])}")


def _column(head: str, frame: pd.DataFrame, room: int, *, logits: bool, short: bool) -> list[str]:
    """One side of a card: a heading, then a neighbour a line with its name, label, bar, z and share."""
    if frame.empty:
        return [head, "nothing"]
    names = [_name(str(key), str(kind), logits, short) for key, kind in zip(frame["key"], frame["type"], strict=True)]
    name_room = max(8, *(cell_len(name) for name in names))
    label_room = max(5, room - name_room - _BAR - 6 - 7 - 4)
    found = frame.to_dict("records")
    longest = max(abs(row["z"]) for row in found) or 1.0
    header = f"{_pad('z', 6, right=True)} {_pad('share', 7, right=True)}"
    lines = [_pad(head, room - cell_len(header)) + header]
    for name, row in zip(names, found, strict=True):
        label = quoted(row["label"]) if row["type"] == "Token" else visible(row["label"])
        lines.append(
            " ".join(
                (
                    _pad(name, name_room),
                    _pad(cut(label, label_room), label_room),
                    _pad(_bar(row["z"], longest), _BAR),
                    _pad(number(row["z"], "z"), 6, right=True),
                    _pad(number(row["share"], "share"), 7, right=True),
                )
            )
        )
    return lines


def _name(key: str, kind: str, logits: bool, short: bool) -> str:
    """How a card names a neighbour: token or logit, or its layer and index within the set."""
    if kind == "Token":
        return "logit" if logits else "token"
    owner, place, idx = key.rsplit("/", 2)
    layer, _, name = place.partition("-")
    return f"{layer}/{idx}" if short else f"{owner}/{layer}-{name}/{idx}"


def _bar(value: float, longest: float) -> str:
    """Length by size; a full block for what raises, a low one for what holds down."""
    cells = max(1, math.ceil(_BAR * min(abs(value) / longest, 1.0) - 1e-9))
    return ("▇" if value >= 0 else "▂") * cells


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
    bound = card.get("bound")
    if card["complete"]:
        state = "complete"
    elif bound is not None:
        state = f"of what is kept, certain above |z| {bound:.1f}"
    else:
        state = "of what is kept"
    parts = [f"each column: the strongest by |z|, {state}"]
    return parts + [f"{name} {_names(card[name])}" for name in ("run", "set") if card.get(name)]


def _more(card: Mapping[str, Any], width: int) -> list[str]:
    key = card["key"]
    commands = [f"atlas inputs {key} -k 50", f"atlas circuit {key}"]
    line = " more:  " + "     ".join(commands)
    return [line] if cell_len(line) <= width else [" more:", *(f"   {command}" for command in commands)]


def _order(weight: str) -> str:
    return weight if weight == "share" else f"abs({weight})" if weight in ("z", "weight") else weight


def _names(value: Any) -> str:
    names: Iterable[Any] = value if isinstance(value, list) else [value]
    return ", ".join(visible(str(name)) for name in names)


def _plural(noun: str, count: int) -> str:
    return noun if count == 1 else f"{noun}s"


def _unseen(char: str) -> bool:
    return unicodedata.category(char) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def _escape(char: str) -> str:
    named = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}
    code = ord(char)
    plain = f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
    return named.get(char, plain)

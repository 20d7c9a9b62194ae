"""Tables, cards and paths for a terminal: aligned, cut at words, readable without colour."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd
from rich.cells import cell_len

from queries.resolve import spans

WIDTH = 100
_WHOLE = {"key", "set_key", "set", "model", "source", "target", "run", "name", "command", "key_a", "key_b", "build"}
"""Columns that are never cut: one types them again."""
_PLAIN_NUMBERS = {"layer", "idx", "rank", "depth", "hops", "token_id", "source_layer", "target_layer"}


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
        "  ".join(pad(cut(line[name], widths[name]), widths[name], right=name in numeric) for name in shown).rstrip()
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
    parts += [f"{name} {names(attrs[name])}" for name in ("set", "run") if attrs.get(name)]
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
        lines = [f"{path['rank']:>3}  {path['score_kind']} {signed(path['score'])}, {steps}"]
        weights = ["", *(signed(weight) for weight in path["weights"])]
        heads = ["", *(f" via {kind.partition(':')[2]}" if ":" in kind else "" for kind in path["types"])]
        for key, kind, label, weight, head in zip(path["keys"], kinds, path["labels"], weights, heads, strict=True):
            text = quoted(label) if kind == "Token" else visible(label)
            left = f"     {pad(key, room)}  {pad(weight, 8, right=True)}  "
            lines.append((left + cut(text, max(12, width - cell_len(left) - len(head)))).rstrip() + head)
        blocks.append("\n".join(lines))
    if total := frame.attrs.get("total"):
        blocks.append(_total(total))
    return "\n".join(blocks)


def _total(total: Mapping[str, float | None]) -> str:
    """What all paths sum to, and the part that those above carry."""
    said = [f"all paths sum to {signed(total['signed'])}" if total["signed"] is not None else "all paths"]
    said.append(f"in absolute value {number(total['absolute'])}" if total["absolute"] is not None else "")
    if (part := total["part_of_absolute"]) is not None:
        said.append(f"of which these carry {part:.1%}")
    return "\n" + ", ".join(filter(None, said))


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


def signed(value: float) -> str:
    return f"{value:+.3g}".replace("-", "−", 1) if value < 0 else f"{abs(value):+.3g}"


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
        return signed(float(value)) if kind.startswith("weight") else number(float(value), kind)
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


def pad(text: str, width: int, right: bool = False) -> str:
    space = " " * (width - cell_len(text))
    return space + text if right else text + space


def _order(weight: str) -> str:
    return weight if weight == "share" else f"abs({weight})" if weight in ("z", "weight") else weight


def names(value: Any) -> str:
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

"""Plots as SVG text, drawn by matplotlib: curves where a figure has points on an axis, bars where it has none."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from benchmarks.peers import ALL, FairFloor
from benchmarks.rows import NO_POOL, OURS, Row
from benchmarks.table import number

# One colour for each peer in all plots, ours the only strong one; what is no pool is black, and dashed.
_MUTED = (
    "#9a9a9a", "#c49a6c", "#8fae7f", "#b58db6", "#7fa8b8", "#c7b45a", "#b97a7a", "#7d86b5", "#5b9a8b", "#d4a5a5",
    "#6b6b4e", "#a3c4dc",
)  # fmt: skip  # as many as there are in ALL
COLOURS = {kind.name: colour for kind, colour in zip(ALL, _MUTED, strict=True)} | {OURS: "#0050c8"}
DASHES = {NO_POOL: "--", FairFloor.name: ":"}


def available() -> bool:
    """Whether matplotlib is installed."""
    try:
        import matplotlib as mpl  # noqa: F401
    except ImportError:
        return False
    return True


def draw(title: str, rows: Sequence[Row], axis: str) -> str:
    """One figure of one scenario, all peers."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    # Text stays text: it is a tenth of the size.
    with mpl.rc_context({"svg.fonttype": "none", "font.size": 9.0}):
        curve = len({row.at for row in rows}) > 1
        figure = Figure(figsize=(7.0, 3.4), layout="constrained")
        axes = figure.subplots()
        axes.set_title(title)
        (_curves if curve else _bars)(axes, rows)
        unit = rows[0].unit
        if curve:
            axes.set_xlabel(axis)
            axes.set_ylabel(unit)
            figure.legend(loc="outside right upper", fontsize=7)
        else:
            axes.set_xlabel(unit)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()


def _curves(axes: Any, rows: Sequence[Row]) -> None:
    for peer in dict.fromkeys(row.peer for row in rows):
        points = [(row.at, row.value, row.spread / 2) for row in rows if row.peer == peer]
        xs, ys, errors = zip(*points, strict=True)
        width = 2.2 if peer == OURS else 1.2
        style = {"color": COLOURS.get(peer, "#000000"), "linestyle": DASHES.get(peer, "-"), "linewidth": width}
        axes.errorbar(xs, ys, yerr=errors, label=peer, marker=".", **style)
    if all(row.at for row in rows):
        axes.set_xscale("log")
        ticks = sorted({row.at for row in rows if row.at})
        axes.set_xticks(ticks, [number(tick) for tick in ticks])
        axes.minorticks_off()
    if all(row.value > 0 for row in rows) and _wide(rows):
        axes.set_yscale("log")


def _bars(axes: Any, rows: Sequence[Row]) -> None:
    shown = list(reversed(rows))  # the first one on top
    places = range(len(shown))
    values = [row.value for row in shown]
    colours = [COLOURS.get(row.peer, "#666666") for row in shown]
    drawn = axes.barh(places, values, xerr=[row.spread / 2 for row in shown], color=colours)
    axes.bar_label(drawn, labels=[number(value) for value in values], padding=3, fontsize=7)
    axes.set_yticks(places, [row.peer for row in shown])
    axes.margins(x=0.15)


def _wide(rows: Sequence[Row]) -> bool:
    """Whether the values span so much that the small ones would lie on the axis."""
    return max(row.value for row in rows) > 20 * min(row.value for row in rows)

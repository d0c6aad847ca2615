"""Draws docs/images/peers.png from the figures in docs/peers.md, so that picture and page agree.

    python docs/performance/draw_peers.py
"""
import re
from pathlib import Path

from matplotlib.figure import Figure

DOCS = Path(__file__).parents[1]
CELL = re.compile(r"([\d.]+) \(([\d.]+)-([\d.]+)\)")
COLOURS = {"fp32": "#2563eb", "bf16": "#059669", "int8": "#d97706"}


def ratios(page):
    """What the first table of each precision says, that of the default model; a precision may have none.

    Returns:
        [(precision, peer, {workload: (median, least, greatest)})].
    """
    found = []
    for precision in COLOURS:
        table = re.search(rf"^\| than, at {precision} +\|.*?(?=\n\n|\Z)", page, re.DOTALL | re.MULTILINE)
        if table is None:
            continue
        head, _, *rows = table[0].splitlines()
        workloads = [name.strip() for name in head.strip("|").split("|")[1:]]
        for row in rows:
            peer, *cells = row.strip("|").split("|")
            figures = [tuple(map(float, CELL.search(cell).groups())) for cell in cells if cell.strip()]
            found.append((precision, peer.strip(), dict(zip(workloads, figures))))
    return found


def label(peer, precision, found):
    """A peer's name without what follows the comma, unless another one has that name."""
    parts = peer.split(", ")
    alike = [other for kind, other, _ in found if kind == precision and other.split(", ")[0] == parts[0]]
    return f"{parts[0]}, {parts[-1]}" if len(parts) > 1 and len(alike) > 1 else parts[0]


def draw(found):
    """A panel for each workload, in each a line for each peer."""
    workloads = list(found[0][2])
    picture = Figure(figsize=(9, 5), layout="constrained")
    for panel, workload in zip(picture.subplots(2, 3, sharex=True, sharey=True).flat, workloads):
        panel.axvline(1, color="#7b8794", linewidth=1)
        for place, (precision, peer, figures) in enumerate(reversed(found)):
            median, least, greatest = figures[workload]
            panel.errorbar(median, place, xerr=[[median - least], [greatest - median]], fmt="o", capsize=3,
                           color=COLOURS[precision])
        panel.set_title({"one": "one sentence"}.get(workload, f"{workload} tokens" if workload.isdigit() else workload))
        panel.set_xscale("log")
        panel.set_xticks([0.5, 1, 2, 4, 8], ["0.5", "1", "2", "4", "8"])
        panel.minorticks_off()
        panel.set_yticks(range(len(found)), [label(peer, kind, found) for kind, peer, _ in reversed(found)])
        panel.grid(axis="x", color="#e4e7eb")
        panel.set_axisbelow(True)
        for side in ("top", "right", "left"):
            panel.spines[side].set_visible(False)
    picture.supxlabel("times as fast as ... (right of 1: bert-as-service is faster), median, least and greatest of "
                      "the rounds")
    return picture


if __name__ == "__main__":
    text = (DOCS / "peers.md").read_text(encoding="utf-8")
    draw(ratios(text)).savefig(DOCS / "images" / "peers.png", dpi=110)

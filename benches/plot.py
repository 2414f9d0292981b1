"""The ratios to one peer as bars, in SVG."""

from xml.sax.saxutils import escape

from containers import BARE
from report import MEASURES

WIDTH, LEFT, RIGHT = 860, 270, 90
BAR, GAP, HEADING = 11, 8, 26
MOST = 2.5  # times the peer's; longer bars are cut, and say so
COLOURS = ["#1f6feb", "#8c959f", "#d29922", "#8250df"]
BARE_COLOUR = "#57ab5a"


def text(x, y, words, size=11, anchor="start", weight="normal"):
    return (f'<text x="{x:.0f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" font-weight="{weight}" '
            f'fill="#1f2328">{escape(words)}</text>')


def bar(y, ratio, colour, words):
    length = min(ratio, MOST) / MOST * (WIDTH - LEFT - RIGHT)
    cut = ""
    if ratio > MOST:
        cut = f'<path d="M{LEFT + length - 9:.1f} {y + BAR} l5 -{BAR}" stroke="#fff" stroke-width="2"/>'
    return (f'<rect x="{LEFT}" y="{y:.1f}" width="{length:.1f}" height="{BAR}" fill="{colour}"/>{cut}'
            + text(LEFT + length + 4, y + BAR - 2, words, 9))


def draw(groups, names, peer):
    """groups: of cases.Group, its first measure; every bar says what it stands for, in that measure's unit."""
    plain = [name for name in names if name != BARE]
    colours = {**{name: COLOURS[number % len(COLOURS)] for number, name in enumerate(plain)}, BARE: BARE_COLOUR}
    parts, y = [], 62.0
    for group in groups:
        measure, shown = group.measures[0], False
        unit, factor, form = MEASURES[measure]
        for label in group.rows:
            bars = [(name, group.ratio(label, name, peer, measure)) for name in names]
            bars = [(name, ratio) for name, ratio in bars if ratio is not None]
            if not bars:
                continue
            if not shown:
                parts.append(text(10, y + 14, group.title, 12, weight="bold"))
                y, shown = y + HEADING - 6, True
            parts.append(text(LEFT - 8, y + len(bars) * BAR / 2 + 4, label, anchor="end"))
            for name, ratio in bars:
                value = format(group.median(label, name, measure) * factor, form)
                parts.append(bar(y, ratio, colours[name], f"{value} {unit}"))
                y += BAR
            y += GAP
    line = LEFT + (WIDTH - LEFT - RIGHT) / MOST
    legend, x = [], LEFT
    for name in names:
        legend.append(f'<rect x="{x}" y="30" width="12" height="12" fill="{colours[name]}"/>' + text(x + 17, 40, name))
        x += 90
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y + 10:.0f}" font-family="sans-serif">',
        f'<rect width="{WIDTH}" height="{y + 10:.0f}" fill="#fff"/>',
        text(10, 20, f"Medians in parts of {peer}'s: shorter is better", 13, weight="bold"), *legend,
        *parts, f'<path d="M{line:.1f} 56 V{y:.0f}" stroke="#1f2328" stroke-dasharray="3 3"/>', "</svg>\n"])

"""Owns the picture: a panel a number, a bar a proxy, as SVG for light and dark pages."""

from html import escape

from report import amount, columns, median, own, title
from measures import NUMBERS

SHOWN = ["idle", "idle-tls", "trip-64", "trip-many", "trip-65536", "opening", "added-p99", "requests"]

WIDTH, ACROSS, GAP = 860, 2, 28
PANEL = (WIDTH - GAP * (ACROSS + 1)) // ACROSS
# In a panel: a title, a line a bar; names to the left of the bars, values to their right.
TITLE, BAR, THICK, NAMES, VALUES = 30, 24, 15, 104, 84
STYLE = """
  text { font: 13px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2328 }
  .title { font-weight: 600 }
  .less { fill: #59636e }
  .peer { fill: #afb8c1 }
  .own { fill: #0969da }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 }
    .less { fill: #9198a1 }
    .peer { fill: #59636e }
    .own { fill: #4493f8 }
  }"""


def draw(results):
    """The picture of the medians."""
    panels = [(number, bars(results, number)) for number in SHOWN]
    panels = [(number, found) for number, found in panels if found]
    parts, y, height = [], 44, 0
    for at, (number, found) in enumerate(panels):
        if at % ACROSS == 0:
            y, height = y + height, 0
        x = GAP + at % ACROSS * (PANEL + GAP)
        parts += panel(results, number, found, x, y)
        height = max(height, TITLE + BAR * len(found) + GAP)
    return document(results, panels, parts, y + height)


def bars(results, number):
    """Names and medians, in the order of the results."""
    found = [(name, median(results, name, number)) for name in columns(results)]
    return [(name, value) for name, value in found if value is not None]


def panel(results, number, found, x, y):
    unit = f", {NUMBERS[number].unit}" if NUMBERS[number].unit else ""
    words = escape(title(results, number).replace("`", "") + unit)
    better = " (more is better)" if NUMBERS[number].more_is_better else ""
    yield f'<text class="title" x="{x}" y="{y + 16}">{words}<tspan class="less">{better}</tspan></text>'
    most = max(value for _, value in found)
    room = PANEL - NAMES - VALUES
    for at, (name, value) in enumerate(found):
        top = y + TITLE + at * BAR
        length = max(1, round(room * max(value, 0) / most)) if most > 0 else 1
        kind = "own" if name in own(results) else "peer"
        yield f'<text x="{x + NAMES - 8}" y="{top + 12}" text-anchor="end">{escape(name)}</text>'
        yield f'<rect class="{kind}" x="{x + NAMES}" y="{top}" width="{length}" height="{THICK}" rx="2"/>'
        yield f'<text class="less" x="{x + NAMES + length + 6}" y="{top + 12}">{amount(value, number)}</text>'


def document(results, panels, parts, height):
    said = results["about"]
    shown = [name for name in said["versions"] if name in own(results) or "-" not in name]
    versions = ", ".join(f"{name} {said['versions'][name]}" for name in shown)
    words = "; ".join(
        f"{title(results, number)}: " + ", ".join(f"{name} {amount(value, number)}" for name, value in found)
        for number, found in panels
    )
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
    head += 'role="img" aria-labelledby="title desc">'
    lines = [
        head, '<title id="title">Holdline beside other proxies</title>',
        f'<desc id="desc">{escape(words.replace("`", ""))}</desc>', f"<style>{STYLE}\n</style>",
        f'<text class="less" x="{GAP}" y="24">{escape(versions)}; rounds: {said["rounds"]}</text>',
        *parts, "</svg>",
    ]
    return "\n".join(lines) + "\n"

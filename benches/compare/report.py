"""Owns the words: medians, spreads, ratios and goals, as Markdown."""

import statistics

from measures import NUMBERS
from proxies import BARE, BESIDE

BASE = "nginx"

# What Holdline is to reach: number, words, the most, as a share of whose.
GOALS = [
    ("idle", "at most 256 B", 256, None),
    ("idle-tls", "at most 7 KB", 7000, None),
    ("trip-64", "at most 1.0 x nginx", 1.0, "nginx"),
    ("trip-many", "at most 0.92 x nginx", 0.92, "nginx"),
    ("trip-many", "at most 0.8 x HAProxy", 0.8, "haproxy"),
    ("trip-16384", "at most 0.35 x nginx", 0.35, "nginx"),
    ("trip-16384", "at most 0.6 x HAProxy", 0.6, "haproxy"),
    ("trip-65536", "at most 0.35 x nginx", 0.35, "nginx"),
    ("trip-65536", "at most 0.6 x HAProxy", 0.6, "haproxy"),
    ("opening", "at most 1.1 x nginx", 1.1, "nginx"),
    ("added-p99", "at most nginx's", 1.0, "nginx"),
    ("reload-refused", "0", 0, None),
    ("reload-closed", "0", 0, None),
    ("reload-processes", "0", 0, None),
    ("storm", "at most 2 x", 2, None),
]


def median(results, name, number):
    """The median of the rounds; nothing if there are none."""
    values = results["values"].get(name, {}).get(number)
    return statistics.median(values) if values else None


def title(results, number):
    return NUMBERS[number].title.format(**results["about"]["scale"])


def amount(value, number):
    """A value as it is read, without its unit."""
    if value is None:
        return "-"
    return f"{value:,.{NUMBERS[number].digits}f}"


def columns(results):
    """The proxies with results, in the order they were asked for."""
    return [name for name in results["about"]["versions"] if results["values"].get(name)]


def beside(results):
    """What stands beside them."""
    return [name for name in BESIDE if results["values"].get(name)]


def own(results):
    """Those of them that are Holdline."""
    return [name for name in columns(results) if name in results["about"]["own"]]


def rows(results, those):
    return [number for number in NUMBERS if any(median(results, name, number) is not None for name in those)]


def markdown(results):
    """All of it."""
    said = results["about"]
    parts = [
        f"{said['date']}, {said['processors']} processors ({said['processor']}), Linux {said['kernel']}, "
        f"{said['open_files']:,} open files a process, {said['scale']['idle']:,} idle tunnels, "
        f"rounds: {said['rounds']}, seed {said['seed']}, load average before: {said['load_average']:.1f}.",
        "; ".join(f"{name} {version}" for name, version in said["versions"].items()) + ".",
        medians(results), ratios(results), goals(results), processors(results),
    ]
    if results["failures"]:
        parts.append("Failed:\n\n" + "\n".join(f"- {failure}" for failure in results["failures"]))
    return "\n\n".join(part for part in parts if part) + "\n"


def table(head, body):
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def medians(results):
    those = columns(results) + beside(results)
    body = []
    for number in rows(results, those):
        unit = NUMBERS[number].unit
        cells = [spread(results, name, number) for name in those]
        body.append([title(results, number) + (f" ({unit})" if unit else ""), *cells])
    return "Medians, and the least and the most of the rounds:\n\n" + table(["", *those], body)


def spread(results, name, number):
    values = results["values"].get(name, {}).get(number)
    if not values:
        return "-"
    middle, least, most = (amount(of(values), number) for of in (statistics.median, min, max))
    return middle if least == most else f"{middle} ({least} to {most})"


def ratios(results):
    bare = [BARE] if BARE in beside(results) else []
    those = [name for name in columns(results) + bare if name != BASE]
    if not results["values"].get(BASE) or not those:
        return ""
    body = []
    for number in rows(results, those):
        base = median(results, BASE, number)
        if not base or base < 0 or not NUMBERS[number].compared:
            continue
        found = [median(results, name, number) for name in those]
        body.append([title(results, number), *("-" if one is None else f"{one / base:.2f}" for one in found)])
    return f"Ratios to {BASE}:\n\n" + table(["", *those], body)


def goals(results):
    """What Holdline is to reach, and whether it does; of tiny loads it says nothing."""
    ours = [] if results["about"]["quick"] else own(results)
    body = []
    for number, words, most, peer in GOALS:
        base = 1 if peer is None else median(results, peer, number)
        found = [median(results, name, number) for name in ours]
        if base is None or not any(one is not None for one in found):
            continue
        cells = [verdict(one, base, most, peer, number) for one in found]
        body.append([title(results, number), words, *cells])
    return "Goals:\n\n" + table(["", "goal", *ours], body) if body else ""


def verdict(value, base, most, peer, number):
    if value is None:
        return "-"
    shown = amount(value, number) if peer is None else f"{value / base:.3f} x" if base > 0 else amount(value, number)
    return f"{shown} {'yes' if value <= most * base else '**no**'}"


def processors(results):
    """Who was waited for. Where it is the load, a proxy had less to batch than it could have had."""
    those = [name for name in columns(results) + beside(results) if results["busy"].get(name)]
    body = []
    for number in NUMBERS:
        cells = [shares(results["busy"][name].get(number)) for name in those]
        if any(cell != "-" for cell in cells):
            body.append([title(results, number), *cells])
    words = "Busy, in percent: the proxy's processor / that of load and echo:\n\n"
    return words + table(["", *those], body) if body else ""


def shares(found):
    if not found:
        return "-"
    return " / ".join(f"{statistics.median(one[who] for one in found) * 100:.0f}" for who in ("proxy", "load"))

"""The check `pongs`: many small frames cost the other tunnels of a thread little more than as many bytes of data.

One thread relays all. One tunnel sends 50 Mbit/s, in turns as empty Pongs, about a million a second, and as data in
large frames; others echo beside it.
"""

from fairness import Measured, Stage

TUNNELS, RATE, MEGABITS, ROUNDS = 20, 25, 50, 3
# What the median beside Pongs may be of that beside data.
LIMIT = 3


async def measure(stage, measured, kind, seconds):
    """One round of probes; beside `kind`, if that is not nothing."""
    port = stage.same_port
    paced = [await stage.load("pace", port, kind, MEGABITS)] if kind else []
    probe = await stage.load("probe", port, TUNNELS, RATE, seconds)
    before, since = await stage.taken()
    event = await probe.event("probed", seconds + 10)
    after, until = await stage.taken()
    await probe.process.wait()
    for child in (*paced, probe):
        await child.stop()
        stage.lab.children.remove(child)
    measured.times += event["times"]
    measured.lost += event["lost"]
    measured.bits += 8 * (after - before)
    measured.seconds += until - since


async def check_pongs(lab, options, report):
    """A flood of Pongs leaves the others of its thread alone."""
    stage = Stage(lab)
    await stage.start()
    await stage.start_proxies(1)
    measured = {kind: Measured() for kind in (None, "data", "pongs")}
    for _ in range(ROUNDS):
        for kind, found in measured.items():
            await measure(stage, found, kind, options.seconds / ROUNDS)
    for kind, found in measured.items():
        report.note(f"beside {kind or 'nothing'}", found)
    data, pongs = measured["data"], measured["pongs"]
    ratio = pongs.quantile(0.5) / data.quantile(0.5)
    report.check("median beside Pongs to that beside data", f"{ratio:.2f} (limit {LIMIT})", ratio <= LIMIT)
    report.check("answers lost", sum(found.lost for found in measured.values()), not pongs.lost + data.lost)
    rate = pongs.bits / pongs.seconds / 1e6
    report.check("Mbit/s of Pongs that passed", f"{rate:.0f} of {MEGABITS}", rate > 0.8 * MEGABITS)
    await stage.proxies[1].stop()

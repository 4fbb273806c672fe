"""What `peers.py` prints: a table a network, and the fastest ways of all beside the goals."""

from typing import Any

from _common.peer_ways import GLUONCV, GOALS, WAYS, best
from ssd_deploy.text_table import text_table


def print_row(row: dict[str, Any]) -> None:
    """Print a network's table: each way's milliseconds, and times as fast as GluonCV."""
    print(f"\n{row['network']}")
    cells = [
        (
            *(label, f"{ms:.1f}", f"{row['times_gluoncv'][label]:.2f}"),
            f"{row['logit_error'][label]:.1e}" if label in row["logit_error"] else "-",
        )
        for label, ms in row["ms"].items()
    ]
    print(text_table(("way", "ms", "times GluonCV", "error of logits"), cells, left=1))
    print(f"decode + NMS over the network: {100 * row['over_the_network']:.1f} %")
    print("peak MB: " + ", ".join(f"{label} {value:.0f}" for label, value in row["peak_mb"].items()))
    for label, reason in row["skipped"].items():
        print(f"{label}: left out: {reason}")
    for label, count in row["without_partner"].items():
        if count:
            print(f"{label}: {count} of GluonCV's detections have no partner")


def print_summary(rows: list[dict[str, Any]], summed: dict[str, Any]) -> None:
    """Print the fastest way of each kind by network, then the medians over the networks beside the goals."""
    header = ("network", "GluonCV ms", *(part for goal in GOALS for part in (goal.name, "ms", "times")))
    lines = []
    for row in rows:
        cells = [row["network"], f"{row['ms'][GLUONCV]:.0f}"]
        for goal in GOALS:
            found = best(row, goal)
            cells += ["-"] * 3 if found is None else [found[0], f"{row['ms'][found[0]]:.1f}", f"{found[1]:.2f}"]
        lines.append(cells)
    print("\n" + text_table(header, lines, left=1))
    for label, way in summed["ways"].items():
        print(f"{label}: median of {way['networks']} networks {way['median_times_gluoncv']:.2f} times GluonCV")
    for name, goal in summed["goals"].items():
        median = goal["median_times_gluoncv"]
        reached = "not measured" if median is None else f"{median:.2f} times GluonCV"
        verdict = "met" if goal["is_met"] else "MISSED"
        print(f"{name}: median of {goal['networks']} networks {reached}, goal {goal['goal']}: {verdict}")


def markdown(rows: list[dict[str, Any]]) -> str:
    """Return the table of `benchmarks/README.md`: milliseconds, and in brackets times as fast as GluonCV.

    The fastest way of each goal's kinds is bold; a way that no network was measured with has no column.
    """
    ways = [way for way in WAYS if any(way.label in row["ms"] for row in rows)]
    peaks = list(dict.fromkeys(label for row in rows for label in row["peak_mb"]))
    memory = f"peak MB: {' / '.join(peaks)}"
    header = ("network", GLUONCV, *(way.label for way in ways), "decode + NMS over the network", memory)
    lines: list[tuple[str, ...]] = [header, ("---",) * len(header)]
    for row in rows:
        fastest = {found[0] for found in (best(row, goal) for goal in GOALS) if found is not None}
        cells = [row["network"], f"{row['ms'][GLUONCV]:.0f}"]
        for way in ways:
            if way.label not in row["ms"]:
                cells.append("-")
                continue
            ratio = f"{row['times_gluoncv'][way.label]:.2f}"
            cells.append(f"{row['ms'][way.label]:.0f} ({f'**{ratio}**' if way.label in fastest else ratio})")
        megabytes = (f"{row['peak_mb'][label]:.0f}" if label in row["peak_mb"] else "-" for label in peaks)
        lines.append((*cells, f"{100 * row['over_the_network']:.1f} %", " / ".join(megabytes)))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)

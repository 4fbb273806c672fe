"""A certificate as text for a terminal: a row a file and backend, the verdict in the last line."""

from ssd_deploy.parity.reference import title_of
from ssd_deploy.ship.certificate import Certificate, Check
from ssd_deploy.text_table import text_table, wrapped

HEADER = ("file", "backend", "metric", "lost", "changed", "p50 ms", "p99 ms", "times", "verdict")


def certificate_text(made: Certificate, width: int | None = None) -> str:
    """Return what matters of a certificate.

    Args:
        width: most characters a line; None for no limit. Commands are never broken.
    """
    head = [f"{made.detector.network}, weights: {made.detector.weights}; {made.data.name}, {made.data.images} images"]
    if made.metric:
        head.append(f"metric: {made.metric}; lost: points of it, against {made.reference.runner}")
    head.append("times: as fast as float32, the network span")
    table = text_table(HEADER, list(map(_row, [made.reference, *made.checks])), left=2, keys=2, width=width)
    below = [f"not run: {each.what}: {each.why}" for each in made.not_run]
    commands = []
    if made.fastest is not None:
        chosen = made.fastest
        below.append(f"fastest within the limits: {chosen.file} in {chosen.backend}, {chosen.p50_ms:.3g} ms")
        commands.append(f"use it: {chosen.command}")
    verdict = f"{made.verdict}: {made.verdict_text}"
    return "\n".join([*wrapped(head, width), table, "", *wrapped(below, width), *commands, *wrapped([verdict], width)])


def _row(check: Check) -> tuple[str, ...]:
    network = None if check.latency is None else check.latency["network"]
    is_reference = not check.file
    return (
        check.file or f"{title_of(check.backend)}, the reference",
        check.backend,
        "-" if check.metric is None else f"{100 * check.metric:.2f} %",
        "-" if check.lost is None else f"{check.lost:.2f}",
        "-" if is_reference else f"{check.changed} of {check.total}",
        "-" if network is None else f"{network.p50_ms:.3g}",
        "-" if network is None else f"{network.p99_ms:.3g}",
        "-" if check.times_float32 is None else f"{check.times_float32:.2f}",
        "-" if is_reference else check.verdict,
    )

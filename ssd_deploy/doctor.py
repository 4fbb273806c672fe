"""Which backends work on this machine, and why each other does not."""

import logging
from collections.abc import Mapping, Sequence

from ssd_deploy.backends import BACKENDS, Finding
from ssd_deploy.text_table import text_table
from ssd_train.errors import BackendError

logger = logging.getLogger(__name__)


def examine() -> dict[str, Finding]:
    """Try every backend on every device, by what `Backend.places` calls them; nothing is raised, whatever is broken."""
    findings = {}
    for row in BACKENDS.values():
        for device, name in row.places():
            logger.info("trying %s", name)
            findings[name] = row.probe(device)
    return findings


def table(findings: Mapping[str, Finding], *, width: int | None = None) -> str:
    """Return what `examine` found as text.

    Args:
        width: most characters a line, at which details are broken; None for a line a backend.
    """
    rows = [(name, "yes" if finding.works else "no", finding.detail) for name, finding in findings.items()]
    return text_table(("backend", "works", "detail"), rows, left=3, width=width, wrap_last=True)


def missing(findings: Mapping[str, Finding], wanted: Sequence[str]) -> list[str]:
    """Return the backends of `wanted` that do not work here; one without a device works where one of its devices does.

    Raises:
        BackendError: there is no such backend.
    """
    for name in wanted:
        if name not in findings and name not in BACKENDS:
            known = ", ".join(dict.fromkeys((*findings, *BACKENDS)))
            raise BackendError(f"{name!r} is none of {known}", arguments=("require",))
    places = {name: [place for place in findings if place == name or place.startswith(f"{name} (")] for name in wanted}
    return [name for name, names in places.items() if not any(findings[place].works for place in names)]

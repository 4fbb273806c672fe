"""The certificate's schema, as it is published, and its page."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from browser import NEEDS_BROWSER, probe
from shipment import Shipment

from ssd_deploy.ship.certificate import NotRun, json_schema, read_certificate
from ssd_deploy.ship.page import write_certificate_page

EVIL = "<script>alert('x')</script>"

PROBE = """
<script>
const errors = [];
addEventListener("error", (event) => errors.push(String(event.message)));
addEventListener("securitypolicyviolation", (event) => errors.push("blocked " + event.blockedURI));
addEventListener("load", () => {
  const verdict = document.querySelector(".verdict").getBoundingClientRect();
  for (const each of document.querySelectorAll("details")) each.open = true;
  const result = {
    errors, dialogs: window.dialogs,
    images: [...document.images].map((image) => image.naturalWidth),
    requests: performance.getEntriesByType("resource").map((each) => each.name).filter((name) => !/^data:/.test(name)),
    width: innerWidth, needed: document.documentElement.scrollWidth, verdict: verdict.bottom,
    text: document.querySelector(".verdict").textContent,
    rows: document.querySelector("#files table").tBodies[0].rows.length,
  };
  const output = document.createElement("pre");
  output.id = "probe";
  output.textContent = JSON.stringify(result);
  (parent === window ? document : parent.document).body.append(output);
});
</script>
"""


def test_the_published_schema_is_that_of_the_classes() -> None:
    published = Path(__file__).resolve().parents[2] / "docs" / "certificate.schema.json"
    assert json.loads(published.read_text()) == json_schema()


def test_the_page_shows_every_number_of_the_table_and_its_size_can_be_mailed(whole: Shipment) -> None:
    page = whole.folder / "certificate.html"
    text = page.read_text()
    assert page.stat().st_size < 1_500_000
    for check in whole.certificate["checks"]:
        assert f"{100 * check['metric']:.2f}</td>" in text
        assert f"{check['latency']['network']['p50_ms']:.3g}</td>" in text
    for file in whole.certificate["files"]:
        # The page cannot hold its own hash.
        assert file["path"] == page.name or file["sha256"] in text


@NEEDS_BROWSER
@pytest.mark.slow
@pytest.mark.parametrize("width", [400, 1280])
def test_in_a_browser_nothing_is_loaded_and_nothing_runs_that_came_from_outside(
    whole: Shipment, tmp_path: Path, width: int
) -> None:
    made = read_certificate(whole.folder)
    hostile = dataclasses.replace(
        made,
        detector=dataclasses.replace(made.detector, weights=EVIL, class_names=[EVIL]),
        not_run=[NotRun(what=EVIL, why=EVIL)],
        verdict_text=EVIL,
    )
    page = write_certificate_page(tmp_path / "certificate.html", hostile, [])
    found: dict[str, Any] = probe(tmp_path, page, width, PROBE)
    assert (found["errors"], found["dialogs"], found["requests"]) == ([], 0, [])
    assert found["images"]
    assert all(found["images"])
    assert found["needed"] <= found["width"] == width
    # In the first screen of a phone.
    assert found["text"] == "PASS"
    assert found["verdict"] < 300
    assert found["rows"] == 1 + len(made.checks)

"""The page in a real browser: pictures load, tables sort, nothing overflows, nothing is asked of a network.

A script at the end of a copy of the page does what a person would and writes what it found into the page.
"""

from pathlib import Path

import pytest
from browser import NEEDS_BROWSER, probe

from ssd_train.report.evaluation import Evaluation
from ssd_train.report.write import write_report

pytestmark = [pytest.mark.slow, NEEDS_BROWSER]

PROBE = """
<script>
const errors = [];
addEventListener("error", (event) => errors.push(String(event.message)));
addEventListener("securitypolicyviolation", (event) => errors.push("blocked " + event.blockedURI));
function sorted(table, column) {
  return [...table.tBodies[0].rows].map((row) => row.cells[column].textContent);
}
// Without waiting for anything, so that the page around this one is not done before.
addEventListener("load", () => {
  for (const each of document.querySelectorAll("details")) each.open = true;
  const table = document.querySelector("#classes table");
  const headers = [...table.tHead.rows[0].cells];
  const clicks = {};
  for (const title of ["class", "objects", "AP07"]) {
    const column = headers.findIndex((header) => header.textContent === title);
    const button = headers[column].querySelector("button");
    clicks[title] = [];
    for (let click = 0; click < 2; click++) {
      // As a keyboard does.
      button.focus();
      document.activeElement.click();
      clicks[title].push([headers[column].ariaSort, sorted(table, column)]);
    }
  }
  const result = {
    errors, clicks,
    dialogs: window.dialogs,
    images: [...document.images].map((image) => image.naturalWidth),
    requests: performance.getEntriesByType("resource").map((each) => each.name).filter((name) => !/^data:/.test(name)),
    width: innerWidth,
    needed: document.documentElement.scrollWidth,
    wide: [...document.querySelectorAll("body *")].filter((each) => {
      return !each.closest(".scroll, .chart") && each.getBoundingClientRect().right > innerWidth + 0.5;
    }).map((each) => each.outerHTML.slice(0, 80)),
    tables: [...document.querySelectorAll(".scroll")].map((each) => getComputedStyle(each).overflowX),
    sorts: [...table.tHead.querySelectorAll("th")].filter((header) => header.ariaSort !== "none").length,
  };
  const output = document.createElement("pre");
  output.id = "probe";
  output.textContent = JSON.stringify(result);
  (parent === window ? document : parent.document).body.append(output);
});
</script>
"""


@pytest.fixture(scope="module")
def page(evaluation: Evaluation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(tmp_path_factory.mktemp("report"), evaluation)


@pytest.mark.parametrize("width", [400, 1400])
def test_the_page_works_in_a_browser(page: Path, evaluation: Evaluation, width: int, tmp_path: Path) -> None:
    found = probe(page.parent, page, width, PROBE)
    assert found["width"] == width
    assert found["errors"] == [] and found["dialogs"] == 0
    # Charts: overview, matrix, two classes; and a picture of each kind of mistake.
    assert len(found["images"]) == 9 and all(natural > 0 for natural in found["images"])
    assert found["requests"] == [], "everything is inside"
    assert found["needed"] <= width and found["wide"] == []
    assert found["tables"] and set(found["tables"]) == {"auto"}
    clicks = found["clicks"]
    (up, ascending), (down, descending) = clicks["class"]
    assert (up, down) == ("ascending", "descending") and descending == ascending[::-1]
    assert sorted(ascending) == sorted(evaluation.dataset.class_names)
    assert [values for _, values in clicks["objects"]] == [["0", "0", "2", "2"], ["2", "2", "0", "0"]]
    # What is not defined comes last either way.
    assert [values[2:] for _, values in clicks["AP07"]] == [["–", "–"]] * 2
    shares = [[float(value.split()[0]) for value in values[:2]] for _, values in clicks["AP07"]]
    assert shares[0] == sorted(shares[0]) and shares[1] == shares[0][::-1] and shares[0][0] < shares[0][1]
    assert found["sorts"] == 1, "one header says that it sorts"


def test_numbers_sort_as_numbers_and_names_as_people_count(tmp_path: Path) -> None:
    """9 before 10 in both kinds of column, in a page of its own."""
    from ssd_train.report.page import render
    from ssd_train.report.table import Column, SortableTable

    package = tmp_path / "sorted_page"
    (package / "templates").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "templates" / "page.html.j2").write_text(
        '{% extends "base.html.j2" %}{% import "parts.html.j2" as parts %}{% block title %}t{% endblock %}'
        '{% block content %}<section id="classes">{{ parts.table(data) }}</section>{% endblock %}'
    )
    columns = (
        Column(title="class"), Column(title="objects", form="count"), Column(title="AP07", form="percent"),
    )  # fmt: skip
    rows = [["image 10", 10, 0.1], ["image 9", 9, None], ["image 1", 100, 0.09]]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        values = {"data": SortableTable(columns=columns, rows=rows)}
        (tmp_path / "page.html").write_text(render("page.html.j2", values, package="sorted_page"), encoding="utf-8")
    clicks = probe(tmp_path, tmp_path / "page.html", 700, PROBE)["clicks"]
    assert clicks["class"][0][1] == ["image 1", "image 9", "image 10"]
    assert [values for _, values in clicks["objects"]] == [["9", "10", "100"], ["100", "10", "9"]]
    assert [values for _, values in clicks["AP07"]] == [["9.0 %", "10.0 %", "–"], ["10.0 %", "9.0 %", "–"]]

"use strict";
// A click on a header sorts its table, a second one turns the order round. What is not defined stays last.
for (const table of document.querySelectorAll("table.sortable")) {
  const headers = [...table.tHead.rows[0].cells];
  headers.forEach((header, column) => {
    header.querySelector("button").addEventListener("click", () => {
      const order = header.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
      headers.forEach((other) => other.setAttribute("aria-sort", other === header ? order : "none"));
      const sign = order === "ascending" ? 1 : -1;
      const isText = header.dataset.form === "text";
      const rows = [...table.tBodies[0].rows].map((row) => ({ row, key: row.cells[column].dataset.key }));
      rows.sort((a, b) => {
        if (a.key === "" || b.key === "") return (a.key === "") - (b.key === "");
        return sign * (isText ? a.key.localeCompare(b.key, "en", { numeric: true }) : a.key - b.key);
      });
      table.tBodies[0].append(...rows.map((each) => each.row));
    });
  });
}

"use strict";
const key = (row, column) => row.cells[column].dataset.value ?? row.cells[column].textContent;
const missing = value => value === "" || value === "–";

function order(one, other) {
  const numbers = Number(one) - Number(other);
  return Number.isNaN(numbers) ? one.localeCompare(other, "en", { numeric: true }) : numbers;
}

for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const first = head.classList.contains("words") ? "ascending" : "descending";
    const way = head.ariaSort === null ? first : head.ariaSort === "ascending" ? "descending" : "ascending";
    for (const other of heads) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", way);
    const rows = [...table.tBodies[0].rows].map(row => [key(row, column), row]);
    rows.sort(([one], [other]) => missing(one) - missing(other) || order(one, other) * (way === "ascending" ? 1 : -1));
    table.tBodies[0].append(...rows.map(([, row]) => row));
  }));
}

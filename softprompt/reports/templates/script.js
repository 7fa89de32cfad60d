"use strict";
// Sorting, filtering and the theme. The page is whole without this script.
(() => {
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const isDark = () =>
    root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const name = () => { button.textContent = isDark() ? "Light" : "Dark"; button.setAttribute("aria-label", `${button.textContent} theme`); };
  button.hidden = false;
  button.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; name(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", name);
  name();

  const collator = new Intl.Collator(undefined, { numeric: true });
  const valueOf = (row, column) => {
    const cell = row.cells[column];
    if (!("value" in cell.dataset)) return cell.textContent;
    return cell.dataset.value === "" ? null : Number(cell.dataset.value);
  };
  const compare = (a, b) => (typeof a === "number" ? a - b : collator.compare(a, b));

  const sort = (table, column, head) => {
    const falling = head.getAttribute("aria-sort") === "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", falling ? "descending" : "ascending");
    const body = table.tBodies[0];
    const keyed = Array.from(body.rows, (row) => [valueOf(row, column), row]);
    // What is not known stays at the end, whatever the direction.
    keyed.sort(([a], [b]) => (a === null) - (b === null) || (a === null ? 0 : (falling ? -1 : 1) * compare(a, b)));
    body.append(...keyed.map(([, row]) => row));
  };

  for (const table of document.querySelectorAll("table.sortable")) {
    Array.from(table.tHead.rows[0].cells).forEach((head, column) => {
      const control = document.createElement("button");
      control.type = "button";
      control.textContent = head.textContent;
      if (head.title) control.title = head.title;
      head.replaceChildren(control);
      control.addEventListener("click", () => sort(table, column, head));
    });
  }

  for (const data of document.querySelectorAll('.data[data-filter="yes"]')) {
    const rows = Array.from(data.querySelector("tbody").rows);
    const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
    const tools = document.createElement("div");
    tools.className = "tools";
    const label = document.createElement("label");
    label.textContent = "Filter";
    const input = document.createElement("input");
    input.type = "search";
    input.placeholder = "words that a row must have";
    const count = document.createElement("output");
    const tell = (shown) => { count.textContent = shown === rows.length ? `${rows.length} rows` : `${shown} of ${rows.length} rows`; };
    input.addEventListener("input", () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const row of rows) {
        row.hidden = !words.every((word) => texts.get(row).includes(word));
        shown += !row.hidden;
      }
      tell(shown);
    });
    tell(rows.length);
    label.append(input);
    tools.append(label, count);
    data.prepend(tools);
  }
})();

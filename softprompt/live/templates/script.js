"use strict";
// Rows come ready from the server as text; this script only puts them in place, and remembers what is chosen.
const chosen = new Set();
let shown = "";

const byId = (id) => document.getElementById(id);

function filterRows() {
  const words = byId("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const row of document.querySelectorAll("#runs tbody tr")) {
    const text = row.dataset.text.toLowerCase();
    row.hidden = !words.every((word) => text.includes(word));
  }
}

function markChosen() {
  for (const box of document.querySelectorAll("#runs input[type=checkbox]")) box.checked = chosen.has(box.value);
  byId("clear").hidden = chosen.size === 0;
  byId("comparison").hidden = chosen.size === 0;
}

async function fetched(path) {
  const answer = await fetch(path, { cache: "no-store" });
  if (!answer.ok) throw new Error(String(answer.status));
  return answer.text();
}

async function drawCurves() {
  if (chosen.size === 0) return;
  const query = new URLSearchParams([...chosen].map((name) => ["run", name]));
  const curves = await fetched(`/curves?${query}`);
  if (byId("curves").dataset.shown === curves) return;
  byId("curves").dataset.shown = curves;
  byId("curves").innerHTML = curves;
}

async function refresh() {
  if (document.hidden) return;
  try {
    const rows = await fetched("/runs");
    if (rows !== shown) {
      // The place of the reader is kept: the box that has the focus has it again.
      const focused = document.activeElement instanceof HTMLInputElement ? document.activeElement.value : null;
      const inList = byId("runs").contains(document.activeElement);
      shown = rows;
      byId("runs").innerHTML = rows;
      filterRows();
      markChosen();
      if (inList && focused !== null) {
        for (const box of document.querySelectorAll("#runs input")) if (box.value === focused) box.focus();
      }
    }
    await drawCurves();
    byId("lost").textContent = "";
  } catch {
    byId("lost").textContent = "The board does not answer any more; what is shown is old.";
  }
}

byId("filter").addEventListener("input", filterRows);
byId("clear").addEventListener("click", () => { chosen.clear(); markChosen(); });
byId("runs").addEventListener("change", (event) => {
  const box = event.target;
  if (box.checked) chosen.add(box.value); else chosen.delete(box.value);
  markChosen();
  drawCurves().catch(() => undefined);
});
setInterval(refresh, 2000);

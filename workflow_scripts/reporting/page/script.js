"use strict";
const all = (selector, root = document) => [...root.querySelectorAll(selector)];

// The batch size: shows the rows and charts of one choice.
const showBatch = (choice) => {
  for (const one of all("[data-batch]")) one.hidden = !one.dataset.batch.split(" ").includes(choice);
};
const batches = document.getElementById("batches");
const chosenBatch = () => batches.querySelector("input:checked").value;
if (batches) {
  batches.addEventListener("change", () => showBatch(chosenBatch()));
  showBatch(chosenBatch());
}

// Sorting: a click on a heading sorts by it, a second one the other way; rows without a value stay last.
const sortValue = (row, column) => {
  const cell = row.cells[column];
  const text = cell.dataset.sort ?? cell.firstChild?.textContent.trim() ?? "";
  return text === "" ? null : column && !Number.isNaN(Number(text)) ? Number(text) : text;
};
const compare = (one, other) =>
  typeof one === "number" && typeof other === "number" ? one - other : String(one).localeCompare(String(other), "en");
const sortBy = (head) => {
  const direction = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
  const sign = direction === "ascending" ? 1 : -1;
  for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", direction);
  const body = head.closest("table").tBodies[0];
  const keyed = [...body.rows].map((row) => [sortValue(row, head.cellIndex), row]);
  keyed.sort(([one], [other]) =>
    one === null || other === null ? (one === null) - (other === null) : sign * compare(one, other));
  body.append(...keyed.map(([, row]) => row));
};
for (const button of all("thead button")) button.addEventListener("click", () => sortBy(button.parentElement));

// Downloads come out of the page itself.
const data = JSON.parse(document.getElementById("data").textContent);
const downloads = {
  csv: () => new Blob([data.csv], { type: "text/csv" }),
  json: () => new Blob([JSON.stringify({ results: data.results, runs: data.runs }, null, 2)], { type: "application/json" }),
};
const download = (kind) => {
  const href = URL.createObjectURL(downloads[kind]());
  Object.assign(document.createElement("a"), { href, download: `results.${kind}` }).click();
  setTimeout(() => URL.revokeObjectURL(href), 1000);
};
for (const button of all("[data-download]")) button.addEventListener("click", () => download(button.dataset.download));

// The comparison of two results: of this page, and of the JSON that another page gave.
const comparison = document.getElementById("comparison");
const row = (...texts) => {
  const line = document.createElement("tr");
  line.append(
    ...texts.map((text, place) => {
      const cell = document.createElement(place ? "td" : "th");
      if (place) cell.dataset.label = ["this", "with", "change"][place - 1];
      else cell.scope = "row";
      cell.textContent = text;
      return cell;
    }),
  );
  return line;
};
const change = (one, other) => {
  if (one[2] === null || other[2] === null) return one[1] === other[1] ? "same" : "differs";
  if (one[0].includes("%")) return `${(one[2] - other[2]).toFixed(2)} points`;
  return other[2] ? `${(100 * (one[2] / other[2] - 1)).toFixed(1)} %` : "";
};
const showComparison = () => {
  const [one, other] = ["one", "other"].map((id) => data.runs[document.getElementById(id).value].facts);
  const labels = [...new Set([...one, ...other].map(([label]) => label))];
  const none = (label) => [label, "none", null];
  const find = (facts, label) => facts.find((fact) => fact[0] === label) ?? none(label);
  const pairs = labels.map((label) => [find(one, label), find(other, label)]);
  document
    .querySelector("#compared tbody")
    .replaceChildren(...pairs.map(([a, b]) => row(a[0], a[1], b[1], change(a, b))));
};
const offerRuns = () => {
  for (const [place, id] of ["one", "other"].entries()) {
    const list = document.getElementById(id);
    const before = list.value || String(place);
    list.replaceChildren(...data.runs.map((run, number) => new Option(run.name, number)));
    list.value = before;
  }
  showComparison();
};
const addRuns = async (file) => {
  const caption = document.querySelector("#compared-caption span");
  try {
    const { runs } = JSON.parse(await file.text());
    data.runs.push(...runs.map((run) => ({ name: `${file.name}: ${run.name}`, facts: run.facts })));
    offerRuns();
    caption.textContent = `${runs.length} results of ${file.name} can be chosen as well`;
  } catch {
    caption.textContent = `${file.name} is not the JSON of such a page: choose a file that its JSON button wrote`;
  }
};
if (comparison) {
  comparison.hidden = false;
  comparison.addEventListener("change", (event) =>
    event.target.id === "more" ? addRuns(event.target.files[0]) : showComparison(),
  );
  offerRuns();
}

// What a mark of a chart stands for, beside the pointer.
const hint = document.body.appendChild(Object.assign(document.createElement("div"), { id: "hint", hidden: true }));
hint.setAttribute("aria-hidden", "true");
document.addEventListener("pointermove", (event) => {
  const mark = event.target.closest?.("figure [aria-roledescription=point], figure [aria-roledescription=bar]");
  hint.hidden = !mark;
  if (!mark) return;
  hint.textContent = mark.getAttribute("aria-label");
  const left = Math.min(event.clientX + 14, innerWidth - hint.offsetWidth - 8);
  hint.style.left = `${Math.max(left, 4)}px`;
  hint.style.top = `${event.clientY + 16}px`;
});

// Snakemake's own report shows the page as a data: URL, from which no link leads to another file.
if (location.protocol === "data:") for (const link of all("a[href]:not([href^='#'])")) link.removeAttribute("href");

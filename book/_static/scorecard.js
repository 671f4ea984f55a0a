// Filters and order of the scorecard. Plain JavaScript: nothing is fetched or stored. Without it every row shows.
// What is chosen stands in the address, such as #verdict=inconclusive&chapter=chapter+5&order=claim, so that a
// link brings it back; #ACC-20 leads to the row of a claim, as it does without this script.
document.addEventListener("DOMContentLoaded", () => {
  "use strict";
  const place = document.querySelector(".scorecard-filters");
  const rows = [...document.querySelectorAll("[data-claim]")];
  if (!place || !rows.length) return;

  const FACETS = ["verdict", "evidence", "paper", "chapter"];
  const ORDERS = { "": "what surprises first", claim: "claim", chapter: "chapter" };
  const chosen = Object.fromEntries(FACETS.map(facet => [facet, new Set()]));
  let order = "";

  const make = (name, attributes, ...children) => {
    const element = Object.assign(document.createElement(name), attributes);
    element.append(...children);
    return element;
  };
  const keeps = (row, except) =>
    FACETS.every(facet => facet === except || !chosen[facet].size || chosen[facet].has(row.dataset[facet]));

  // --- what is shown ---

  const status = make("p", { className: "seen" });
  status.setAttribute("role", "status");
  const all = make("button", { type: "button", textContent: "show all", onclick: () => { clear(); changed(); } });
  const select = make("select", { onchange: () => { order = select.value; changed(); } },
    ...Object.entries(ORDERS).map(([value, textContent]) => make("option", { value, textContent })));

  const chips = [];
  const groups = FACETS.map(facet => {
    const values = [...new Set(rows.map(row => row.dataset[facet]))];
    if (facet === "chapter") values.sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
    const group = make("fieldset", {}, make("legend", { textContent: facet }));
    for (const value of values) {
      const count = make("span", { className: "count" });
      const chip = make("button", { type: "button", onclick: () => toggle(facet, value) }, `${value} `, count);
      chips.push({ facet, value, chip, count });
      group.append(chip);
    }
    return group;
  });
  const panel = make("details", { open: window.innerWidth > 768 },
    make("summary", { textContent: "Choose and sort" }), ...groups,
    make("p", {}, make("label", {}, "order: ", select), " ", all));
  place.append(panel, status);

  function show() {
    for (const row of rows) row.hidden = !keeps(row);
    for (const { facet, value, chip, count } of chips) {
      chip.setAttribute("aria-pressed", chosen[facet].has(value));
      count.textContent = rows.filter(row => row.dataset[facet] === value && keeps(row, facet)).length;
    }
    const shown = rows.filter(row => !row.hidden).length;
    const filtered = FACETS.some(facet => chosen[facet].size);
    status.textContent = `${shown} of ${rows.length} claims`;
    all.hidden = !filtered && !order;
    select.value = order;
    // What holds no row any more: the folded lists of papers, and whole sections.
    const holders = new Set(rows.flatMap(row => [row.closest("details"), row.closest("section")]));
    for (const holder of holders) {
      if (!holder) continue;
      const left = [...holder.querySelectorAll("[data-claim]")].some(row => !row.hidden);
      holder.hidden = !left;
      if (holder.tagName === "DETAILS") holder.open = filtered && left;
    }
  }

  const NATURAL = { numeric: true };
  rows.forEach((row, index) => { row.place = index; });
  function sort() {
    const by = (a, b) =>
      (order && a.dataset[order].localeCompare(b.dataset[order], "en", NATURAL)) || a.place - b.place;
    for (const row of [...rows].sort(by)) row.parentElement.append(row);
  }

  // --- what is chosen, and the address ---

  function clear() {
    for (const facet of FACETS) chosen[facet].clear();
    order = "";
  }

  function toggle(facet, value) {
    if (!chosen[facet].delete(value)) chosen[facet].add(value);
    changed();
  }

  function changed() {
    const said = new URLSearchParams();
    for (const facet of FACETS) for (const value of chosen[facet]) said.append(facet, value);
    if (order) said.append("order", order);
    history.replaceState(null, "", `${said}` ? `#${said}` : location.pathname + location.search);
    sort();
    show();
  }

  function arrive() {
    const fragment = decodeURIComponent(location.hash.slice(1));
    const said = new URLSearchParams(location.hash.slice(1));
    clear();
    for (const facet of FACETS) {
      const known = chips.filter(chip => chip.facet === facet).map(chip => chip.value);
      for (const value of said.getAll(facet)) if (known.includes(value)) chosen[facet].add(value);
    }
    if (said.get("order") in ORDERS) order = said.get("order");
    sort();
    show();
    const row = rows.find(each => each.dataset.claim === fragment);
    if (row) {
      if (row.closest("details")) row.closest("details").open = true;
      row.scrollIntoView({ behavior: "instant" });
    } else if (FACETS.some(facet => chosen[facet].size)) {
      place.scrollIntoView({ behavior: "instant" });
    }
  }

  window.addEventListener("hashchange", arrive);
  arrive();
});

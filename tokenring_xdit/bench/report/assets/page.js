"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const by = (id) => document.getElementById(id);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const paper = matchMedia("print");
  const coarse = matchMedia("(pointer: coarse)");
  const PAPER_WIDTH = 690; // fits A4 and letter between margins of 12 mm
  const PAPER_HEIGHT = 0.8; // three plots a page
  const config = {
    displaylogo: false,
    responsive: true,
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
    toImageButtonOptions: { format: "svg" },
  };
  const hidden = new Set();
  const drawn = new Map(); // elements, and the plot that each shows
  let printing = false;

  // -- drawing ----------------------------------------------------------------------------------

  function themed(value, theme) {
    if (typeof value === "string") return Object.hasOwn(theme, value) ? theme[value] : value;
    if (Array.isArray(value)) return value.map((entry) => themed(entry, theme));
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, entry]) => [key, themed(entry, theme)]));
  }

  function draw(element) {
    const plot = drawn.get(element);
    const theme = data.theme[dark.matches && !printing ? "dark" : "light"];
    const traces = plot.data.filter((trace) => !hidden.has(trace.meta.strategy)).map((trace) => themed(trace, theme));
    const layout = themed(plot.layout, theme);
    const width = printing ? PAPER_WIDTH : element.clientWidth;
    if (printing) {
      layout.width = PAPER_WIDTH;
      layout.height = Math.round(layout.height * PAPER_HEIGHT);
    }
    if (layout.showlegend) {
      const entries = traces.filter((trace) => trace.showlegend !== false).length;
      layout.height += 20 * Math.ceil(entries / Math.max(1, Math.floor(width / 170)));
    }
    if (width < 480) layout.font.size = 11;
    if (coarse.matches) layout.dragmode = false; // a finger scrolls the page
    if (plot.range) layout.xaxis.range = plot.range;
    if (layout.height) element.style.height = `${layout.height}px`;
    Plotly.react(element, traces, layout, { ...config, responsive: !printing });
  }

  function figure(into, plot, heading, note, wide) {
    const outer = document.createElement("figure");
    const title = document.createElement("h3");
    const element = document.createElement("div");
    const caption = document.createElement("figcaption");
    title.textContent = heading;
    caption.textContent = note;
    element.className = "plot";
    element.setAttribute("role", "img");
    element.setAttribute("aria-label", `${heading}. ${note} The table has the figures.`);
    if (wide) outer.className = "wide";
    outer.append(title, element, caption);
    into.append(outer);
    drawn.set(element, plot);
    return element;
  }

  function clear(into) {
    for (const element of into.querySelectorAll(".plot")) {
      Plotly.purge(element);
      drawn.delete(element);
    }
    into.replaceChildren();
  }

  const redraw = () => {
    for (const element of drawn.keys()) draw(element);
  };

  // -- plots ------------------------------------------------------------------------------------

  function option(into, text, value) {
    const entry = document.createElement("option");
    entry.textContent = text;
    entry.value = value;
    into.append(entry);
  }

  function offerViews() {
    const views = data.settings[Number(by("setting")?.value ?? 0)].views;
    const select = by("view");
    select.replaceChildren();
    const groups = new Map();
    views.forEach((view, place) => {
      if (!groups.has(view.group)) {
        const group = document.createElement("optgroup");
        group.label = view.group;
        groups.set(view.group, group);
        select.append(group);
      }
      option(groups.get(view.group), view.label, place);
    });
    by("view-label").hidden = views.length < 2;
    showView();
  }

  function showView() {
    const setting = data.settings[Number(by("setting")?.value ?? 0)];
    const view = setting.views[Number(by("view").value)];
    const grid = by("grid");
    clear(grid);
    const others = data.settings.reduce((count, each) => count + each.views.length, 0) - 1;
    by("printed").textContent =
      `${setting.label}, ${view.label}.` + (others ? ` On a screen the report has ${others} more of these.` : "");
    const traced = new Set((data.timelines ?? []).flatMap((problem) => problem.plots.map((plot) => plot.strategy)));
    for (const chip of document.querySelectorAll(".chip")) {
      chip.hidden = !view.strategies.includes(chip.dataset.strategy) && !traced.has(chip.dataset.strategy);
    }
    for (const plot of view.figures) figure(grid, plot, plot.title, plot.note, plot.key === "links");
    for (const element of grid.querySelectorAll(".plot")) draw(element);
  }

  // -- timelines --------------------------------------------------------------------------------

  const lanes = () => [...(by("lanes")?.querySelectorAll(".plot") ?? [])];

  function showTimelines() {
    const problem = data.timelines[Number(by("traced")?.value ?? 0)];
    clear(by("lanes"));
    for (const plot of problem.plots) {
      const heading = `${plot.label}: ${plot.time}`;
      const element = figure(by("lanes"), { ...plot, range: null }, heading, `${plot.words}.`, false);
      element.parentElement.dataset.strategy = plot.strategy;
      draw(element);
      element.on("plotly_relayout", (change) => {
        const [from, to] = [change["xaxis.range[0]"], change["xaxis.range[1]"]];
        if (from !== undefined && to !== undefined) zoom([from, to]);
        else if (change["xaxis.autorange"]) zoom(null);
      });
    }
    hideTimelines();
  }

  function hideTimelines() {
    for (const element of lanes()) element.parentElement.hidden = hidden.has(element.parentElement.dataset.strategy);
  }

  function zoom(range) {
    for (const element of lanes()) {
      const plot = drawn.get(element);
      if (String(plot.range) === String(range)) continue;
      plot.range = range;
      draw(element);
    }
  }

  const ZOOMS = {
    in: (from, to) => [from + (to - from) / 4, to - (to - from) / 4],
    out: (from, to) => [from - (to - from) / 2, to + (to - from) / 2],
    earlier: (from, to) => [from - (to - from) / 4, to - (to - from) / 4],
    later: (from, to) => [from + (to - from) / 4, to + (to - from) / 4],
  };

  function press(how) {
    const plot = drawn.get(lanes()[0]);
    const whole = plot.layout.xaxis.range;
    let [from, to] = ZOOMS[how] ? ZOOMS[how](...(plot.range ?? whole)) : whole;
    if (to - from >= whole[1]) return zoom(null);
    if (from < whole[0]) [from, to] = [whole[0], to - from + whole[0]];
    if (to > whole[1]) [from, to] = [from - to + whole[1], whole[1]];
    zoom([from, to]);
  }

  // -- the table --------------------------------------------------------------------------------

  const table = by("table");
  const body = table.tBodies[0];
  const headers = [...table.tHead.rows[0].cells];

  function sortBy(column) {
    const header = headers[column];
    const direction = header.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
    for (const other of headers) other.setAttribute("aria-sort", other === header ? direction : "none");
    const numeric = header.classList.contains("number");
    const sign = direction === "ascending" ? 1 : -1;
    const rows = [...body.rows].map((row) => [row.cells[column].dataset.order, row]);
    rows.sort(([one], [other]) => {
      if (one === "" || other === "") return (one === "") - (other === ""); // what is missing comes last
      return sign * (numeric ? Number(one) - Number(other) : one.localeCompare(other, "en", { numeric: true }));
    });
    body.append(...rows.map(([, row]) => row));
  }

  function filter() {
    const words = by("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const row of body.rows) {
      const text = [...row.cells].map((cell) => cell.textContent.toLowerCase()).join(" ");
      row.hidden = !words.every((word) => text.includes(word));
      count += !row.hidden;
    }
    by("shown").textContent = `${count} of ${body.rows.length} cases`;
  }

  // -- what happens when ------------------------------------------------------------------------

  headers.forEach((header, column) => header.firstElementChild.addEventListener("click", () => sortBy(column)));
  by("filter").addEventListener("input", filter);
  for (const chip of document.querySelectorAll(".chip")) {
    chip.addEventListener("click", () => {
      const shown = chip.getAttribute("aria-pressed") !== "true";
      chip.setAttribute("aria-pressed", String(shown));
      if (shown) hidden.delete(chip.dataset.strategy);
      else hidden.add(chip.dataset.strategy);
      hideTimelines();
      redraw();
    });
  }
  if (data.settings.length) {
    by("setting")?.addEventListener("change", offerViews);
    by("view").addEventListener("change", showView);
    offerViews();
  }
  if (data.timelines.length) {
    by("traced")?.addEventListener("change", showTimelines);
    for (const button of document.querySelectorAll("[data-zoom]")) {
      button.addEventListener("click", () => press(button.dataset.zoom));
    }
    showTimelines();
  }
  function print(now) {
    if (printing === now) return;
    printing = now;
    redraw();
  }
  dark.addEventListener("change", redraw);
  paper.addEventListener("change", () => print(paper.matches));
  addEventListener("beforeprint", () => print(true));
  addEventListener("afterprint", () => print(false));
})();

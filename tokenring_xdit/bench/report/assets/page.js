"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const by = (id) => document.getElementById(id);
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const narrow = matchMedia("(max-width: 560px)");
  const PAPER_WIDTH = 690; // fits A4 and letter between margins of 12 mm
  const PAPER_HEIGHT = 0.8; // three plots a page
  const hidden = new Set(); // strategies
  let printing = false;
  let range = null; // what timelines show, where that is not the whole call

  // -- Vega, which is packed: the page's policy knows its digest, so that nothing else can be unpacked ------------

  async function unpack() {
    const packed = Uint8Array.from(atob(by("library").textContent), (letter) => letter.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
  }
  const ready = unpack();
  ready.catch(() => by("grid")?.replaceChildren("This browser cannot unpack the plots; the table has all figures."));

  // -- plots: Vega draws them, and this says which, in which theme and how wide --------------------

  const strategies = (figure) => JSON.parse(figure.dataset.strategies);

  // One drawing of a figure follows another, so that what was asked for last is what stays.
  function draw(figure) {
    const before = figure.drawn ?? ready;
    figure.setAttribute("aria-busy", "true");
    const drawn = before.then(() => embed(figure));
    figure.drawn = drawn;
    drawn.then(() => figure.drawn === drawn && figure.removeAttribute("aria-busy"));
  }

  async function embed(figure) {
    const shown = strategies(figure).filter((name) => !hidden.has(name));
    figure.hidden = !shown.length;
    if (figure.hidden) return;
    const element = figure.querySelector(".plot");
    const plot = data.plots[element.dataset.plot];
    const values = { ...plot.parameters, shown };
    if (range && "range" in values) values.range = range;
    if (narrow.matches && !printing) values.columns = 2;
    const chart = data.charts[plot.chart];
    const params = chart.params.map((each) => (each.name in values ? { ...each, value: values[each.name] } : each));
    const spec = { ...chart, params, data: { name: data.name, values: plot.rows } };
    if (printing) {
      spec.width = PAPER_WIDTH;
      spec.height *= PAPER_HEIGHT;
    }
    const theme = dark.matches && !printing ? "dark" : "light";
    element.style.minHeight = `${element.offsetHeight}px`; // the page does not jump while its plots are drawn again
    element.view?.finalize();
    const { view } = await vegaEmbed(element, spec, {
      mode: "vega-lite",
      ast: true, // nothing is compiled, as the page's policy demands
      renderer: "svg",
      config: data.themes[theme],
      tooltip: { theme },
      defaultStyle: false,
      downloadFileName: figure.querySelector("h3").textContent,
      actions: { export: true, source: false, compiled: false, editor: false },
      i18n: { SVG_ACTION: "SVG", PNG_ACTION: "PNG" },
    });
    element.view = view;
    element.style.minHeight = "";
    if ("range" in values) zoomWith(view);
  }

  const redraw = () => all("figure").forEach(draw);

  function fill(into, from) {
    for (const element of all(".plot", by(into))) element.view?.finalize();
    by(into).replaceChildren(by(from).content.cloneNode(true));
    const present = new Set(all("figure").flatMap(strategies));
    for (const chip of all(".chip")) chip.hidden = !present.has(chip.dataset.strategy);
    all("figure", by(into)).forEach(draw);
  }

  function offerViews() {
    fill("view", by("setting").value);
    by("view-label").hidden = by("view").options.length < 2;
    fill("grid", by("view").value);
  }

  // -- timelines, which zoom together --------------------------------------------------------------

  const lanes = () => all("#lanes .plot").filter((element) => element.view);
  const whole = () => data.plots[by("lanes").querySelector(".plot").dataset.plot].parameters.range;

  function zoom(to) {
    range = to;
    for (const element of lanes()) element.view.signal("range", to ?? whole()).runAsync();
  }

  function zoomWith(view) {
    let marked = null;
    view.addSignalListener("brush", (_, brush) => {
      const [found] = Object.values(brush);
      if (!found && marked && marked[1] > marked[0]) zoom(marked); // let go
      marked = found ?? null;
    });
  }

  const ZOOMS = {
    in: (from, to) => [from + (to - from) / 4, to - (to - from) / 4],
    out: (from, to) => [from - (to - from) / 2, to + (to - from) / 2],
    earlier: (from, to) => [from - (to - from) / 4, to - (to - from) / 4],
    later: (from, to) => [from + (to - from) / 4, to + (to - from) / 4],
    all: () => whole(),
  };

  function press(how) {
    const [first, last] = whole();
    let [from, to] = ZOOMS[how](...(range ?? [first, last]));
    if (to - from >= last) return zoom(null);
    if (from < first) [from, to] = [first, to - from + first];
    if (to > last) [from, to] = [from - to + last, last];
    zoom([from, to]);
  }

  // -- the table -----------------------------------------------------------------------------------

  const body = by("table").tBodies[0];
  const headers = [...by("table").tHead.rows[0].cells];

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
    for (const row of body.rows) {
      const text = [...row.cells].map((cell) => cell.textContent.toLowerCase()).join(" ");
      row.hidden = !words.every((word) => text.includes(word));
    }
    by("shown").textContent = `${all("tr:not([hidden])", body).length} of ${body.rows.length} cases`;
  }

  // -- tables that are wider than the page say so -----------------------------------------------------

  function edges(box) {
    const wider = box.scrollWidth > box.clientWidth + 1;
    box.classList.toggle("more", wider && box.scrollLeft + box.clientWidth < box.scrollWidth - 1);
    box.previousElementSibling.hidden = !wider;
  }

  // -- what happens when ---------------------------------------------------------------------------

  const on = (target, event, act) => target?.addEventListener(event, act);
  headers.forEach((header, column) => on(header.firstElementChild, "click", () => sortBy(column)));
  const width = new ResizeObserver((boxes) => boxes.forEach(({ target }) => edges(target)));
  for (const box of all(".scroll")) {
    on(box, "scroll", () => edges(box));
    width.observe(box);
  }
  on(by("filter"), "input", filter);
  for (const chip of all(".chip")) {
    on(chip, "click", () => {
      const shown = chip.getAttribute("aria-pressed") !== "true";
      chip.setAttribute("aria-pressed", String(shown));
      hidden[shown ? "delete" : "add"](chip.dataset.strategy);
      redraw();
    });
  }
  on(by("setting"), "change", offerViews);
  on(by("view"), "change", () => fill("grid", by("view").value));
  on(by("traced"), "change", () => {
    range = null;
    fill("lanes", by("traced").value);
  });
  for (const button of all("[data-zoom]")) on(button, "click", () => press(button.dataset.zoom));
  if (by("traced")) fill("lanes", by("traced").value);
  if (by("setting")) offerViews();
  function print(now) {
    if (printing === now) return;
    printing = now;
    redraw();
  }
  const paper = matchMedia("print");
  on(dark, "change", redraw);
  on(narrow, "change", redraw);
  on(paper, "change", () => print(paper.matches));
  on(window, "beforeprint", () => print(true));
  on(window, "afterprint", () => print(false));
})();

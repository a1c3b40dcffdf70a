// Watch: what the server is doing, looked at every second while it is shown.

import { ask, readiness } from "./api.js";
import { find, seconds, tell } from "./forms.js";
import { histogram, named, samples, total } from "./metrics.js";

const LOOK = 1000; // milliseconds
const SHOWN = 25; // requests, the newest
const REMEMBERED = 60; // points of the line of step times

const pace = [];
let before = null;

/** Look again and again, as long as the page is shown. */
export async function watching() {
  for (;;) {
    if (!find("watch").hidden && !document.hidden) await look();
    await new Promise((resolve) => setTimeout(resolve, LOOK));
  }
}

/** Look once. */
export async function look() {
  try {
    const [state, text, list] = await Promise.all([
      readiness(),
      ask("metrics").then((answer) => answer.text()),
      ask(`v1/requests?limit=${SHOWN}`).then((answer) => answer.json()),
    ]);
    show(state, samples(text), list.data.reverse());
    tell(find("watch-problem"), null);
  } catch (error) {
    tell(find("watch-problem"), error.message);
  }
}

function show(state, all, requests) {
  showCounts(state, all);
  showTimes(all);
  showRanks(all);
  showGpus(all);
  showRequests(all, requests);
}

function showCounts(state, all) {
  const done = (outcome) => total(all, "tokenring_requests_total", { outcome });
  const tiles = [
    ["Server", state.status],
    ["Running", total(all, "tokenring_requests_running")],
    ["Waiting", total(all, "tokenring_requests_waiting")],
    ...["done", "failed", "cancelled", "refused"].map((word) => [word[0].toUpperCase() + word.slice(1), done(word)]),
    ["Restarts", total(all, "tokenring_world_restarts_total")],
  ];
  find("counts").replaceChildren(
    ...tiles.map(([title, value]) => made("div", [made("dt", [title]), made("dd", [String(value)])])),
  );
}

function showTimes(all) {
  const text = named(all, "tokenring_token_duration_seconds_count").length > 0;
  const name = text ? "tokenring_token_duration_seconds" : "tokenring_step_duration_seconds";
  const one = text ? "token" : "step";
  const { count, sum, buckets } = histogram(all, name);
  find("times-title").textContent = text ? "Token times" : "Step times";
  const words = count ? `${seconds(sum / count)} a ${one} on average` : `No ${one} was timed yet.`;
  find("times-words").textContent = count && !text ? `${words}, of ${count} steps.` : words;
  if (before && count > before.count) pace.push((sum - before.sum) / (count - before.count));
  before = { count, sum };
  pace.splice(0, pace.length - REMEMBERED);
  showPace();
  const some = buckets.findIndex((bucket) => bucket.count);
  const last = buckets.findLastIndex((bucket) => bucket.count);
  const most = Math.max(...buckets.map((bucket) => bucket.count));
  find("times").replaceChildren(
    ...(some < 0 ? [] : buckets.slice(some, last + 1)).flatMap((bucket) => {
      const bar = document.createElement("i");
      bar.style.width = `${(100 * bucket.count) / most}%`;
      const most_words = Number.isFinite(bucket.most) ? `to ${seconds(bucket.most)}` : "longer";
      return [made("span", [most_words]), made("span", [bar]), made("span", [String(bucket.count)])];
    }),
  );
}

function showPace() {
  const most = Math.max(...pace);
  const points = pace.map((each, i) => `${(600 * i) / Math.max(1, pace.length - 1)},${78 - (74 * each) / most}`);
  const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
  line.setAttribute("points", points.join(" "));
  find("pace").toggleAttribute("hidden", pace.length < 2);
  find("pace").replaceChildren(line);
}

function showRanks(all) {
  const world = named(all, "tokenring_schedule_info")[0]?.labels;
  const degrees = world ? `Schedule ${world.schedule}, ${world.tokenring} TokenRing x ${world.ulysses} Ulysses` : "";
  const why = named(all, "tokenring_world_restarts_total").filter((each) => each.value);
  const restarts = why.map((each) => `${each.value} ${each.labels.reason}`).join(", ");
  find("world").textContent = `${degrees}${restarts ? `; ranks started again: ${restarts}` : ""}.`;
  const rows = named(all, "tokenring_rank_up").map(({ labels: { rank }, value }) => {
    const memory = named(all, "tokenring_rank_memory_bytes").filter((each) => each.labels.rank === rank);
    const sizes = memory.map((each) => `${bytes(each.value)}${memory.length > 1 ? ` ${each.labels.kind}` : ""}`);
    return [rank, value ? "up" : { text: "down", bad: true }, { text: sizes.join(", "), number: true }];
  });
  table("ranks", ["Rank", "", { text: "Memory", number: true }], rows);
}

function showGpus(all) {
  const told = (name, gpu) => named(all, name).find((each) => each.labels.gpu === gpu)?.value;
  const words = (value, write) => ({ text: value === undefined ? "" : write(value), number: true });
  const gpus = [...new Set(all.filter((each) => each.name.startsWith("hw_gpu_")).map((each) => each.labels.gpu))].sort((one, other) => one - other);
  find("gpus-card").hidden = !gpus.length;
  const rows = gpus.map((gpu) => [
    gpu,
    words(told("hw_gpu_utilization_ratio", gpu), (share) => `${Math.round(100 * share)} %`),
    words(told("hw_gpu_memory_usage_bytes", gpu), bytes),
    words(told("hw_gpu_memory_limit_bytes", gpu), bytes),
    words(told("hw_gpu_power_watts", gpu), (watts) => `${Math.round(watts)} W`),
  ]);
  table("gpus", ["GPU", ...["Busy", "Memory", "of", "Power"].map((text) => ({ text, number: true }))], rows);
}

function showRequests(all, requests) {
  const { count, sum } = histogram(all, "tokenring_forecast_duration_ratio");
  const ratio = `Requests took ${(sum / count).toFixed(2)} times what was forecast, on average of ${count}.`;
  find("forecast").textContent = count ? ratio : "No forecast was compared with a request yet.";
  const time = (value) => ({ text: value === null ? "" : seconds(value), number: true });
  const rows = requests.map((each) => [
    { text: each.id, wide: true },
    { text: each.kind, wide: true },
    each.status === "failed" ? { text: each.error ?? each.status, bad: true } : each.status,
    { text: `${each.step} of ${each.steps}`, number: true },
    time(each.seconds_left),
    time(each.seconds_forecast),
    time(each.seconds),
  ]);
  const titles = ["Steps", "Left", "Forecast", "Real"].map((text) => ({ text, number: true }));
  table("requests", [{ text: "Request", wide: true }, { text: "Kind", wide: true }, "", ...titles], rows);
}

function table(id, titles, rows) {
  const row = (kind, each) => made("tr", each.map((one) => cell(kind, one)));
  const body = made("tbody", rows.map((each) => row("td", each)));
  find(id).replaceChildren(made("thead", [row("th", titles)]), body);
}

function cell(kind, content) {
  const { text, number = false, wide = false, bad = false } = typeof content === "object" ? content : { text: content };
  const element = made(kind, [String(text)]);
  for (const [name, is] of Object.entries({ number, wide, bad })) element.classList.toggle(name, is);
  return element;
}

function made(kind, content) {
  const element = document.createElement(kind);
  element.append(...content);
  return element;
}

const bytes = (value) => (value < 2 ** 30 ? `${Math.round(value / 2 ** 20)} MiB` : `${(value / 2 ** 30).toFixed(1)} GiB`);

// Reads what /metrics says.

const LINE = /^([A-Za-z_:][\w:]*)(?:\{(.*)\})? (\S+)/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;

/** Samples of Prometheus' text, as {name, labels, value}. */
export function samples(text) {
  const found = [];
  for (const each of text.split("\n")) {
    const match = each.startsWith("#") ? null : LINE.exec(each);
    if (match) {
      const labels = Object.fromEntries([...(match[2] ?? "").matchAll(LABEL)].map((label) => [label[1], label[2]]));
      found.push({ name: match[1], labels, value: Number(match[3].replace("Inf", "Infinity")) });
    }
  }
  return found;
}

/** Those of a name. */
export const named = (all, name) => all.filter((each) => each.name === name);

/** The sum of those of a name, over all labels or some. */
export function total(all, name, labels = {}) {
  const wanted = named(all, name).filter((each) => Object.entries(labels).every(([k, v]) => each.labels[k] === v));
  return wanted.reduce((sum, each) => sum + each.value, 0);
}

/** A histogram: how often, the sum, and {most, count} of each bucket. */
export function histogram(all, name) {
  let below = 0;
  const buckets = named(all, `${name}_bucket`).map(({ labels, value }) => {
    const bucket = { most: Number(labels.le.replace("+Inf", "Infinity")), count: value - below };
    below = value;
    return bucket;
  });
  return { count: total(all, `${name}_count`), sum: total(all, `${name}_sum`), buckets };
}

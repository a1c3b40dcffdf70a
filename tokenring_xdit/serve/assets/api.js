// Speaks to this server as any of its clients does, with the key that was entered here.

const KEPT = "tokenring-key";

/** What the server answered instead of what was wanted. */
export class Refusal extends Error {
  constructor(status, { message, param = null, code = null }) {
    super(message);
    Object.assign(this, { status, param, code });
  }
}

/** Take a key for this tab, until it is closed. */
export function enter(key) {
  sessionStorage.setItem(KEPT, key.trim());
}

/** A name for a request, so that it can be asked about and cancelled before anything was answered. */
export function newName() {
  const numbers = crypto.getRandomValues(new Uint32Array(4));
  return "page-" + [...numbers].map((number) => number.toString(16).padStart(8, "0")).join("");
}

/** What ends a request, as leaving the page does: else browsers keep it open for somebody who may come back. */
export function ending() {
  const controller = new AbortController();
  window.addEventListener("pagehide", () => controller.abort(), { signal: controller.signal });
  return controller;
}

/** Ask; the answer, or a Refusal. Paths have no slash in front, so that a proxy may put one before them. */
export async function ask(path, { method = "GET", body, name, signal } = {}) {
  const headers = {};
  const key = sessionStorage.getItem(KEPT);
  if (key) headers.Authorization = "Bearer " + String.fromCharCode(...new TextEncoder().encode(key));
  const form = body instanceof FormData; // of which the browser says the type itself
  if (body !== undefined && !form) headers["Content-Type"] = "application/json";
  if (name) headers["X-Request-Id"] = name;
  let response;
  try {
    const content = form ? body : body && JSON.stringify(body);
    response = await fetch(path, { method, headers, body: content, signal, cache: "no-store" });
  } catch (error) {
    throw error.name === "AbortError" ? error : new Refusal(0, { message: "The server does not answer." });
  }
  if (response.ok) return response;
  const said = await response.json().catch(() => ({}));
  if (response.status === 401) window.dispatchEvent(new Event("locked"));
  throw new Refusal(response.status, said.error ?? { message: `The server answered with ${response.status}.` });
}

/** Whether requests are served, and else why not; needs no key. */
export async function readiness() {
  try {
    return await (await fetch("ready", { cache: "no-store" })).json();
  } catch {
    return { status: "gone", reason: "it does not answer" };
  }
}

/** What a stream of server-sent events says, as objects. */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    let piece;
    try {
      piece = await reader.read();
    } catch (error) {
      throw error.name === "AbortError" ? error : new Refusal(0, { message: "The connection was lost." });
    }
    if (piece.done) return;
    const blocks = (rest + piece.value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const data = block.split("\n").find((line) => line.startsWith("data: "))?.slice(6);
      if (data && data !== "[DONE]") yield JSON.parse(data);
    }
  }
}

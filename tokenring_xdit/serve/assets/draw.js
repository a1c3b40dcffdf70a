// Generate: one picture or video at a time, by the paths that every client uses; leaving the page cancels it.

import { ask, ending, events, newName, Refusal } from "./api.js";
import { attend, blame, find, forgive, seconds, tell, values } from "./forms.js";

const LOOK = 500; // milliseconds between two questions how far it is
const EVERY = 500; // previews, as many as may be asked for: after each step

/** Make the form work for a model, as /v1/models describes it. */
export function drawing(model) {
  const form = find("order");
  const film = model.kind === "video";
  const taken = { ...model.defaults, ...model.pictures };
  find("image").multiple = model.limits.pictures > 1;
    for (const field of form.querySelectorAll(".field")) {
    const { field: name } = field.dataset;
    if (name === "partial_images") field.hidden = film;
    else if (!["prompt", "seed"].includes(name)) {
      field.hidden = !(name in taken);
      field.querySelector("input").placeholder = taken[name] ?? "";
    }
  }
  attend(form);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    forgive(form);
    tell(find("problem"), null);
    const body = values(form);
    const edits = body && (model.pictures?.image === "needed" || body.image || body.mask);
    if (body) new Sketch(body, film, edits).make();
  });
}

/** One request. */
class Sketch {
  constructor(body, film, edits) {
    [this.film, this.edits] = [film, edits];
    this.body = film ? body : { ...body, stream: true };
    this.previews = !film && find("preview").checked;
    if (this.previews) this.body.partial_images = EVERY;
    this.name = newName();
    this.step = 0;
    this.marks = []; // when steps were seen to be over, and how many
    this.leaving = ending();
  }

  async make() {
    const began = performance.now();
    this.show(true);
    this.look();
    try {
      const body = this.edits ? asForm(this.body) : this.body;
      const wanted = { method: "POST", body, name: this.name, signal: this.leaving.signal };
      if (this.film) await this.takeVideo(await ask("v1/videos/sync", wanted));
      else await this.takePicture(await ask(this.edits ? "v1/images/edits" : "v1/images/generations", wanted));
      find("caption").textContent += `, ${seconds((performance.now() - began) / 1000)}`;
    } catch (error) {
      this.fail(error);
    }
    this.over = true;
    this.show(false);
  }

  async takePicture(response) {
    for await (const event of events(response)) {
      if (event.type === "error") throw new Refusal(0, event.error);
      const done = event.type.endsWith(".completed");
      this.reveal(asBlob(event.b64_json, "image/png"), done);
      const words = done ? `${event.size}, seed ${event.seed}` : `Preview ${event.partial_image_index + 1}`;
      find("caption").textContent = words;
      if (done) return;
    }
    throw new Refusal(0, { message: "The connection was lost." });
  }

  async takeVideo(response) {
    this.reveal(await response.blob(), true);
    find("caption").textContent = `Seed ${response.headers.get("X-Seed")}`;
  }

  reveal(blob, done) {
    const url = URL.createObjectURL(blob);
    const [shown, other] = this.film ? [find("video"), find("picture")] : [find("picture"), find("video")];
    URL.revokeObjectURL(shown.src);
    shown.src = url;
    shown.alt = this.body.prompt;
    [shown.hidden, other.hidden, find("made").hidden, find("save").hidden] = [false, true, false, !done];
    find("made").classList.toggle("partial", !done);
    find("save").href = url;
    find("save").download = this.film ? "video.mp4" : "picture.png";
  }

  fail(error) {
    if (error.name === "AbortError" || error.code === "cancelled") {
      const far = this.steps ? ` at step ${this.step} of ${this.steps}` : "";
      tell(find("problem"), `Cancelled${far}.`);
    } else if (!(error instanceof Refusal)) {
      tell(find("problem"), String(error));
    } else if (!blame(find("order"), error.param, error.message)) {
      tell(find("problem"), error.message);
    }
  }

  async cancel() {
    find("cancel").disabled = true;
    try {
      await ask(`v1/requests/${this.name}`, { method: "DELETE" });
    } catch {
      this.leaving.abort(); // the server does not know it, or does not answer
    }
  }

  /** Ask how far it is until it is over. */
  async look() {
    while (!this.over) {
      await new Promise((resolve) => setTimeout(resolve, LOOK));
      if (this.over) return;
      try {
        const state = await (await ask(`v1/requests/${this.name}`)).json();
        if (!this.over) this.tellOf(state);
      } catch {
        // not taken yet, or the server says in the answer itself what is wrong
      }
    }
  }

  tellOf(state) {
    [this.step, this.steps] = [state.step, state.steps];
    if (state.step && state.step !== this.marks.at(-1)?.[1]) this.marks.push([performance.now() / 1000, state.step]);
    const left = this.left(state);
    const soon = left === null ? "" : `, about ${seconds(left)} left`;
    const waits = state.status === "queued";
    const [bar, words] = [find("progress"), find("progress-words")];
    if (waits || !state.step) bar.removeAttribute("value");
    else [bar.max, bar.value] = [state.steps, state.step];
    if (state.status === "cancelled") words.textContent = "Cancelling";
    else words.textContent = waits ? `Waiting in the queue${soon}` : `Step ${state.step} of ${state.steps}${soon}`;
  }

  /** Seconds that are left: by the pace of this request, which previews slow down, or by the server's forecast. */
  left(state) {
    const [first, last] = [this.marks[0], this.marks.at(-1)];
    if ((state.seconds_left === null || this.previews) && last && last[1] > first[1])
      return ((last[0] - first[0]) / (last[1] - first[1])) * (state.steps - last[1]);
    return state.seconds_left;
  }

  show(busy) {
    find("begin").disabled = busy;
    for (const id of ["cancel", "progress", "progress-words"]) find(id).hidden = !busy;
    find("cancel").disabled = false;
    find("cancel").onclick = busy ? () => this.cancel() : null;
    find("empty").hidden = busy || !find("made").hidden;
    if (busy) {
      [find("made").hidden, find("save").hidden] = [true, true];
      find("progress").removeAttribute("value");
      find("progress-words").textContent = "Sending the request";
      const below = find("progress").getBoundingClientRect().top > find("begin").getBoundingClientRect().top; // phones
      if (below) find("progress").parentElement.scrollIntoView({ block: "start" });
    }
  }
}

function asForm(body) {
  const form = new FormData();
  for (const [name, value] of Object.entries(body)) for (const each of [value].flat()) form.append(name, each);
  return form;
}

function asBlob(text, type) {
  return new Blob([Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0))], { type });
}

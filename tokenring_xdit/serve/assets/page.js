// The page: asks for the key where there is one, then for the model, and shows what that is for.

import { ask, enter, readiness } from "./api.js";
import { chatting } from "./chat.js";
import { drawing } from "./draw.js";
import { blame, find, forgive } from "./forms.js";
import { look, watching } from "./watch.js";

const LOOK = 2000; // milliseconds between two looks whether the server is ready
const TABS = ["draw", "chat", "watch"];

let entered = false;

async function begin() {
  let model;
  try {
    model = (await (await ask("v1/models")).json()).data[0];
  } catch (error) {
    if (error.status === 401) blame(find("login"), "key", entered ? "This is not its key." : null);
    else setTimeout(begin, LOOK);
    return;
  }
  find("login").hidden = true;
  if (!find("tabs").hidden) return; // it was locked in between
  const make = model.kind === "text" ? "chat" : "draw";
  document.title = `${model.id} - TokenRing`;
  find("model").textContent = model.id;
  for (const button of find("tabs").children) {
    button.hidden = ![make, "watch"].includes(button.dataset.tab);
    button.addEventListener("click", () => open(button.dataset.tab));
  }
  (make === "chat" ? chatting : drawing)(model);
  find("tabs").hidden = false;
  open(make);
  watching();
}

function open(tab) {
  for (const each of TABS) find(each).hidden = each !== tab;
  for (const button of find("tabs").children) button.setAttribute("aria-pressed", String(button.dataset.tab === tab));
  if (tab === "watch") look();
}

async function tellState() {
  for (;;) {
    if (!document.hidden) {
      const { status, reason } = await readiness();
      find("state").textContent = status === "ready" ? "ready" : `${status}: ${reason}`;
    }
    await new Promise((resolve) => setTimeout(resolve, LOOK));
  }
}

window.addEventListener("locked", () => {
  find("login").hidden = false;
});

find("login").addEventListener("submit", (event) => {
  event.preventDefault();
  forgive(find("login"));
  entered = true;
  enter(find("key").value);
  begin();
});

begin();
tellState();

// Chat: a conversation that this page keeps, answered piece by piece.

import { ask, ending, events, newName, Refusal } from "./api.js";
import { attend, blame, find, forgive, tell, values } from "./forms.js";

/** Make the form work for a language model, as /v1/models describes it. */
export function chatting(model) {
  const form = find("question");
  let messages = [];
  find("max_tokens").placeholder = model.defaults.max_tokens ?? "";
  find("temperature").placeholder = model.defaults.temperature ?? "likeliest";
  find("afresh").addEventListener("click", () => {
    messages = [];
    find("said").replaceChildren();
  });
  attend(form);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    forgive(form);
    tell(find("chat-problem"), null);
    const { messages: words, ...options } = values(form) ?? {};
    if (form.querySelector(".wrong")) return;
    if (!words) return void blame(form, "messages", "This is empty.");
    const asked = [...messages, { role: "user", content: words }];
    const lines = [line("user", words), line("assistant", "")];
    find("words").value = "";
    const answer = await answered(asked, options, lines[1], form);
    if (answer !== null) {
      messages = [...asked, { role: "assistant", content: answer }];
    } else {
      for (const each of lines) each.remove();
      find("words").value ||= words;
    }
  });
}

/** The whole answer, which is shown as it comes; what has come where it was stopped; null where it failed. */
async function answered(messages, options, shown, form) {
  const name = newName();
  const leaving = ending();
  busy(true, () => ask(`v1/requests/${name}`, { method: "DELETE" }).catch(() => leaving.abort()));
  try {
    const body = { messages, ...options, stream: true };
    const response = await ask("v1/chat/completions", { method: "POST", body, name, signal: leaving.signal });
    for await (const event of events(response)) {
      if (event.error) throw new Refusal(0, event.error);
      const choice = event.choices[0];
      shown.textContent += choice.delta.content ?? "";
      if (choice.finish_reason) return shown.textContent;
    }
    throw new Refusal(0, { message: "The connection was lost." });
  } catch (error) {
    if ((error.name === "AbortError" || error.code === "cancelled") && shown.textContent) return shown.textContent;
    if (!blame(form, error.param, error.message)) tell(find("chat-problem"), error.message);
    return null;
  } finally {
    busy(false, null);
  }
}

function line(role, text) {
  const item = document.createElement("li");
  item.className = role;
  item.textContent = text;
  find("said").append(item);
  return item;
}

function busy(is, stop) {
  [find("send").disabled, find("afresh").disabled, find("stop").hidden] = [is, is, !is];
  find("stop").onclick = stop;
}

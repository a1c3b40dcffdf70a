// Fields of a form, and what the server says is wrong with them.

export const find = (id) => document.getElementById(id);

/** Show words, or nothing. */
export function tell(element, words) {
  element.textContent = words ?? "";
  element.hidden = !words;
}

/** The values of fields by name; those that are empty, or not asked for, are left to the server. */
export function values(form) {
  const found = {};
  for (const field of form.querySelectorAll(".field")) {
    const input = field.querySelector("textarea, input:not([type=checkbox])");
    if (!input || field.hidden) continue;
    if (input.type === "file") {
      if (input.files.length) found[field.dataset.field] = [...input.files];
      continue;
    }
    const text = input.value.trim();
    if (!("number" in input.dataset)) {
      if (text) found[field.dataset.field] = text;
    } else if (input.validity.badInput) {
      blame(form, field.dataset.field, "This is not a number.");
      return null;
    } else if (text) {
      if (Math.abs(Number(text)) > Number.MAX_SAFE_INTEGER) {
        blame(form, field.dataset.field, `This page sends numbers up to ${Number.MAX_SAFE_INTEGER}.`);
        return null;
      }
      found[field.dataset.field] = Number(text);
    }
  }
  return found;
}

/** Say what is wrong beside the field it is about; false where the form has no such field. */
export function blame(form, name, words) {
  const field = [...form.querySelectorAll(".field")].find((each) => each.dataset.field === name && !each.hidden);
  if (!field) return false;
  field.classList.add("wrong");
  tell(field.querySelector(".mistake"), words);
  const input = field.querySelector("textarea, input");
  input.setAttribute("aria-invalid", "true");
  input.focus();
  return true;
}

/** Have a form forgive mistakes once something is changed, and be sent by Ctrl-Enter in a text of several lines. */
export function attend(form) {
  form.addEventListener("input", (event) => forgive(form));
  form.querySelector("textarea")?.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
}

/** Nothing is wrong any more. */
export function forgive(form) {
  for (const field of form.querySelectorAll(".field.wrong")) {
    field.classList.remove("wrong");
    tell(field.querySelector(".mistake"), null);
    field.querySelector("textarea, input").removeAttribute("aria-invalid");
  }
}

/** Seconds as people say them. */
export function seconds(value) {
  if (value < 0.01) return `${(1000 * value).toPrecision(2)} ms`;
  if (value < 10) return `${value.toPrecision(2)} s`;
  return value < 120 ? `${Math.round(value)} s` : `${Math.round(value / 60)} min`;
}

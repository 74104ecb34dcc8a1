// Owns the few things every view does with the page.

import { blobOf } from "./api.js";

export const $ = (selector, root = document) => root.querySelector(selector);

/** Show a sentence until it is dismissed; without one, take it away. */
export function complain(sentence = "") {
  $("#complaint").hidden = !sentence;
  $("#complaint span").textContent = sentence;
}

/** Listen, and complain of what goes wrong; an older complaint is done with. */
export function on(node, event, act) {
  node.addEventListener(event, async (e) => {
    complain();
    try {
      await act(e);
    } catch (error) {
      if (error.name !== "AbortError") complain(error.message);
    }
  });
}

/** What the buttons [data-do=…] of a node do. */
export function acts(node, does) {
  Object.entries(does).forEach(([name, act]) => on($(`[data-do=${name}]`, node), "click", act));
}

/** Put text into each [data-f=…]; an empty one is hidden. */
export function fill(node, values) {
  for (const [name, value] of Object.entries(values)) {
    const slot = $(`[data-f=${name}]`, node);
    slot.textContent = value;
    slot.hidden = value === "";
  }
}

/** One child of `list` for each item, by `id`. Children are updated, not replaced: focus stays. */
export function keep(list, template, items, make, update = () => {}) {
  const old = new Map([...list.children].map((node) => [node.dataset.id, node]));
  items.forEach((item, i) => {
    const id = String(item.id);
    const node = old.get(id) ?? template.content.firstElementChild.cloneNode(true);
    if (!old.delete(id)) make(node, item);
    node.dataset.id = id;
    update(node, item);
    if (list.children[i] !== node) list.insertBefore(node, list.children[i] ?? null);
  });
  old.forEach((node) => node.remove());
}

/** Fill a <select> with [value, text] pairs, and keep what was chosen. */
export function options(select, pairs) {
  const told = JSON.stringify(pairs);
  if (select.dataset.told === told) return;
  const chosen = select.value;
  select.dataset.told = told;
  select.replaceChildren(...pairs.map(([value, text]) => new Option(text, value)));
  if (pairs.some(([value]) => value === chosen)) select.value = chosen;
}

export function paint(img, blob) {
  URL.revokeObjectURL(img.src);
  img.src = URL.createObjectURL(blob);
  img.hidden = false;
}

/** Show a picture if there is one. */
export async function picture(img, path) {
  await blobOf(path).then((blob) => paint(img, blob), () => {});
}

export function read(title, text) {
  fill($("#text"), { title, text: text || "Nothing yet." });
  $("#text").showModal();
}

const STYLE = { dateStyle: "medium", timeStyle: "short" };
export const when = (iso) => new Date(iso).toLocaleString([], STYLE);

acts($("#complaint"), { dismiss: () => complain() });
acts($("#text"), { close: () => $("#text").close() });

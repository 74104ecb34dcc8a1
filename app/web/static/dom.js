// Owns the few things every view does with the page.

export const $ = (selector, root = document) => root.querySelector(selector);

const complaint = $("#complaint");

/** Show a sentence until it is dismissed; without one, take it away. */
export function complain(sentence = "") {
  complaint.hidden = !sentence;
  $("span", complaint).textContent = sentence;
}
$("button", complaint).addEventListener("click", () => complain());

/** Listen, and complain of what goes wrong. */
export function on(node, event, act) {
  node.addEventListener(event, async (e) => {
    try {
      await act(e);
    } catch (error) {
      if (error.name !== "AbortError") complain(error.message);
    }
  });
}

/** Put text into every [data-f=name]; an empty one is hidden. */
export function fill(node, values) {
  for (const [name, value] of Object.entries(values)) {
    const slot = $(`[data-f=${name}]`, node);
    slot.textContent = value;
    slot.hidden = value === "";
  }
}

/** One child of `list` for each item, by `id`. Children are updated, not replaced: focus stays. */
export function keep(list, template, items, make, update) {
  const old = new Map([...list.children].map((node) => [node.dataset.id, node]));
  items.forEach((item, i) => {
    const id = String(item.id);
    let node = old.get(id);
    if (!node) {
      node = template.content.firstElementChild.cloneNode(true);
      node.dataset.id = id;
      make(node, item);
    }
    old.delete(id);
    update(node, item);
    if (list.children[i] !== node) list.insertBefore(node, list.children[i] ?? null);
  });
  old.forEach((node) => node.remove());
}

/** Replace what an <img> shows. */
export function paint(img, blob) {
  URL.revokeObjectURL(img.src);
  img.src = URL.createObjectURL(blob);
  img.hidden = false;
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

export function showText(title, text) {
  fill($("#text"), { title, text: text || "Nothing yet." });
  $("#text").showModal();
}
on($("#text [data-do=close]"), "click", () => $("#text").close());

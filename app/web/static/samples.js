// Owns the view of samples: what to ask for, 24 images, and one of them up close.

import { blobOf } from "./api.js";
import { $, acts, complain, fill, keep, on, options, paint } from "./dom.js";

const COUNT = 24;
const ask = $("#ask");
const dialog = $("#image");
const tiles = Array.from({ length: COUNT }, makeTile);
const seen = new IntersectionObserver((entries) => {
  entries.filter((e) => e.isIntersecting).forEach((e) => load(tiles[e.target.dataset.i]));
});
let versions = new Map(); // what can be chosen → its version
let drawing = new AbortController();
let shown = 0;
let typing;

function makeTile(_, i) {
  const button = Object.assign(document.createElement("button"), { type: "button" });
  const img = new Image();
  button.dataset.i = i;
  button.append(img);
  on(button, "click", () => open(i));
  $("#grid").append(button);
  return { button, img };
}

/** Offer these models; draw anew if the chosen one has become another version. */
export function show(models) {
  const choices = models.flatMap(({ model, serving, details }) => {
    const isChampion = ({ version }) => version === serving;
    const rest = details.filter((v) => !isChampion(v)).reverse();
    return [...details.filter(isChampion), ...rest].map((v) => {
      const pinned = `${model}@${v.version}`;
      // The champion goes by the model's name: the view follows when another one becomes it.
      return isChampion(v) ? [model, `${pinned} · champion`, v] : [pinned, pinned, v];
    });
  });
  versions = new Map(choices.map(([ref, , version]) => [ref, version]));
  options(ask.elements.model, choices.map(([ref, text]) => [ref, text]));
  $("#no-model").hidden = choices.length > 0;
  $("#grid").hidden = choices.length === 0;
  draw();
}

function draw() {
  const version = versions.get(ask.elements.model.value);
  if (!version) return;
  offerClasses(version.class_names);
  if (!ask.checkValidity()) return;
  const first = Number(ask.elements.seed.value);
  const base = `/v1/models/${version.model}@${version.version}/images/`;
  if (tiles[0].url === `${base}${first}.png${query()}`) return;
  drawing.abort();
  drawing = new AbortController();
  const isSmall = version.network.img_resolution < 128;
  [$("#grid"), dialog].forEach((shows) => shows.classList.toggle("pixels", isSmall));
  tiles.forEach((tile, i) => {
    tile.url = `${base}${first + i}.png${query()}`;
    tile.img.alt = `Seed ${first + i}, ${chosenClass() ? `class ${chosenClass()}` : "any class"}`;
    seen.unobserve(tile.button); // observing anew tells at once what is in sight
    seen.observe(tile.button);
  });
}

const chosenClass = () => ask.elements.class.value;

function query() {
  const asked = new URLSearchParams();
  const { value: truncation } = ask.elements.truncation;
  if (chosenClass()) asked.set("class", chosenClass());
  if (Number(truncation) < 1) asked.set("truncation", truncation);
  return asked.size ? `?${asked}` : "";
}

function offerClasses(names) {
  const any = { id: "", text: "any" };
  const choices = [any, ...names.map((name) => ({ id: name, text: name }))];
  keep($("#classes .choices"), $("#class-template"), choices, (node, { id, text }) => {
    $("input", node).value = id;
    fill(node, { text });
  });
  $("#classes").hidden = names.length === 0;
  if (!$("#classes :checked")) $("#classes input").checked = true;
}

async function load(tile) {
  const { url } = tile;
  seen.unobserve(tile.button);
  try {
    const blob = await blobOf(url, { signal: drawing.signal });
    if (url !== tile.url) return;
    tile.blob = blob;
    paint(tile.img, blob);
  } catch (error) {
    if (error.name !== "AbortError") complain(error.message);
  }
}

async function open(i) {
  shown = (i + COUNT) % COUNT;
  const { url, img } = tiles[shown];
  await load(tiles[shown]); // from the browser's cache, unless it was not in sight yet
  if (!tiles[shown].blob) return;
  const said = await metadata(tiles[shown].blob);
  const how = chosenClass() ? "" : ", drawn from the seed";
  fill(dialog, {
    title: `Seed ${said.seed}`,
    model: `${said.model}, version ${said.version}`,
    class: said.class === null ? "none" : said.class + how,
    truncation: String(said.truncation),
  });
  paint($("img", dialog), tiles[shown].blob);
  $("img", dialog).alt = img.alt;
  $("[name=url]", dialog).value = new URL(url, location.href).href;
  const download = `${said.model}-${said.version}-seed-${said.seed}.png`;
  Object.assign($("[data-do=download]", dialog), { href: img.src, download });
  if (!dialog.open) dialog.showModal();
}

/** What the file says of itself: the JSON in its text chunk `noisewell`. */
async function metadata(blob) {
  const view = new DataView(await blob.arrayBuffer());
  const start = "iTXtnoisewell\0\0\0\0\0";
  for (let at = 8; at < view.byteLength; at += 12 + view.getUint32(at)) {
    const bytes = new Uint8Array(view.buffer, at + 4, 4 + view.getUint32(at));
    const chunk = new TextDecoder().decode(bytes);
    if (chunk.startsWith(start)) return JSON.parse(chunk.slice(start.length));
  }
  throw new Error("This image does not say what it is.");
}

on(ask, "submit", (e) => e.preventDefault());
on(ask, "input", () => {
  $("#psi").value = Number(ask.elements.truncation.value).toFixed(2);
  clearTimeout(typing);
  typing = setTimeout(draw, 150);
});
acts(ask, {
  seeds: () => {
    ask.elements.seed.value = Math.floor(Math.random() * 1e6);
    draw();
  },
});
acts(dialog, {
  previous: () => open(shown - 1),
  next: () => open(shown + 1),
  close: () => dialog.close(),
  copy: async ({ target }) => {
    await navigator.clipboard.writeText($("[name=url]", dialog).value);
    target.textContent = "Copied";
    setTimeout(() => (target.textContent = "Copy address"), 1500);
  },
});
on(dialog, "keydown", async ({ key, target }) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[key];
  if (step && target.name !== "url") await open(shown + step);
});

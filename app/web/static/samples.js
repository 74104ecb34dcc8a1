// Owns the view of samples: what to ask for, 24 images, and one of them up close.

import { blobOf } from "./api.js";
import { $, complain, fill, on, options, paint } from "./dom.js";

const COUNT = 24;
const ask = $("#ask");
const dialog = $("#image");
const tiles = Array.from({ length: COUNT }, (_, i) => makeTile(i));
const seen = new IntersectionObserver((entries) => {
  entries.filter((e) => e.isIntersecting).forEach((e) => load(tiles[e.target.dataset.i]));
});
let versions = new Map(); // what can be chosen → its version
let drawn = "";
let drawing = new AbortController();
let shown = 0;
let typing;

function makeTile(i) {
  const button = document.createElement("button");
  const img = new Image();
  button.type = "button";
  button.dataset.i = i;
  button.append(img);
  on(button, "click", () => open(i));
  $("#grid").append(button);
  return { button, img };
}

/** Offer these models; redraw if the chosen one has become another version. */
export function show(models) {
  const choices = models.flatMap(({ model, serving, details }) => {
    const pinned = details.map((v) => [`${model}@${v.version}`, `${model}, version ${v.version}`, v]);
    const champion = details.find((v) => v.version === serving);
    const first = champion ? [[model, `${model}, the champion (version ${serving})`, champion]] : [];
    return [...first, ...pinned.reverse()];
  });
  versions = new Map(choices.map(([ref, , version]) => [ref, version]));
  options(ask.elements.model, choices);
  $("#no-model").hidden = choices.length > 0;
  $("#grid").hidden = choices.length === 0;
  if (choices.length) draw();
}

function draw() {
  const version = versions.get(ask.elements.model.value);
  const { img_resolution: resolution } = version.network;
  offerClasses(version.class_names);
  if (!ask.elements.seed.reportValidity()) return;
  const first = Number(ask.elements.seed.value);
  const base = `/v1/models/${version.model}@${version.version}/images/`;
  const urls = tiles.map((_, i) => `${base}${first + i}.png${query()}`);
  if (urls[0] === drawn) return;
  drawn = urls[0];
  drawing.abort();
  drawing = new AbortController();
  $("#grid").classList.toggle("pixels", resolution < 128);
  tiles.forEach((tile, i) => {
    Object.assign(tile, { url: urls[i], seed: first + i });
    tile.img.alt = `Seed ${first + i}, ${chosenClass() ? `class ${chosenClass()}` : "any class"}`;
    seen.unobserve(tile.button); // observing anew tells at once what is in sight
    seen.observe(tile.button);
  });
}

const chosenClass = () => ask.elements.class?.value ?? "";

function query() {
  const { value: truncation } = ask.elements.truncation;
  const asked = new URLSearchParams();
  if (chosenClass()) asked.set("class", chosenClass());
  if (Number(truncation) < 1) asked.set("truncation", truncation);
  return asked.size ? `?${asked}` : "";
}

function offerClasses(names) {
  const box = $("#classes");
  const told = JSON.stringify(names);
  if (box.dataset.told === told) return;
  box.dataset.told = told;
  box.hidden = names.length === 0;
  $(".choices", box).replaceChildren(
    ...[["", "any"], ...names.map((name) => [name, name])].map(([value, text]) => {
      const label = document.createElement("label");
      const input = Object.assign(document.createElement("input"), { type: "radio", name: "class" });
      Object.assign(input, { value, checked: value === "" });
      label.append(input, text);
      return label;
    }),
  );
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
  const tile = tiles[shown];
  if (!tile.blob) await load(tile);
  if (!tile.blob) return;
  const said = await metadata(tile.blob);
  const drawnClass = chosenClass() ? "" : " (drawn from the seed)";
  fill(dialog, {
    title: `Seed ${said.seed}`,
    model: `${said.model}, version ${said.version}`,
    class: said.class === null ? "this model has none" : said.class + drawnClass,
    truncation: String(said.truncation),
  });
  paint($("img", dialog), tile.blob);
  $("img", dialog).alt = tile.img.alt;
  $("[name=url]", dialog).value = new URL(tile.url, location.href).href;
  const link = $("[data-do=download]", dialog);
  link.href = tile.img.src;
  link.download = `${said.model}-${said.version}-seed-${said.seed}.png`;
  if (!dialog.open) dialog.showModal();
}

/** What the file says of itself: the JSON in its text chunk `noisewell`. */
async function metadata(blob) {
  const view = new DataView(await blob.arrayBuffer());
  const text = new TextDecoder();
  for (let at = 8; at < view.byteLength; at += 12 + view.getUint32(at)) {
    const chunk = text.decode(new Uint8Array(view.buffer, at + 4, 4 + view.getUint32(at)));
    if (chunk.startsWith("iTXtnoisewell\0")) return JSON.parse(chunk.slice("iTXtnoisewell".length + 5));
  }
  throw new Error("This image does not say what it is.");
}

on(ask, "submit", (e) => e.preventDefault());
on(ask, "input", () => {
  $("#psi").value = Number(ask.elements.truncation.value).toFixed(2);
  clearTimeout(typing);
  typing = setTimeout(draw, 150);
});
on($("#new-seeds"), "click", () => {
  ask.elements.seed.value = Math.floor(Math.random() * 1e6);
  draw();
});
on($("[data-do=previous]", dialog), "click", () => open(shown - 1));
on($("[data-do=next]", dialog), "click", () => open(shown + 1));
on($("[data-do=close]", dialog), "click", () => dialog.close());
on($("[data-do=copy]", dialog), "click", async (e) => {
  const address = $("[name=url]", dialog);
  address.select();
  await navigator.clipboard.writeText(address.value);
  e.target.textContent = "Copied";
  setTimeout(() => (e.target.textContent = "Copy address"), 1500);
});
on(dialog, "keydown", (e) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[e.key];
  if (step && e.target.name !== "url") return open(shown + step);
});

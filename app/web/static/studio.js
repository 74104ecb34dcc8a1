// Owns the studio: which view is in sight, and when to look at the service again.

import { get } from "./api.js";
import { $, complain } from "./dom.js";
import * as models from "./models.js";
import * as samples from "./samples.js";
import * as training from "./training.js";

const LOOK_MS = 2000;
const views = [...document.querySelectorAll("main > section")];
let known = "";
let failing = false;

const view = () => views.find((v) => `#${v.id}` === location.hash) ?? views[0];

function turn() {
  views.forEach((v) => (v.hidden = v !== view()));
  for (const link of document.querySelectorAll("nav a[href^='#']")) {
    link.ariaCurrent = link.hash === `#${view().id}` ? "page" : null;
  }
  scrollTo(0, 0);
  look();
}

async function refreshModels() {
  const { data } = await get("/v1/models");
  const told = JSON.stringify(data);
  if (told === known) return;
  const details = await Promise.all(data.map(({ model }) => get(`/v1/models/${model}/versions`)));
  const all = data.map((model, i) => ({ ...model, details: details[i].data }));
  samples.show(all);
  models.show(all, refreshModels);
  $("#model-names").replaceChildren(...data.map(({ model }) => new Option("", model)));
  known = told;
}

async function look() {
  try {
    await refreshModels();
    if (view().id === "training") await training.refresh();
    if (failing) complain();
    failing = false;
  } catch (error) {
    failing = true;
    complain(error.message);
  }
}

async function lookOn() {
  if (!document.hidden) await look();
  setTimeout(lookOn, LOOK_MS);
}

addEventListener("hashchange", turn);
turn();
setTimeout(lookOn, LOOK_MS);

// Owns the view of training: datasets and jobs, new ones and how they are going.

import { blobOf, call, get, upload } from "./api.js";
import { $, fill, keep, on, options, paint, showText } from "./dom.js";

const JOBS = "/v1/training/jobs";
const DATASETS = "/v1/datasets";
const newJob = $("#new-job");
const newDataset = $("#new-dataset");

/** Look at what there is, and show it. */
export async function refresh() {
  const [jobs, datasets] = await Promise.all([get(JOBS), get(DATASETS)]);
  keep($("#jobs"), $("#job-template"), jobs.data, makeJob, showJob);
  keep($("#datasets"), $("#dataset-template"), datasets.data, makeDataset, showDataset);
  const ready = datasets.data.filter((d) => d.status === "ready");
  options(newJob.elements.dataset, ready.length ? ready.map((d) => [d.id, d.name]) : [["", "none is ready"]]);
}

// Jobs

function makeJob(node, { id }) {
  on($("[data-do=cancel]", node), "click", async () => {
    await call(`${JOBS}/${id}/cancel`, { method: "POST" });
    await refresh();
  });
  on($("[data-do=log]", node), "click", async () => {
    showText("Log of the training", await (await call(`${JOBS}/${id}/log`)).text());
  });
}

function showJob(node, job) {
  const { phase, cur_nimg: done, total_nimg: total } = job.progress ?? {};
  const active = ["queued", "running", "paused"].includes(job.status);
  const length = job.minutes === null ? `${job.kimg} kimg` : `${job.minutes} min`;
  fill(node, {
    title: `${job.model} from ${job.dataset_name}`,
    status: job.cancel_requested && active ? "cancelling" : job.status,
    about: `${length} with ${job.preset}, asked for ${when(job.created_at)}`,
    news: active ? going(job) : ended(job),
  });
  node.dataset.status = job.status;
  const bar = $("progress", node);
  bar.hidden = job.status !== "running";
  if (phase === "training" && total) bar.value = done / total;
  else bar.removeAttribute("value"); // how long the other phases take is not known
  $("[data-do=cancel]", node).hidden = !active || job.cancel_requested;
  if (done) newestSamples($("img", node), job.id, `${job.status} ${done}`);
}

function going({ status, progress }) {
  if (status !== "running") return "Waits for its turn.";
  if (progress?.phase !== "training" || !progress.total_nimg) return `${progress?.phase ?? "starting"} …`;
  const { cur_nimg: done, total_nimg: total, images_per_sec: speed, eta_sec: left } = progress;
  const percent = Math.floor((100 * done) / total);
  return `${percent} %, ${Math.round(speed).toLocaleString()} images/s, ${duration(left)} left`;
}

function ended({ status, result, error }) {
  if (status !== "succeeded" || !result) return error ?? "";
  const verdict = result.decision.promote ? "became champion" : "was kept aside";
  return `Version ${result.version} ${verdict}: ${result.decision.reason}`;
}

async function newestSamples(img, id, moment) {
  if (img.dataset.moment === moment) return;
  img.dataset.moment = moment;
  try {
    paint(img, await blobOf(`${JOBS}/${id}/samples.png`));
  } catch {
    return; // none yet
  }
}

const when = (iso) => new Date(iso).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });

function duration(sec) {
  if (sec < 90) return `${Math.ceil(sec)} s`;
  return sec < 5400 ? `${Math.round(sec / 60)} min` : `${(sec / 3600).toFixed(1)} h`;
}

on(newJob, "submit", async (event) => {
  event.preventDefault();
  const { preset, minutes, ...rest } = Object.fromEntries(new FormData(newJob));
  const body = { ...rest, preset: preset || null, minutes: Number(minutes) };
  await call(JOBS, { json: body });
  await refresh();
});
on(newJob.elements.dataset, "change", suggestModel);

function suggestModel() {
  const { dataset, model } = newJob.elements;
  if (!model.value && dataset.value) model.value = dataset.selectedOptions[0].text;
}

// Datasets

function makeDataset(node, { id, name }) {
  const details = $("details", node);
  on(details, "toggle", async () => {
    if (!details.open) return;
    const { rejections } = await get(`${DATASETS}/${id}`);
    const lines = (rejections ?? []).map(({ file, reason }) => {
      return Object.assign(document.createElement("li"), { textContent: `${file}: ${reason}` });
    });
    $("ul", details).replaceChildren(...lines);
  });
  on($("[data-do=delete]", node), "click", async () => {
    if (!confirm(`Delete the dataset ${name} and its images?`)) return;
    await call(`${DATASETS}/${id}`, { method: "DELETE" });
    await refresh();
  });
}

function showDataset(node, dataset) {
  node.dataset.status = dataset.status;
  const { name, status, error, rejected } = dataset;
  const about = status === "ready" ? contents(dataset) : (error ?? "");
  fill(node, { name, status, about, rejected: rejected ? `${rejected} rejected` : "" });
  $("details", node).hidden = !rejected;
  $("[data-do=delete]", node).hidden = status === "importing";
}

function contents({ num_images: images, class_names: names, resolution, channels, converted }) {
  const classes = names.length ? `${names.length} classes` : "no classes";
  const size = `${resolution}×${resolution} ${channels === 1 ? "grey" : "colour"}`;
  const changed = converted ? `, ${converted.toLocaleString()} of them converted` : "";
  return `${images.toLocaleString()} images, ${classes}, ${size}${changed}`;
}

on(newDataset.elements.file, "change", () => {
  const { file, name } = newDataset.elements;
  const stem = file.value.split(/[\\/]/).pop().replace(/\.zip$/i, "").toLowerCase();
  if (!name.value) name.value = stem.replace(/[^a-z0-9._-]+/g, "-").replace(/^[^a-z0-9]+/, "");
});
on(newDataset, "submit", async (event) => {
  event.preventDefault();
  const bar = $("progress", newDataset);
  const button = $("button", newDataset);
  bar.hidden = false;
  button.disabled = true;
  try {
    await upload(DATASETS, new FormData(newDataset), (done) => (bar.value = done));
    newDataset.reset();
  } finally {
    bar.hidden = true;
    button.disabled = false;
  }
  await refresh();
});

// Owns the view of training: datasets and jobs, new ones and how they are going.

import { call, get, post, textOf, upload } from "./api.js";
import { $, acts, fill, keep, on, options, picture, read, when } from "./dom.js";

const JOBS = "/v1/training/jobs";
const DATASETS = "/v1/datasets";
const newJob = $("#new-job");
const newDataset = $("#new-dataset");

/** Look at what there is, and show it. */
export async function refresh() {
  const [jobs, datasets] = await Promise.all([get(JOBS), get(DATASETS)]);
  keep($("#jobs"), $("#job-template"), jobs.data, makeJob, showJob);
  const told = await Promise.all(datasets.data.map(inDetail));
  keep($("#datasets"), $("#dataset-template"), told, makeDataset, showDataset);
  const isReady = ({ status }) => status === "ready";
  const ready = told.filter(isReady).map((dataset) => [dataset.id, ref(dataset)]);
  options(newJob.elements.dataset, ready.length ? ready : [["", "none is ready"]]);
  nameModel();
}

// Jobs

const STEPS = ["pause", "resume", "retry", "cancel"];
const steer = (id, step) => post(`${JOBS}/${id}/${step}`).then(refresh);

function makeJob(node, { id }) {
  acts(node, {
    ...Object.fromEntries(STEPS.map((step) => [step, () => steer(id, step)])),
    log: async () => read("Log of the training", await textOf(`${JOBS}/${id}/log`)),
  });
}

function showJob(node, job) {
  const { phase, cur_nimg: done, total_nimg: total } = job.progress ?? {};
  const active = ["queued", "running", "paused"].includes(job.status);
  const length = job.minutes === null ? `${job.kimg} kimg` : `${job.minutes} min`;
  fill(node, {
    title: `${job.model} from ${job.dataset_name}`,
    status: stands(job, active),
    about: `${length} with ${job.preset}, asked for ${when(job.created_at)}`,
    news: active ? going(job) : ended(job),
  });
  const bar = $("progress", node);
  bar.hidden = job.status !== "running";
  if (phase === "training" && total) bar.value = done / total;
  else bar.removeAttribute("value"); // how long the other phases take is not known
  const pausing = job.status === "paused" || job.pause_requested;
  const steps = active && !job.cancel_requested ? [pausing ? "resume" : "pause", "cancel"] : [];
  if (["failed", "cancelled"].includes(job.status)) steps.push("retry");
  STEPS.forEach((step) => ($(`[data-do=${step}]`, node).hidden = !steps.includes(step)));
  const moment = `${phase} ${done}`;
  if (done && node.dataset.moment !== moment) picture($("img", node), `${JOBS}/${job.id}/samples.png`);
  Object.assign(node.dataset, { status: job.status, moment });
}

function stands({ status, cancel_requested: cancelling, pause_requested: pausing }, active) {
  if (active && cancelling) return "cancelling";
  return active && pausing ? "pausing" : status;
}

function going({ status, progress }) {
  if (status === "paused") return "Waits to be resumed.";
  if (status !== "running") return "Waits for its turn.";
  const { phase, cur_nimg: done, total_nimg: total } = progress ?? {};
  if (phase !== "training" || !total) return `${phase ?? "starting"} …`;
  const { images_per_sec: speed, eta_sec: left } = progress;
  const percent = Math.floor((100 * done) / total);
  return `${percent} %, ${Math.round(speed).toLocaleString()} images/s, ${duration(left)} left`;
}

function ended({ status, result, error }) {
  if (status !== "succeeded" || !result) return error ?? "";
  const verdict = result.decision.promote ? "became champion" : "was kept aside";
  return `Version ${result.version} ${verdict}: ${result.decision.reason}`;
}

function duration(sec) {
  if (sec < 90) return `${Math.ceil(sec)} s`;
  return sec < 5400 ? `${Math.round(sec / 60)} min` : `${(sec / 3600).toFixed(1)} h`;
}

function nameModel() {
  const { dataset, model } = newJob.elements;
  model.placeholder = dataset.value && dataset.selectedOptions[0].text.split("@")[0];
}

on(newJob.elements.dataset, "change", nameModel);
on(newJob, "submit", async (event) => {
  event.preventDefault();
  const { model, preset, minutes, ...rest } = Object.fromEntries(new FormData(newJob));
  const meant = { model: model || newJob.elements.model.placeholder, preset: preset || null };
  await call(JOBS, { json: { ...rest, ...meant, minutes: Number(minutes) } });
  await refresh();
});

// Datasets

const ref = ({ name, version }) => `${name}@${version}`;

/** How far an import is stands in no list. One that is gone by now is shown as it was. */
const inDetail = (dataset) =>
  dataset.status === "importing" ? get(`${DATASETS}/${dataset.id}`).catch(() => dataset) : dataset;

function makeDataset(node, dataset) {
  const url = `${DATASETS}/${dataset.id}`;
  const report = $("[data-do=report]", node);
  report.href = `${url}/report`;
  $("img", node).alt = `Images of ${ref(dataset)}`;
  acts(node, {
    cancel: () => post(`${url}/cancel`).then(refresh),
    delete: async () => {
      if (!confirm(`Delete the dataset ${ref(dataset)} and its images?`)) return;
      await call(url, { method: "DELETE" });
      await refresh();
    },
    rejections: async () => {
      const { rejections } = await get(url);
      const lines = rejections.map(({ file, reason }) => `${file}: ${reason}`);
      read(`Rejected from ${ref(dataset)}`, lines.join("\n"));
    },
  });
}

function showDataset(node, dataset) {
  const { id, version, name, status, error, rejected } = dataset;
  const isReady = status === "ready";
  const isImporting = status === "importing";
  const about = isReady ? contents(dataset) : isImporting ? imported(dataset) : (error ?? "");
  const count = rejected ? `${rejected.toLocaleString()} rejected` : "";
  fill(node, { name, version: `version ${version}`, status, about, rejected: count });
  const bar = $("progress", node);
  bar.hidden = !isImporting;
  if (dataset.progress) bar.value = dataset.progress.done / (dataset.progress.total || 1);
  $("[data-do=cancel]", node).hidden = !isImporting;
  $("[data-do=report]", node).hidden = !isReady;
  $("[data-do=delete]", node).hidden = isImporting;
  if (isReady && node.dataset.status !== status) {
    picture($("img", node), `${DATASETS}/${id}/thumbnails.png`);
  }
  node.dataset.status = status;
}

function imported({ progress }) {
  if (!progress) return "Waits for its turn.";
  const rejected = progress.rejected ? `, ${progress.rejected.toLocaleString()} rejected` : "";
  return `${progress.done.toLocaleString()} of ${progress.total.toLocaleString()} files${rejected}`;
}

function contents({ num_images: images, class_names: names, resolution, channels, converted }) {
  const classes = names.length ? `${names.length} classes` : "no classes";
  const size = `${resolution}×${resolution} ${channels === 1 ? "grey" : "colour"}`;
  const changed = converted ? `, ${converted.toLocaleString()} of them converted` : "";
  return `${images.toLocaleString()} images, ${classes}, ${size}${changed}`;
}

on(newDataset.elements.file, "change", () => {
  const { file, name } = newDataset.elements;
  const stem = file.files[0]?.name.replace(/\.zip$/i, "").toLowerCase() ?? "";
  if (!name.value) name.value = stem.replace(/[^a-z0-9._-]+/g, "-").replace(/^[^a-z0-9]+/, "");
});
on(newDataset, "submit", async (event) => {
  event.preventDefault();
  const [bar, button] = [$("progress", newDataset), $("button", newDataset)];
  const busy = (is) => {
    bar.hidden = !is;
    button.disabled = is;
  };
  busy(true);
  try {
    await upload(DATASETS, new FormData(newDataset), (done) => (bar.value = done));
    newDataset.reset();
  } finally {
    busy(false);
  }
  await refresh();
});

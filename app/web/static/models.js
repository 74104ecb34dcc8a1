// Owns the view of models: how good each version is, and which one serves.

import { blobOf, call } from "./api.js";
import { $, fill, keep, on, paint, showText } from "./dom.js";

/** Show these models; `refresh` is called when one was changed. */
export function show(models, refresh) {
  const items = models.map((model) => ({ ...model, id: model.model }));
  keep($("#model-list"), $("#model-template"), items, makeModel, showModel);

  function makeModel(node, { model }) {
    on($("[data-do=rollback]", node), "click", async () => {
      await call(`/v1/models/${model}/rollback`, { method: "POST" });
      await refresh();
    });
  }

  function showModel(node, { model, details, aliases }) {
    const count = details.length === 1 ? "1 version" : `${details.length} versions`;
    fill(node, { model, about: `${count}, version ${aliases.champion} serves` });
    $("[data-do=rollback]", node).hidden = !aliases.previous;
    const versions = details.map((v) => ({ ...v, id: v.version, aliases })).reverse();
    keep($("ul", node), $("#version-template"), versions, makeVersion, showVersion);
  }

  async function makeVersion(node, { model, version }) {
    const url = `/v1/models/${model}/versions/${version}`;
    on($("[data-do=card]", node), "click", async () => {
      showText(`${model}, version ${version}`, await (await call(`${url}/card`)).text());
    });
    on($("[data-do=promote]", node), "click", async () => {
      await call(`/v1/models/${model}/aliases/champion`, { method: "PUT", json: { version } });
      await refresh();
    });
    const img = $("img", node);
    img.alt = `Samples of ${model}, version ${version}, with fixed seeds`;
    paint(img, await blobOf(`${url}/samples.png`));
  }
}

function showVersion(node, { version, aliases, metrics, created_at: created, lineage, ...rest }) {
  const alias = Object.keys(aliases).find((name) => aliases[name] === version) ?? "";
  node.dataset.status = alias;
  fill(node, {
    version: String(version),
    alias,
    fd: distance(metrics),
    accuracy: accuracy(metrics),
    created: new Date(created).toLocaleString([], { dateStyle: "medium", timeStyle: "short" }),
    lineage: `${lineage.dataset}, ${rest.num_parameters.toLocaleString()} parameters`,
  });
  $("[data-do=promote]", node).hidden = alias === "champion";
}

function distance({ fd_cnn: fd, fd_cnn_floor: floor }) {
  if (fd === undefined) return "not measured";
  return `${fd.toFixed(2)}, real images ${floor.toFixed(2)} (${(fd / floor).toFixed(1)}×)`;
}

function accuracy({ class_accuracy: share, class_accuracy_reals: reals }) {
  if (share === undefined || share === null) return "not measured";
  return `${(100 * share).toFixed(1)} %, real images ${(100 * reals).toFixed(1)} %`;
}

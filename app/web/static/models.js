// Owns the view of models: how good each version is, and which one serves.

import { call, post, textOf } from "./api.js";
import { $, acts, fill, keep, picture, read, when } from "./dom.js";

/** Show these models; `refresh` is called when one was changed. */
export function show(models, refresh) {
  const items = models.map((model) => ({ ...model, id: model.model, refresh }));
  keep($("#model-list"), $("#model-template"), items, makeModel, showModel);
}

function makeModel(node, { model, refresh }) {
  acts(node, { rollback: () => post(`/v1/models/${model}/rollback`).then(refresh) });
}

function showModel(node, { model, details, aliases, refresh }) {
  const count = details.length === 1 ? "1 version" : `${details.length} versions`;
  fill(node, { model, about: `${count}, version ${aliases.champion} serves` });
  $("[data-do=rollback]", node).hidden = !aliases.previous;
  const versions = details.map((v) => ({ ...v, id: v.version, aliases, refresh })).reverse();
  keep($("ul", node), $("#version-template"), versions, makeVersion, showVersion);
}

function makeVersion(node, { model, version, refresh }) {
  const url = `/v1/models/${model}/versions/${version}`;
  const champion = `/v1/models/${model}/aliases/champion`;
  acts(node, {
    card: async () => read(`${model}, version ${version}`, await textOf(`${url}/card`)),
    promote: () => call(champion, { method: "PUT", json: { version } }).then(refresh),
  });
  $("img", node).alt = `Samples of ${model}, version ${version}, with fixed seeds`;
  picture($("img", node), `${url}/samples.png`);
}

function showVersion(node, { version, aliases, metrics, lineage, ...rest }) {
  const alias = Object.keys(aliases).find((name) => aliases[name] === version) ?? "";
  fill(node, {
    version: String(version),
    alias,
    ...quality(metrics),
    created: when(rest.created_at),
    lineage: `${lineage.dataset}, ${rest.num_parameters.toLocaleString()} parameters`,
  });
  $("[data-do=promote]", node).hidden = alias === "champion";
  node.dataset.status = alias;
}

/** Each number of the report beside what real images reach. */
function quality({ fd_cnn: fd, fd_cnn_floor: floor, ...more }) {
  const percent = (x) => (x === undefined ? "not measured" : `${(100 * x).toFixed(1)}\u00a0%`);
  const reals = (x) => (x === undefined ? "" : `real images ${percent(x)}`);
  return {
    fd: fd === undefined ? "not measured" : fd.toFixed(2),
    floor: floor === undefined ? "" : `floor ${floor.toFixed(2)}, ${(fd / floor).toFixed(1)}×`,
    accuracy: percent(more.class_accuracy),
    accuracyReals: reals(more.class_accuracy_reals),
    coverage: percent(more.coverage),
    coverageReals: reals(more.coverage_reals),
    copies: percent(more.memorised),
    copiesReals: reals(more.memorised_reals),
  };
}

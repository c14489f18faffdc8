// The clusters: cards by size, a page for each, and which are ticked for the next edit.

function legendOf(rows) {
  return rows.map(({ cluster, note }) => el("li", {}, el("button", {
    class: "chip",
    title: `${nameOf(cluster)}: show its page`,
    onclick: () => openCluster(cluster),
  }, swatch(looks.clusters[cluster], ""), el("span", { class: "text" }, nameOf(cluster)),
  note ? el("span", { class: "soft" }, note) : null)));
}

function listClusters() {
  const rows = liveClusters();
  const dropped = edited.to.filter((live) => live < 0).length;
  const gone = dropped ? `; ${plural(dropped, "cluster")} dropped` : "";
  $("cluster-list").replaceChildren(
    el("h2", {}, plural(rows.length, "cluster"), el("span", { class: "soft" }, ` by size${gone}. Tick some to merge, rename, split or drop them.`)),
    el("ul", { class: "cluster-cards" }, ...rows.map(clusterCard)),
  );
}

function clusterCard({ cluster, parts, share, segments, confidence }) {
  const box = el("input", {
    type: "checkbox",
    "aria-label": `Select ${nameOf(cluster)}`,
    onchange: (event) => {
      if (event.target.checked) state.chosen.add(cluster);
      else state.chosen.delete(cluster);
      event.target.closest(".cluster-card").classList.toggle("ticked", event.target.checked);
      showSelection();
    },
  });
  box.checked = state.chosen.has(cluster);
  const bar = el("i", { class: "meter" });
  bar.style.setProperty("--p", 100 * share);
  const [row, segment] = examplesOf(parts, "central")[0] ?? [-1];
  const crops = examplesOf(parts, "central").slice(0, 4);
  return el("li", { class: `cluster-card${box.checked ? " ticked" : ""}`, "data-cluster": cluster },
    el("div", { class: "card-head" }, box,
      el("button", { class: "link", onclick: () => openCluster(cluster) },
        swatch(looks.clusters[cluster], ""), el("span", { class: "text" }, nameOf(cluster)))),
    bar,
    el("p", { class: "soft" }, `${percent(share)} of pixels · ${plural(segments, "segment")} · confidence ${percent(confidence, 0)}`,
      parts.length > 1 ? ` · merged from ${parts.join(", ")}` : "",
      edited.parts[cluster] ? ` · to be split into ${edited.parts[cluster]}` : ""),
    row == null || row < 0 ? null : el("div", { class: "crops four" }, ...crops.map(([r, s]) => lazily(() => cropButton(r, s, "", 72)))));
}

/** Segments of several clusters, taken in turn. */
function examplesOf(parts, kind) {
  const lists = parts.map((one) => run.clusters[one][kind]);
  const longest = Math.max(...lists.map((list) => list.length));
  const found = [];
  for (let at = 0; at < longest; at += 1)
    for (const list of lists) if (list[at]) found.push(list[at]);
  return found.slice(0, 24);
}

/** A place that is filled when it comes near the screen. */
function lazily(make) {
  const place = el("span", { class: "crop-place" });
  place.make = make;
  nearScreen.observe(place);
  return place;
}

const nearScreen = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries)
    if (isIntersecting) {
      nearScreen.unobserve(target);
      target.replaceWith(target.make());
    }
}, { rootMargin: "200px" });

// --- one cluster ---------------------------------------------------------------------------------

function openCluster(cluster) {
  if ($("large").open) $("large").close();
  state.open = cluster;
  showTab("clusters");
  $("clusters").scrollTop = 0;
  $("cluster-page").querySelector("button")?.focus();
}

function closeCluster() {
  state.open = -1;
  showClusters();
}

function showClusters() {
  const open = state.open >= 0;
  $("cluster-list").hidden = open;
  $("cluster-page").hidden = !open;
  if (open) showCluster(state.open);
  else listClusters();
  showSelection();
}

function showCluster(cluster) {
  const { parts, share, segments, confidence } = liveClusters().find((one) => one.cluster === cluster);
  const match = className(cluster);
  const facts = [
    ["Share of pixels", percent(share)],
    ["Segments", segments.toLocaleString("en")],
    ["Mean confidence", percent(confidence, 0)],
    run.match && ["Matched class", match ?? "none"],
    parts.length > 1 && ["Merged from", parts.join(", ")],
    edited.parts[cluster] && ["To be split into", `${edited.parts[cluster]} parts`],
  ].filter(Boolean);
  $("cluster-page").replaceChildren(
    el("div", { class: "row" },
      el("button", { onclick: closeCluster }, "← All clusters"),
      el("span", { class: "gap" }),
      el("button", { onclick: () => showImagesOf(cluster) }, "Images with it"),
      el("button", { onclick: () => askName(cluster) }, "Rename"),
      el("button", { onclick: () => askSplit(cluster) }, "Split"),
      el("button", { onclick: () => addEdit({ op: "drop", cluster }) }, "Drop"),
      el("button", { onclick: () => (state.chosen.add(cluster), closeCluster()) }, "Merge with …")),
    el("h2", {}, swatch(looks.clusters[cluster], ""), el("span", { class: "text" }, nameOf(cluster))),
    el("dl", { class: "facts" }, ...facts.map(([term, value]) =>
      el("div", {}, el("dt", {}, term), el("dd", { class: "text" }, value)))),
    cropRow("Most central", "nearest to the centroid", examplesOf(parts, "central")),
    cropRow("Random", "drawn with the seed of the run", examplesOf(parts, "random")),
    cropRow("Least certain", "lowest confidence first", examplesOf(parts, "uncertain")),
    neighbourRow("Nearest clusters", "distance between centroids", parts, "near", (value) => value.toFixed(2)),
    neighbourRow("Touches most", "share of its borders", parts, "touching", (value) => percent(value, 0)),
  );
}

function cropRow(title, note, rows) {
  return el("section", {},
    el("h3", {}, title, el("span", { class: "soft" }, ` ${note}`)),
    rows.length
      ? el("ul", { class: "crops", "aria-label": title }, ...rows.map(([row, segment]) =>
        el("li", {}, lazily(() => cropButton(row, segment, "", 104)))))
      : el("p", { class: "soft" }, "none"));
}

/** Of merged clusters, the figures of the one that kept its number. */
function neighbourRow(title, note, parts, kind, words) {
  const rows = new Map();
  for (const [other, value] of run.clusters[parts[0]][kind]) {
    const live = liveOf(other);
    if (live >= 0 && live !== parts[0] && !rows.has(live)) rows.set(live, words(value));
  }
  return el("section", {},
    el("h3", {}, title, el("span", { class: "soft" }, ` ${note}`)),
    el("ul", { class: "legend" }, ...legendOf([...rows].map(([cluster, value]) => ({ cluster, note: value })))));
}

function showImagesOf(cluster) {
  state.cluster = cluster;
  state.share = 0;
  changed("order");
  showTab("images");
  showFilters();
}

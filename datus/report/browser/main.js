// Tabs, tools, keys; and the start, when the index has come.

function showTab(tab) {
  state.tab = tab;
  for (const button of document.querySelectorAll("[data-tab]")) {
    const mine = button.dataset.tab === tab;
    button.setAttribute("aria-selected", String(mine));
    button.tabIndex = mine ? 0 : -1;
    $(button.dataset.tab).hidden = !mine;
  }
  if (tab === "images") measure();
  if (tab === "clusters") showClusters();
  if (tab === "review") showReview();
}

function setView(view) {
  const wanted = VIEWS.find((one) => one.value === view);
  if (!wanted || (wanted.needs && !run.classes)) return;
  state.view = view;
  changed("view");
}

const viewOptions = () => VIEWS.map((view, n) => ({
  ...view,
  off: Boolean(view.needs) && !run.classes,
  title: view.needs && !run.classes ? "needs true masks" : `key ${n + 1}`,
}));

function showLegend() {
  const items = [];
  const plain = (look, text) => el("li", {}, el("span", { class: "chip" }, swatch(look, ""), el("span", { class: "text" }, text)));
  if (state.view === "truth") run.classes.forEach((name, n) => items.push(plain(looks.classes[n], name)));
  else if (state.view === "errors")
    for (const { label, rgb } of Object.values(ERRORS)) items.push(plain({ rgb, ink: rgb, inked: () => false }, label));
  else if (state.view === "confidence")
    for (const share of [0, 0.25, 0.5, 0.75, 1]) {
      const rgb = ramp(share);
      items.push(plain({ rgb, ink: rgb, inked: () => false }, percent(share, 0)));
    }
  else if (state.view !== "photo") items.push(...legendOf(liveClusters().slice(0, 24)));
  $("legend").replaceChildren(...items);
}

// --- tools ---------------------------------------------------------------------------------------

function showFilters() {
  const any = el("option", { value: -1 }, "any");
  $("cluster").replaceChildren(any, ...liveClusters().map(({ cluster }) =>
    el("option", { value: cluster }, nameOf(cluster))));
  $("cluster").value = state.cluster;
  $("share").value = state.share;
  $("share").disabled = state.cluster < 0;
  $("search").value = state.text;
  $("sort").value = state.sort;
  $("direction").textContent = state.descending ? "↓" : "↑";
  const now = state.descending ? "Descending" : "Ascending";
  $("direction").setAttribute("aria-label", `${now}; change the direction`);
}

function startTools() {
  const choose = () => state.view;
  const groups = [$("views"), $("large-views")].map((box) => radioGroup(box, viewOptions(), choose, setView));
  on("view", () => groups.forEach((show) => show()));
  on("view", showLegend);
  on("edits", () => {
    showLegend();
    showFilters();
    $("n-edits").textContent = edits.length;
    $("n-edits").hidden = !edits.length;
    if (state.tab === "clusters") showClusters();
    if (state.tab === "review") showReview();
  });
  $("sort").replaceChildren(...SORTS.filter((one) => !one.needs || run.classes)
    .map(({ value, label }) => el("option", { value }, label)));
  $("opacity").oninput = (event) => {
    state.opacity = event.target.value / 100;
    redraw();
    if ($("large").open) showLarge();
  };
  const resize = framed(measure);
  $("zoom").oninput = (event) => {
    state.size = Number(event.target.value);
    resize();
  };
  const order = (id, read) => $(id).addEventListener("input", () => {
    read($(id).value);
    changed("order");
    showFilters();
  });
  order("sort", (value) => (state.sort = value));
  order("cluster", (value) => (state.cluster = Number(value)));
  order("share", (value) => (state.share = Math.max(0, Math.min(100, Number(value) || 0))));
  order("search", (value) => (state.text = value));
  $("direction").onclick = () => {
    state.descending = !state.descending;
    changed("order");
    showFilters();
  };
  $("reset").onclick = () => {
    Object.assign(state, { sort: "name", descending: false, cluster: -1, share: 0, text: "" });
    changed("order");
    showFilters();
  };
  $("more").onclick = () => {
    const open = $("filters").classList.toggle("open");
    $("more").setAttribute("aria-expanded", String(open));
  };
}

// --- keys ----------------------------------------------------------------------------------------

const HELP = [
  ["1 – 6", "photo, mask, overlay, truth, errors, confidence"],
  ["← ↑ → ↓", "from image to image; in the large view to the previous and next one"],
  ["Enter", "open the image"],
  ["+ − 0", "in the large view: zoom in, out, fit; wheel and drag do it too"],
  ["/", "search by name"],
  ["i c r", "images, clusters, review"],
  ["z", "undo the last edit"],
  ["Esc", "close the large view, or leave the page of a cluster"],
  ["?", "this help"],
];

function startHelp() {
  $("help-text").replaceChildren(
    el("dl", { class: "keys" }, ...HELP.flatMap(([keys, text]) => [el("dt", {}, keys), el("dd", {}, text)])),
    el("p", { class: "soft" },
      "Confidence, votes and together are shares: of how sure a segment's cluster is in all, of the runs of k-means that "
      + "agree on it, and of the orders of Louvain that kept its patches together. Margin is 1 − nearest / second nearest distance."),
    el("p", { class: "soft" },
      run.rule ? `Score is the share of the known pixels that are right, under the match of the whole run (${run.rule}).` : "There were no true masks: no truth, errors or scores."),
    el("p", { class: "soft" }, `Pictures are previews, at most 256 pixels wide or high. DatUS ${run.version}.`),
  );
  $("help-open").onclick = () => $("help").showModal();
}

function pressed(event) {
  const { key, target } = event;
  if (event.ctrlKey || event.metaKey || event.altKey) return false;
  if ($("ask").open || $("help").open) return false;
  const typing = target.matches("input:not([type=checkbox]):not([type=range]), select, textarea");
  if (typing) return false;
  if (key >= "1" && key <= "6") return setView(VIEWS[Number(key) - 1].value), true;
  if (key === "?") return $("help").showModal(), true;
  if ($("large").open) return !target.matches("input") && largeKey(key);
  if (key === "/") return toSearch(), true;
  if (key === "z") return undo(), true;
  if (key in TAB_KEYS) return showTab(TAB_KEYS[key]), true;
  if (key === "Escape" && state.tab === "clusters" && state.open >= 0) return closeCluster(), true;
  if (state.tab !== "images" || target.matches("input, [role=tab]")) return false;
  return gridKey(key);
}

const TAB_KEYS = { i: "images", c: "clusters", r: "review" };

function toSearch() {
  showTab("images");
  $("filters").classList.add("open");
  $("more").setAttribute("aria-expanded", "true");
  $("search").focus();
  $("search").select();
}

function startKeys() {
  document.addEventListener("keydown", (event) => {
    if (pressed(event)) event.preventDefault();
  });
  $("search").addEventListener("keydown", (event) => {
    if (event.key === "Escape" || event.key === "Enter") {
      event.preventDefault();
      moveCursor(state.cursor);
    }
  });
  const tabs = [...document.querySelectorAll("[data-tab]")];
  for (const tab of tabs) {
    tab.onclick = () => {
      if (tab.dataset.tab === "clusters" && state.tab === "clusters") state.open = -1;
      showTab(tab.dataset.tab);
    };
    tab.onkeydown = (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const next = tabs[(tabs.indexOf(tab) + step + tabs.length) % tabs.length];
      showTab(next.dataset.tab);
      next.focus();
    };
  }
}

function startTheme() {
  const root = document.documentElement;
  const dark = () => (root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const kept = memory.get("datus-theme");
  if (kept === "dark" || kept === "light") root.dataset.theme = kept;
  $("theme").onclick = () => {
    root.dataset.theme = dark() ? "light" : "dark";
    memory.set("datus-theme", root.dataset.theme);
  };
}

// --- start ---------------------------------------------------------------------------------------

async function start() {
  startTheme();
  run = await load("index", 0, "index.js");
  run.k = run.clusters.length; // labels: the clusters, and parts of those that were split before
  run.shares = bytesOf(run.images.shares);
  edited = applied([]);
  makeLooks();
  if (window.innerWidth < 600) state.size = Number($("zoom").value = 150);
  startTools();
  startGrid();
  startLarge();
  startHelp();
  startKeys();
  showFilters();
  showLegend();
  reorder();
  if (restoreDraft()) speak(`${plural(edits.length, "edit")} of last time are here again`);
  document.body.dataset.ready = "yes";
}

start().catch((error) => problem(error.message));

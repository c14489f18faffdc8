// One image in large: zoom, pan, what is under the pointer, segments to click.

const large = { row: -1, picture: null, segment: -1, hover: -1, zoom: 1, x: 0, y: 0 };

function openAt(place) {
  state.cursor = place;
  openLarge(state.order[place]);
}

async function openLarge(row, segment = -1) {
  Object.assign(large, { row, picture: null, segment: -1, hover: -1, zoom: 1, x: 0, y: 0 });
  const place = state.order.indexOf(row);
  if (place >= 0) state.cursor = place;
  $("large-name").textContent = run.images.id[row];
  $("previous").disabled = place <= 0;
  $("next").disabled = place < 0 || place >= state.order.length - 1;
  for (const id of ["hover", "image-facts", "retrieval", "segment-list", "outlines"]) $(id).replaceChildren();
  if (!$("large").open) $("large").showModal();
  try {
    const picture = await pictureOf(row);
    if (large.row !== row) return;
    large.picture = picture;
    showLarge();
    listSegments();
    if (segment >= 0) chooseSegment(segment);
  } catch (error) {
    if (large.row === row) $("hover").textContent = error.message;
  }
}

/** The next or previous image of the order. */
function stepLarge(step) {
  const place = state.order.indexOf(large.row) + step;
  if (place >= step && place >= 0 && place < state.order.length) openLarge(state.order[place]);
}

async function showLarge() {
  const { picture } = large;
  if (!picture || !$("large").open) return;
  await pictureOf(large.row); // the view may need more of it than the last one
  if (large.picture !== picture) return;
  paint($("large-canvas"), picture);
  const view = VIEWS.find((one) => one.value === state.view).label;
  $("large-canvas").setAttribute("aria-label", `${view} of ${picture.id}`);
  $("outlines").setAttribute("viewBox", `0 0 ${picture.columns} ${picture.rows}`);
  fit();
  drawOutlines();
  showFacts();
  tell(large.hover >= 0 ? large.hover : large.segment);
}

/** The paper fills the stage; zoom and pan are a transform of it. */
function fit() {
  const { picture } = large;
  const stage = $("stage");
  const scale = Math.min(stage.clientWidth / picture.width, stage.clientHeight / picture.height);
  const paper = $("paper");
  paper.style.width = `${picture.width * scale}px`;
  paper.style.height = `${picture.height * scale}px`;
  move();
}

function move() {
  const paper = $("paper");
  const reach = (size) => ((large.zoom - 1) * size) / 2;
  const limit = (value, size) => Math.max(-reach(size), Math.min(reach(size), value));
  large.x = limit(large.x, paper.offsetWidth);
  large.y = limit(large.y, paper.offsetHeight);
  paper.style.transform = `translate(${large.x}px, ${large.y}px) scale(${large.zoom})`;
}

/** `around`: {x, y} from the middle of the stage that stays where it is. */
function zoomBy(factor, around = { x: 0, y: 0 }) {
  const next = Math.max(1, Math.min(12, large.zoom * factor));
  const ratio = next / large.zoom;
  large.x = around.x - ratio * (around.x - large.x);
  large.y = around.y - ratio * (around.y - large.y);
  large.zoom = next;
  move();
}

// --- segments ------------------------------------------------------------------------------------

function segmentAt(event) {
  const { picture } = large;
  if (!picture) return -1;
  const box = $("large-canvas").getBoundingClientRect();
  const x = Math.floor(((event.clientX - box.left) / box.width) * picture.columns);
  const y = Math.floor(((event.clientY - box.top) / box.height) * picture.rows);
  if (x < 0 || y < 0 || x >= picture.columns || y >= picture.rows) return -1;
  return picture.segments[y * picture.columns + x];
}

function drawOutlines() {
  const { picture, hover, segment } = large;
  const path = (which, name) => {
    const data = edgesOf(picture, which).map(([x0, y0, x1, y1]) => `M${x0} ${y0}L${x1} ${y1}`).join("");
    const node = document.createElementNS("http://www.w3.org/2000/svg", "path");
    node.setAttribute("d", data);
    node.setAttribute("class", name);
    return node;
  };
  const drawn = [];
  if (segment >= 0) drawn.push(path(segment, "back"), path(segment, "chosen"));
  if (hover >= 0 && hover !== segment) drawn.push(path(hover, "back"), path(hover, "hovered"));
  $("outlines").replaceChildren(...drawn);
}

function tell(segment) {
  const { picture } = large;
  if (!picture || segment < 0) {
    $("hover").textContent = "Point at a segment for its figures, click it for segments like it.";
    return;
  }
  const cluster = liveOf(picture.cluster[segment]);
  const figure = (name) => `${name} ${percent(picture[name][segment], 0)}`;
  $("hover").replaceChildren(
    el("span", { class: "chip" }, swatch(cluster < 0 ? null : looks.clusters[cluster], ""), el("b", { class: "text" }, nameOf(cluster))),
    ` · segment ${segment} · ${patchWords(picture.patches[segment])}`,
    el("br"),
    ["confidence", "votes", "together", "margin"].map(figure).join(" · "),
  );
}

const patchWords = (n) => `${n} ${n === 1 ? "patch" : "patches"}`;

function chooseSegment(segment) {
  large.segment = segment;
  drawOutlines();
  tell(segment);
  for (const button of $("segment-list").querySelectorAll("button"))
    button.setAttribute("aria-pressed", String(Number(button.dataset.segment) === segment));
  if (segment >= 0) retrieve(large.row, segment);
  else $("retrieval").replaceChildren();
}

/** All segments as buttons: for keys and screen readers. */
function listSegments() {
  const { picture } = large;
  const order = picture.patches.map((_, segment) => segment);
  order.sort((one, other) => picture.patches[other] - picture.patches[one] || one - other);
  $("segments").querySelector("summary").textContent = plural(order.length, "segment");
  $("segment-list").replaceChildren(...order.map((segment) => {
    const cluster = liveOf(picture.cluster[segment]);
    return el("li", {}, el("button", {
      "data-segment": segment,
      "aria-pressed": "false",
      onclick: () => chooseSegment(segment),
      onfocus: () => ((large.hover = segment), drawOutlines(), tell(segment)),
      onblur: () => ((large.hover = -1), drawOutlines()),
    }, swatch(cluster < 0 ? null : looks.clusters[cluster], ""),
    el("span", { class: "text" }, nameOf(cluster)),
    el("span", { class: "soft" }, `${segment} · ${picture.patches[segment]}`)));
  }));
}

function showFacts() {
  const { picture, row } = large;
  const { score, confidence, coverage } = run.images;
  const present = liveClusters().map(({ cluster }) => ({ cluster, share: shareOf(row, cluster) }));
  const found = present.filter(({ share }) => share > 0).sort((a, b) => b.share - a.share);
  const facts = [
    `${picture.size[1]} × ${picture.size[0]} pixels`,
    run.classes && `score ${score[row] == null ? "none" : percent(score[row] / 1000)}`,
    `confidence ${percent(confidence[row] / 1000)}`,
    `coverage ${percent(coverage[row] / 1000)}`,
  ];
  $("image-facts").replaceChildren(
    el("p", { class: "soft" }, facts.filter(Boolean).join(" · ")),
    el("ul", { class: "legend" }, ...legendOf(found.map(({ cluster, share }) => ({ cluster, note: percent(share, 0) })))),
  );
}

// --- pointer, buttons, keys ----------------------------------------------------------------------

function startStage() {
  const stage = $("stage");
  const pointers = new Map();
  let travelled = 0, spreadBefore = 0;
  const middle = (event) => {
    const box = stage.getBoundingClientRect();
    return { x: event.clientX - box.left - box.width / 2, y: event.clientY - box.top - box.height / 2 };
  };
  const spread = () => {
    const [one, other] = [...pointers.values()];
    return Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);
  };
  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoomBy(Math.exp(-event.deltaY / 300), middle(event));
  }, { passive: false });
  stage.addEventListener("pointerdown", (event) => {
    pointers.set(event.pointerId, event);
    stage.setPointerCapture(event.pointerId);
    if (pointers.size === 1) travelled = 0;
    if (pointers.size === 2) spreadBefore = spread();
  });
  stage.addEventListener("pointermove", (event) => {
    const before = pointers.get(event.pointerId);
    if (!before) return hoverAt(segmentAt(event));
    pointers.set(event.pointerId, event);
    travelled += Math.hypot(event.clientX - before.clientX, event.clientY - before.clientY);
    if (pointers.size === 2) {
      zoomBy(spread() / (spreadBefore || 1), middle(event));
      spreadBefore = spread();
    } else {
      large.x += event.clientX - before.clientX;
      large.y += event.clientY - before.clientY;
      move();
    }
  });
  stage.addEventListener("pointerup", (event) => {
    if (pointers.size === 1 && travelled < 5) chooseSegment(segmentAt(event));
    pointers.delete(event.pointerId);
  });
  stage.addEventListener("pointercancel", (event) => pointers.delete(event.pointerId));
  stage.addEventListener("pointerleave", () => hoverAt(-1));
}

function hoverAt(segment) {
  if (segment === large.hover || !large.picture) return;
  large.hover = segment;
  drawOutlines();
  tell(segment >= 0 ? segment : large.segment);
}

function largeKey(key) {
  const does = {
    ArrowRight: () => stepLarge(1),
    ArrowLeft: () => stepLarge(-1),
    "+": () => zoomBy(1.4),
    "=": () => zoomBy(1.4),
    "-": () => zoomBy(1 / 1.4),
    0: () => ((large.zoom = 1), move()),
  }[key];
  does?.();
  return Boolean(does);
}

function startLarge() {
  startStage();
  $("previous").onclick = () => stepLarge(-1);
  $("next").onclick = () => stepLarge(1);
  $("zoom-in").onclick = () => zoomBy(1.4);
  $("zoom-out").onclick = () => zoomBy(1 / 1.4);
  $("zoom-fit").onclick = () => largeKey("0");
  $("large-close").onclick = () => $("large").close();
  $("large").addEventListener("close", () => {
    const place = state.order.indexOf(large.row); // the browser has put the focus back already
    large.row = -1;
    if (state.tab === "images") moveCursor(place >= 0 ? place : state.cursor);
  });
  new ResizeObserver(framed(() => large.picture && $("large").open && fit())).observe($("stage"));
  on("view", showLarge);
  on("edits", () => {
    if (!large.picture || !$("large").open) return;
    showLarge();
    listSegments();
  });
}

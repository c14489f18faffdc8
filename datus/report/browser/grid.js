// The grid of images: only the cards in sight exist, and move to where they are needed.

const SORTS = [
  { value: "name", label: "name" },
  { value: "confidence", label: "confidence" },
  { value: "coverage", label: "coverage" },
  { value: "score", label: "score", needs: "truth" },
];
const GAP = 10;
const CAPTION = 34;
const OVERSCAN = 1; // rows above and below what is seen

const cards = new Map(); // place in the order -> card
const spare = [];
let layout = { columns: 1, width: 200, height: 160 };

/** Filter and sort anew. */
function reorder() {
  const { id, [state.sort]: values } = run.images;
  const text = state.text.trim().toLowerCase();
  const rows = [];
  for (let row = 0; row < id.length; row += 1) {
    if (text && !id[row].toLowerCase().includes(text)) continue;
    if (state.cluster >= 0 && !holds(row)) continue;
    rows.push(row);
  }
  if (state.sort !== "name") {
    // images without a score come last, whatever the direction
    const sign = state.descending ? -1 : 1;
    rows.sort((a, b) => {
      if (values[a] == null || values[b] == null) return (values[a] == null) - (values[b] == null) || a - b;
      return sign * (values[a] - values[b]) || a - b;
    });
  } else if (state.descending) rows.reverse();
  state.order = rows;
  state.cursor = 0;
  $("scroller").scrollTop = 0;
  for (const [place, card] of cards) retire(place, card);
  measure();
  const shown = run.images.id.length;
  const all = rows.length === shown ? plural(shown, "image") : `${rows.length.toLocaleString("en")} of ${plural(shown, "image")}`;
  $("count").textContent = run.n_images > shown ? `${all} (an even sample of ${run.n_images.toLocaleString("en")})` : all;
}

/** The image has enough of the chosen cluster, or of what was merged into it. */
function holds(row) {
  return shareOf(row, state.cluster) > 0 && shareOf(row, state.cluster) >= state.share / 100 - 0.5 / 255;
}

function shareOf(row, cluster) {
  let sum = 0;
  for (let one = 0; one < run.k; one += 1)
    if (edited.to[one] === cluster) sum += run.shares[row * run.k + one];
  return sum / 255;
}

function measure() {
  const room = $("scroller").clientWidth - 2 * GAP;
  if (room <= 0) return;
  const columns = Math.max(1, Math.floor((room + GAP) / (state.size + GAP)));
  const width = Math.floor((room - (columns - 1) * GAP) / columns);
  layout = { columns, width, height: Math.round(0.75 * width) + CAPTION };
  $("grid").style.height = `${Math.ceil(state.order.length / columns) * (layout.height + GAP) + GAP}px`;
  for (const [place, card] of cards) put(place, card);
  showCards();
}

function inSight() {
  const { scrollTop, clientHeight } = $("scroller");
  const pitch = layout.height + GAP;
  const first = Math.max(0, Math.floor(scrollTop / pitch) - OVERSCAN) * layout.columns;
  const last = (Math.ceil((scrollTop + clientHeight) / pitch) + OVERSCAN) * layout.columns;
  return [first, Math.min(last, state.order.length)];
}

function showCards() {
  if (state.tab !== "images") return;
  const [first, last] = inSight();
  for (const [place, card] of cards) if (place < first || place >= last) retire(place, card);
  for (let place = first; place < last; place += 1) if (!cards.has(place)) fill(place);
}

function retire(place, card) {
  cards.delete(place);
  card.row = -1;
  card.box.removeAttribute("aria-posinset");
  if (spare.length < 60 && document.activeElement !== card.button) {
    card.box.style.visibility = "hidden";
    spare.push(card);
  } else card.box.remove();
}

function newCard() {
  const canvas = el("canvas", { width: 4, height: 3, "aria-hidden": "true" });
  const name = el("span", { class: "name text" });
  const figures = el("span", { class: "figures" });
  const card = { canvas, name, figures, row: -1, place: 0 };
  card.button = el("button", {
    class: "card",
    onclick: () => openAt(card.place),
    onfocus: () => moveCursor(card.place, false),
  }, canvas, el("span", { class: "caption" }, name, figures));
  card.box = el("div", { class: "cell", role: "listitem" }, card.button);
  $("grid").append(card.box);
  return card;
}

function fill(place) {
  const card = spare.pop() ?? newCard();
  const row = state.order[place];
  cards.set(place, card);
  Object.assign(card, { row, place });
  card.box.style.visibility = "";
  card.box.setAttribute("aria-setsize", state.order.length);
  card.box.setAttribute("aria-posinset", place + 1);
  card.name.textContent = run.images.id[row];
  card.button.title = run.images.id[row];
  card.figures.textContent = figuresOf(row);
  card.button.setAttribute("aria-label", `${run.images.id[row]}, ${figuresOf(row)}`);
  card.button.tabIndex = place === state.cursor ? 0 : -1;
  put(place, card);
  draw(card);
}

function put(place, { box, canvas }) {
  const { columns, width, height } = layout;
  const x = GAP + (place % columns) * (width + GAP);
  const y = GAP + Math.floor(place / columns) * (height + GAP);
  box.style.transform = `translate(${x}px, ${y}px)`;
  box.style.width = `${width}px`;
  box.style.height = `${height}px`;
  canvas.style.height = `${height - CAPTION}px`;
}

function figuresOf(row) {
  const { score, confidence, coverage } = run.images;
  const shown = state.sort === "name" ? (run.classes ? "score" : "confidence") : state.sort;
  const value = { score, confidence, coverage }[shown][row];
  return `${shown} ${value == null ? "none" : percent(value / 1000)}`;
}

async function draw(card) {
  const { row } = card;
  const mine = () => card.row === row;
  card.canvas.classList.add("waiting");
  try {
    const picture = await pictureOf(row, mine);
    if (!mine()) return;
    paint(card.canvas, picture);
    card.canvas.classList.remove("waiting");
  } catch (error) {
    if (mine() && error === SKIPPED) draw(card); // it left and came back meanwhile
  }
}

const redraw = framed(() => {
  for (const card of cards.values()) draw(card);
});

// --- the cursor ----------------------------------------------------------------------------------

function moveCursor(place, focus = true) {
  const next = Math.max(0, Math.min(state.order.length - 1, place));
  cards.get(state.cursor)?.button.setAttribute("tabindex", "-1");
  state.cursor = next;
  if (focus) {
    reveal(next);
    showCards();
  }
  const card = cards.get(next);
  card?.button.setAttribute("tabindex", "0");
  if (focus) card?.button.focus({ preventScroll: true });
}

function reveal(place) {
  const scroller = $("scroller");
  const pitch = layout.height + GAP;
  const top = Math.floor(place / layout.columns) * pitch;
  if (top < scroller.scrollTop) scroller.scrollTop = top;
  const bottom = top + pitch + GAP;
  if (bottom > scroller.scrollTop + scroller.clientHeight)
    scroller.scrollTop = bottom - scroller.clientHeight;
}

function gridKey(key) {
  const { columns, height } = layout;
  const page = Math.max(1, Math.floor($("scroller").clientHeight / (height + GAP))) * columns;
  const steps = {
    ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns,
    PageDown: page, PageUp: -page, Home: -state.order.length, End: state.order.length,
  };
  if (!(key in steps) || !state.order.length) return false;
  const focused = document.activeElement?.classList.contains("card");
  const enters = !focused && key.startsWith("Arrow"); // the first arrow only shows where one is
  moveCursor(enters ? state.cursor : state.cursor + steps[key]);
  return true;
}

function startGrid() {
  $("scroller").addEventListener("scroll", framed(showCards), { passive: true });
  new ResizeObserver(framed(measure)).observe($("scroller"));
  on("view", redraw);
  on("order", reorder);
  on("edits", () => {
    if (state.cluster < 0) return redraw();
    if (!isLive(state.cluster)) state.cluster = -1;
    return reorder();
  });
}

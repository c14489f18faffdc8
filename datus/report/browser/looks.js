// What a cluster looks like and is called: colours that colour-blind people tell apart, patterns
// where there are more than colours, and the edits on top of both.

// after Okabe and Ito, and Tol: far apart in lightness too, so that no pair rests on hue alone
const COLOURS = [
  [0, 114, 178], [230, 159, 0], [0, 158, 115], [204, 121, 167], [86, 180, 233], [213, 94, 0],
  [240, 228, 66], [51, 34, 136], [153, 221, 204], [136, 34, 85], [153, 153, 51], [187, 187, 187],
];

const PATTERNS = [
  () => false,
  (x, y, step) => (x + y) % step < step / 4,
  (x, y, step) => x % step < step / 2 && y % step < step / 2,
  (x, y, step) => (x - y + 4096 * step) % step < step / 4,
  (x, y, step) => y % step < step / 4,
  (x, y, step) => x % step < step / 4,
];

/** {rgb, ink, inked(x, y)} of the n-th look; the first twelve are plain. */
function lookOf(n) {
  const rgb = COLOURS[n % COLOURS.length];
  const round = Math.floor(n / COLOURS.length);
  if (!round) return { rgb, ink: rgb, inked: PATTERNS[0] };
  const kind = 1 + ((round - 1) % (PATTERNS.length - 1));
  const variant = Math.floor((round - 1) / (PATTERNS.length - 1));
  const ink = variant % 2 ? [255, 255, 255] : [20, 20, 20];
  const step = 8 + 6 * Math.floor(variant / 2);
  return { rgb, ink, inked: (x, y) => PATTERNS[kind](x, y, step) };
}

const css = (rgb) => `rgb(${rgb.join(" ")})`;

let looks = { clusters: [], classes: [] };

/** A matched cluster looks like its class; the others come after the classes. */
function makeLooks() {
  const classes = (run.classes ?? []).map((_, n) => lookOf(n));
  let next = classes.length;
  const clusters = run.clusters.map((_, one) => {
    const match = run.match ? run.match[one] : -1;
    return match >= 0 ? classes[match] : lookOf(next++);
  });
  looks = { clusters, classes };
}

/** A small picture of a look, for lists. Patterns need pixels, so it is a canvas. */
function swatch(look, label) {
  const canvas = el("canvas", { class: "swatch", width: 16, height: 16, role: "img", "aria-label": label });
  if (!label) canvas.setAttribute("aria-hidden", "true");
  const context = canvas.getContext("2d");
  const image = context.createImageData(16, 16);
  for (let at = 0; at < 256; at += 1) {
    const rgb = look && look.inked(at % 16, at >> 4) ? look.ink : look ? look.rgb : [128, 128, 128];
    image.data.set([...rgb, look ? 255 : 70], 4 * at);
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

// --- names, with the edits applied ---------------------------------------------------------------

/** The live cluster that a cluster is part of now; -1 = dropped or none. */
const liveOf = (cluster) => (cluster < 0 || cluster >= run.k ? -1 : edited.to[cluster]);

const isLive = (cluster) => edited.to[cluster] === cluster;

const className = (cluster) =>
  run.match && run.match[cluster] >= 0 ? run.classes[run.match[cluster]] : null;

/** "3 water": number, then the name that people gave, or the class it was matched to. */
function nameOf(cluster) {
  if (cluster < 0) return "no cluster";
  const name = edited.names[cluster] ?? className(cluster);
  return name ? `${cluster} ${name}` : `cluster ${cluster}`;
}

/** Live clusters, largest first, each with the clusters merged into it. */
function liveClusters() {
  const members = new Map();
  for (let one = 0; one < run.k; one += 1) {
    const live = edited.to[one];
    if (live >= 0) members.set(live, [...(members.get(live) ?? []), one]);
  }
  const rows = [...members].map(([cluster, parts]) => ({ cluster, parts, ...summed(parts) }));
  return rows.sort((one, other) => other.share - one.share || one.cluster - other.cluster);
}

function summed(parts) {
  let share = 0, segments = 0, confidence = 0;
  for (const one of parts) {
    share += run.clusters[one].share;
    segments += run.clusters[one].segments;
    confidence += run.clusters[one].share * run.clusters[one].confidence;
  }
  return { share, segments, confidence: share ? confidence / share : 0 };
}

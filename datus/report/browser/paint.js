// Pictures on canvases: photo, labels over it, errors, confidence; crops of segments.

const VIEWS = [
  { value: "photo", label: "Photo" },
  { value: "mask", label: "Mask" },
  { value: "overlay", label: "Overlay" },
  { value: "truth", label: "Truth", needs: "truth" },
  { value: "errors", label: "Errors", needs: "truth" },
  { value: "confidence", label: "Confidence" },
];

const ERRORS = {
  right: { label: "right", rgb: [86, 180, 233], alpha: 90 },
  wrong: { label: "another class", rgb: [213, 94, 0], alpha: 255 },
  nothing: { label: "cluster without a class, or no label", rgb: [136, 34, 85], alpha: 255 },
  unknown: { label: "not counted", rgb: [128, 128, 128], alpha: 150 },
};

/** 0 = dark blue, 1 = light yellow; lightness grows all the way. */
const RAMP = [[40, 20, 90], [70, 60, 140], [45, 115, 142], [40, 165, 130], [125, 205, 85], [250, 230, 60]];

function ramp(share) {
  const place = Math.max(0, Math.min(1, share)) * (RAMP.length - 1);
  const low = Math.min(Math.floor(place), RAMP.length - 2);
  return RAMP[low].map((value, n) => Math.round(value + (place - low) * (RAMP[low + 1][n] - value)));
}

const layer = new OffscreenCanvas(1, 1).getContext("2d");

/** Draw one view of a picture. The canvas takes the size of the preview. */
function paint(canvas, picture, view = state.view, opacity = state.opacity) {
  const { width, height } = picture;
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  context.globalAlpha = 1;
  if (view === "mask") {
    context.fillStyle = "#777";
    context.fillRect(0, 0, width, height);
  } else {
    context.drawImage(picture.photo, 0, 0, width, height);
  }
  if (view === "photo") return;
  if (RUN_TRUTH.has(view) && !picture.truth) return;
  Object.assign(layer.canvas, { width, height });
  const image = layer.createImageData(width, height);
  PAINTERS[view](picture, new Uint32Array(image.data.buffer), width);
  layer.putImageData(image, 0, 0);
  context.globalAlpha = view === "mask" ? 1 : opacity;
  context.drawImage(layer.canvas, 0, 0);
  context.globalAlpha = 1;
}

const RUN_TRUTH = new Set(["truth", "errors"]);

// bytes of a pixel as one number, lowest byte first as on all machines that browsers run on
const pixel = ([red, green, blue], alpha = 255) =>
  ((alpha << 24) | (blue << 16) | (green << 8) | red) >>> 0;

/** Labels in their looks; a label without a look stays clear. */
function paintLabels(labels, lookAt, pixels, width) {
  const plain = new Uint32Array(256);
  const ink = new Uint32Array(256);
  const known = Array.from({ length: 256 }, (_, label) => lookAt(label));
  known.forEach((look, label) => {
    plain[label] = look ? pixel(look.rgb) : 0;
    ink[label] = look ? pixel(look.ink) : 0;
  });
  for (let at = 0, x = 0, y = 0; at < labels.length; at += 1) {
    const label = labels[at];
    const inked = plain[label] !== ink[label] && known[label].inked(x, y);
    pixels[at] = inked ? ink[label] : plain[label];
    x += 1;
    if (x === width) (x = 0), (y += 1);
  }
}

function clusterLook(label) {
  const live = label < run.k ? liveOf(label) : -1;
  return live < 0 ? null : looks.clusters[live];
}

const PAINTERS = {
  mask: (picture, pixels, width) => paintLabels(picture.mask, clusterLook, pixels, width),
  overlay: (picture, pixels, width) => paintLabels(picture.mask, clusterLook, pixels, width),
  truth: (picture, pixels, width) =>
    paintLabels(picture.truth, (label) => looks.classes[label], pixels, width),
  errors(picture, pixels) {
    const colours = Object.fromEntries(
      Object.entries(ERRORS).map(([kind, { rgb, alpha }]) => [kind, pixel(rgb, alpha)]));
    for (let at = 0; at < pixels.length; at += 1)
      pixels[at] = colours[errorOf(picture.mask[at], picture.truth[at])];
  },
  confidence(picture, pixels) {
    const colours = picture.confidence.map((value, segment) =>
      liveOf(picture.cluster[segment]) < 0 ? 0 : pixel(ramp(value)));
    const under = placesOf(picture);
    for (let at = 0; at < pixels.length; at += 1) pixels[at] = colours[under[at]];
  },
};

/** Of the run as it was made: the match was fitted before any edit. */
function errorOf(label, truth) {
  if (truth === IGNORE) return "unknown";
  const match = label < run.k ? run.match[label] : -1;
  if (match < 0) return "nothing";
  return match === truth ? "right" : "wrong";
}

// --- segments ------------------------------------------------------------------------------------

/** Sides of patches where a segment ends: [x0, y0, x1, y1] in patches. */
function edgesOf(picture, segment) {
  const { rows, columns, segments } = picture;
  const edges = [];
  const at = (y, x) =>
    y >= 0 && y < rows && x >= 0 && x < columns && segments[y * columns + x] === segment;
  for (let y = 0; y < rows; y += 1)
    for (let x = 0; x < columns; x += 1) {
      if (!at(y, x)) continue;
      if (!at(y - 1, x)) edges.push([x, y, x + 1, y]);
      if (!at(y + 1, x)) edges.push([x, y + 1, x + 1, y + 1]);
      if (!at(y, x - 1)) edges.push([x, y, x, y + 1]);
      if (!at(y, x + 1)) edges.push([x + 1, y, x + 1, y + 1]);
    }
  return edges;
}

/** {left, top, right, bottom} of a segment in patches. */
function boxOf(edges) {
  const xs = edges.flatMap((edge) => [edge[0], edge[2]]);
  const ys = edges.flatMap((edge) => [edge[1], edge[3]]);
  return { left: Math.min(...xs), right: Math.max(...xs), top: Math.min(...ys), bottom: Math.max(...ys) };
}

/** The surroundings of a segment with its outline, `side` CSS pixels at most. */
function paintCrop(canvas, picture, segment, side) {
  const edges = edgesOf(picture, segment);
  if (!edges.length) return;
  const dx = picture.width / picture.columns, dy = picture.height / picture.rows;
  const box = boxOf(edges);
  const rim = Math.max(1, 0.15 * Math.max(box.right - box.left, box.bottom - box.top));
  const left = Math.max(0, (box.left - rim) * dx), top = Math.max(0, (box.top - rim) * dy);
  const width = Math.min(picture.width, (box.right + rim) * dx) - left;
  const height = Math.min(picture.height, (box.bottom + rim) * dy) - top;
  const scale = (side * Math.min(2, window.devicePixelRatio || 1)) / Math.max(width, height);
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(picture.photo, left, top, width, height, 0, 0, canvas.width, canvas.height);
  for (const [colour, line] of [["#000", 4], ["#fff", 1.8]]) {
    context.strokeStyle = colour;
    context.lineWidth = line;
    context.lineCap = "round";
    context.beginPath();
    for (const [x0, y0, x1, y1] of edges) {
      context.moveTo((x0 * dx - left) * scale, (y0 * dy - top) * scale);
      context.lineTo((x1 * dx - left) * scale, (y1 * dy - top) * scale);
    }
    context.stroke();
  }
}

/** A button that shows a segment and opens its image. */
function cropButton(row, segment, note, side = 112) {
  const canvas = el("canvas", { width: side, height: side });
  const button = el("button", {
    class: "crop",
    "aria-label": `${run.images.id[row]}, segment ${segment}${note ? `, ${note}` : ""}`,
    title: run.images.id[row],
    onclick: () => openLarge(row, segment),
  }, canvas, note ? el("span", { class: "soft" }, note) : null);
  pictureOf(row).then((picture) => paintCrop(canvas, picture, segment, side), () => {});
  return button;
}

// Segments like one segment: distances in the space of the clusters, over all images of the page.

const NEAREST = 24;
let searched = null; // a promise of all vectors, loaded with the first search

function allVectors() {
  searched ??= Promise.all(Array.from({ length: run.n_vectors }, async (_, number) =>
    unpacked(await load("vectors", number, `vectors-${padded(number)}.js`), number * run.vector_images)));
  searched.catch(() => (searched = null));
  return searched;
}

function unpacked(data, firstRow) {
  const rows = new Uint32Array(data.counts.reduce((sum, count) => sum + count, 0));
  let at = 0;
  data.counts.forEach((count, image) => {
    rows.fill(firstRow + image, at, at + count);
    at += count;
  });
  return {
    rows,
    dims: data.dims,
    scale: data.scale,
    segment: new Uint16Array(bytesOf(data.segment).buffer),
    cluster: new Int16Array(bytesOf(data.cluster).buffer),
    values: new Int8Array(bytesOf(data.values).buffer),
  };
}

/** [{row, segment, cluster, distance}], nearest first, without the segment itself; null if it has
 *  no vector. Distances are Euclidean, in the space of the clusters. */
async function nearest(row, segment) {
  const blocks = await allVectors();
  const wanted = placeOf(blocks, row, segment);
  if (!wanted) return null;
  const best = [];
  for (const block of blocks) {
    const { rows, dims, scale, values } = block;
    for (let one = 0, at = 0; one < rows.length; one += 1) {
      let sum = 0;
      for (let dim = 0; dim < dims; dim += 1, at += 1) {
        const gap = values[at] * scale - wanted[dim];
        sum += gap * gap;
      }
      if (best.length === NEAREST && sum >= best[NEAREST - 1].sum) continue;
      if (rows[one] === row && block.segment[one] === segment) continue;
      const found = { row: rows[one], segment: block.segment[one], cluster: block.cluster[one], sum };
      let place = best.length;
      while (place && best[place - 1].sum > sum) place -= 1;
      best.splice(place, 0, found);
      best.length = Math.min(best.length, NEAREST);
    }
  }
  return best.map((found) => ({ ...found, distance: Math.sqrt(found.sum) }));
}

function placeOf(blocks, row, segment) {
  for (const { rows, segment: segments, dims, scale, values } of blocks) {
    if (!rows.length || row < rows[0] || row > rows[rows.length - 1]) continue;
    for (let one = 0; one < rows.length; one += 1)
      if (rows[one] === row && segments[one] === segment)
        return Float64Array.from(values.subarray(one * dims, (one + 1) * dims), (value) => value * scale);
  }
  return null;
}

/** Show what is like the chosen segment, in the side of the large view. */
async function retrieve(row, segment) {
  const box = $("retrieval");
  box.replaceChildren(el("h3", {}, "Segments like it"), el("p", { class: "soft" }, "searching …"));
  const started = performance.now();
  let found;
  try {
    found = await nearest(row, segment);
  } catch (error) {
    if (large.row === row && large.segment === segment)
      box.replaceChildren(el("h3", {}, "Segments like it"), el("p", {}, error.message));
    return;
  }
  if (large.row !== row || large.segment !== segment) return;
  if (!found) {
    box.replaceChildren(
      el("h3", {}, "Segments like it"),
      el("p", { class: "soft" }, "This segment is too small to have been clustered: it has no vector."));
    return;
  }
  const seconds = ((performance.now() - started) / 1000).toFixed(2);
  box.replaceChildren(
    el("h3", {}, "Segments like it"),
    el("p", { class: "soft" }, `nearest first, with the distance in the space of the clusters; ${seconds} s`),
    el("ul", { class: "crops", "aria-label": "Segments like it" }, ...found.map((one) => {
      const cluster = liveOf(one.cluster);
      return el("li", {},
        cropButton(one.row, one.segment, `${one.distance.toFixed(3)} · ${nameOf(cluster)}`, 96));
    })));
  speak(`${found.length} segments found`);
}

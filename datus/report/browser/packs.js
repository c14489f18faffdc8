// Data: scripts that are put into the page when they are needed, and what is in them.
// fetch() is closed to pages from a disk; scripts are not.

const AT_ONCE = 6;
const received = {}; // "pack/12" -> what waits for it
const queue = []; // newest last; the newest is loaded first
let running = 0;

window.datus = (kind, number, value) => {
  const key = `${kind}/${number}`;
  if (received[key]) received[key].value = value;
};

/** A promise of the value of browse/NAME. `wanted` is asked when its turn comes. */
function load(kind, number, name, wanted = () => true) {
  const key = `${kind}/${number}`;
  if (received[key]) {
    received[key].wanted.push(wanted);
    return received[key].promise;
  }
  const entry = { key, name, wanted: [wanted] };
  entry.promise = new Promise((resolve, reject) => Object.assign(entry, { resolve, reject }));
  entry.promise.catch(() => {});
  received[key] = entry;
  queue.push(entry);
  pump();
  return entry.promise;
}

const SKIPPED = new Error("no longer wanted");

function pump() {
  while (running < AT_ONCE && queue.length) {
    const entry = queue.pop();
    if (entry.wanted.some((wanted) => wanted())) inject(entry);
    else {
      delete received[entry.key];
      entry.reject(SKIPPED);
    }
  }
}

function inject(entry) {
  running += 1;
  const script = document.createElement("script");
  const done = () => {
    script.remove();
    running -= 1;
    delete received[entry.key];
    if (entry.value !== undefined) entry.resolve(entry.value);
    else {
      const text = `${document.body.dataset.folder}/${entry.name} is not there or damaged: `
        + "keep the folder beside this page, or run datus again";
      problem(text);
      entry.reject(new Error(text));
    }
    pump();
  };
  script.onload = done;
  script.onerror = done;
  script.src = `${document.body.dataset.folder}/${entry.name}`;
  document.head.append(script);
}

const padded = (number) => String(number).padStart(5, "0");

const packs = new Recent(40);
const pictures = new Recent(160, (picture) => picture.then((one) => one.photo.close(), () => {}));

async function packOf(row, wanted) {
  const number = Math.floor(row / run.pack_images);
  const known = packs.get(number);
  if (known) return known;
  const value = await load("pack", number, `pack-${padded(number)}.js`, wanted);
  packs.set(number, value);
  return value;
}

/** A promise of the picture of a row, with what the view now shown needs of it. */
async function pictureOf(row, wanted = () => true) {
  const picture = await pictureBare(row, wanted);
  if (RUN_TRUTH.has(state.view) && picture.data.truth && !picture.truth)
    picture.truth = await labelsOf(picture.data.truth, picture.width, picture.height);
  return picture;
}

/** Decoded photo, clusters and segments. */
function pictureBare(row, wanted) {
  const known = pictures.get(row);
  if (known) {
    const number = Math.floor(row / run.pack_images);
    received[`pack/${number}`]?.wanted.push(wanted);
    return known;
  }
  const made = packOf(row, wanted).then((pack) => decoded(pack[row % run.pack_images], row));
  pictures.set(row, made);
  made.catch(() => {
    if (pictures.get(row) === made) pictures.delete(row);
  });
  return made;
}

async function decoded(data, row) {
  const [height, width] = data.preview;
  const [photo, mask] = await Promise.all([
    createImageBitmap(new Blob([bytesOf(data.photo)], { type: "image/jpeg" })),
    labelsOf(data.mask, width, height),
  ]);
  const bytes = bytesOf(data.segments);
  const segments = data.wide ? new Uint16Array(bytes.buffer) : bytes;
  const [rows, columns] = data.grid;
  const { id, size, patches } = data;
  const picture = { data, id, size, patches, row, height, width, rows, columns, photo, mask, segments };
  picture.cluster = Array.from(bytesOf(data.cluster), (one) => (one === IGNORE ? -1 : one));
  for (const name of ["margin", "votes", "together", "confidence"])
    picture[name] = Array.from(bytesOf(data[name]), (value) => value / 100);
  return picture;
}

/** Segment under each pixel of the preview; worked out once. */
function placesOf(picture) {
  if (picture.underPixel) return picture.underPixel;
  const { height, width, rows, columns, segments } = picture;
  const found = new Uint16Array(height * width);
  for (let y = 0, at = 0; y < height; y += 1) {
    const start = Math.floor(((y + 0.5) * rows) / height) * columns;
    for (let x = 0; x < width; x += 1, at += 1)
      found[at] = segments[start + Math.floor(((x + 0.5) * columns) / width)];
  }
  picture.underPixel = found;
  return found;
}

const reader = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });

/** The levels of a greyscale PNG, as they are: no colour management. */
async function labelsOf(base64, width, height) {
  const blob = new Blob([bytesOf(base64)], { type: "image/png" });
  const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none" });
  reader.canvas.width = width;
  reader.canvas.height = height;
  reader.drawImage(bitmap, 0, 0);
  bitmap.close();
  const { data } = reader.getImageData(0, 0, width, height);
  const labels = new Uint8Array(width * height);
  for (let at = 0; at < labels.length; at += 1) labels[at] = data[4 * at];
  return labels;
}

// Edits of the clusters: what they do to the page at once, and the file they are saved in.
// merge: the first number stays; split: part 0 keeps the number, the others are known after the
// next run; drop: no label; rename: a name for people.

const FORMAT = "datus-edits";
const VERSION = 1;
const MAX_PARTS = 16;
const MAX_NAME = 100;

let edits = [];
let edited = { to: [], names: {}, parts: {} };

/** What a list of edits comes to. Throws an Error that says what is wrong with which one.
 *  Edits of before the run are done in its masks: there the parts of a split have numbers. */
function applied(list) {
  const model = { to: Array.from({ length: run.base.k }, (_, one) => one), names: {}, parts: {} };
  for (const edit of run.before) {
    ACTS[edit.op](model, edit); // checked when the run was made
    for (let part = 1; edit.op === "split" && part < edit.parts; part += 1)
      model.to.push(model.to.length);
  }
  while (model.to.length < run.k) model.to.push(model.to.length);
  model.parts = {};
  list.forEach((edit, number) => {
    try {
      const act = Object.hasOwn(ACTS, edit?.op ?? "") ? ACTS[edit.op] : null;
      if (!act) throw new Error(`there is no edit ${JSON.stringify(edit?.op)}`);
      act(model, edit);
    } catch (error) {
      throw new Error(`edit ${number + 1}: ${error.message}`);
    }
  });
  return model;
}

const ACTS = {
  merge({ to, parts }, { clusters }) {
    if (!Array.isArray(clusters) || new Set(clusters).size < 2 || new Set(clusters).size !== clusters.length)
      throw new Error("merge needs several different clusters");
    clusters.forEach((one) => mustLive(to, one));
    const [kept, ...gone] = clusters;
    to.forEach((live, one) => {
      if (gone.includes(live)) to[one] = kept;
    });
    clusters.forEach((one) => delete parts[one]);
  },
  drop({ to }, { cluster }) {
    mustLive(to, cluster);
    to.forEach((live, one) => {
      if (live === cluster) to[one] = -1;
    });
  },
  rename({ to, names }, { cluster, name }) {
    mustLive(to, cluster);
    if (typeof name !== "string" || !name.trim() || name.length > MAX_NAME)
      throw new Error(`a name has 1 to ${MAX_NAME} letters`);
    names[cluster] = name;
  },
  split({ to, parts }, { cluster, parts: number }) {
    mustLive(to, cluster);
    if (!Number.isInteger(number) || number < 2 || number > MAX_PARTS)
      throw new Error(`a split makes 2 to ${MAX_PARTS} parts`);
    parts[cluster] = number;
  },
};

function mustLive(to, cluster) {
  if (!Number.isInteger(cluster) || cluster < 0 || cluster >= to.length)
    throw new Error(`there is no cluster ${JSON.stringify(cluster)}`);
  if (to[cluster] !== cluster) throw new Error(`cluster ${cluster} was merged or dropped before`);
}

/** Put a list in place of the edits; all or nothing. */
function setEdits(list) {
  edited = applied(list);
  edits = list;
  for (const one of state.chosen) if (!isLive(one)) state.chosen.delete(one);
  if (state.open >= 0 && !isLive(state.open)) state.open = -1;
  memory.set(draftKey(), edits.length ? JSON.stringify(edits) : null);
  changed("edits");
}

function addEdit(edit) {
  setEdits([...edits, edit]);
  speak(wordsOf(edit));
}

function undo() {
  if (!edits.length) return;
  speak(`undone: ${wordsOf(edits.at(-1))}`);
  setEdits(edits.slice(0, -1));
}

const draftKey = () => `datus-edits:${run.base.id}`;

/** What was left unsaved in this browser; false if there is none. */
function restoreDraft() {
  try {
    const list = JSON.parse(memory.get(draftKey()) ?? "[]");
    if (!Array.isArray(list) || !list.length) return false;
    setEdits(list);
    return true;
  } catch {
    return false; // of an older page: not worth a word
  }
}

// --- the file ------------------------------------------------------------------------------------

function fileText() {
  const table = { format: FORMAT, version: VERSION, clusters: run.base, edits: [...run.before, ...edits] };
  return `${JSON.stringify(table, null, 1)}\n`;
}

function saveFile() {
  const url = URL.createObjectURL(new Blob([fileText()], { type: "application/json" }));
  const link = el("a", { href: url, download: "edits.json" });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

/** Throws an Error with the reason and the cure. */
function readFile(text) {
  let table;
  try {
    table = JSON.parse(text);
  } catch {
    throw new Error("this is not JSON: choose the edits.json that was saved here");
  }
  if (table?.format !== FORMAT)
    throw new Error(`expected format "${FORMAT}", got ${JSON.stringify(table?.format)}: choose an edits.json`);
  if (table.version !== VERSION)
    throw new Error(`expected version ${VERSION}, got ${JSON.stringify(table.version)}: use the page of the same DatUS`);
  if (table.clusters?.id !== run.base.id)
    throw new Error("these edits are for the clusters of another run: open the page of that run");
  if (!Array.isArray(table.edits)) throw new Error("the file has no list of edits");
  const before = run.before.length;
  if (JSON.stringify(table.edits.slice(0, before)) !== JSON.stringify(run.before))
    throw new Error("the file lacks the earlier edits of this run: save it anew");
  setEdits(table.edits.slice(before));
}

function wordsOf(edit, done = false) {
  const name = (cluster) => `cluster ${cluster}`;
  switch (edit.op) {
    case "merge": return `merge ${edit.clusters.join(", ")} into ${name(edit.clusters[0])}`;
    case "rename": return `rename ${name(edit.cluster)} to “${edit.name}”`;
    case "drop": return `drop ${name(edit.cluster)}: its pixels get no label`;
    case "split": return `split ${name(edit.cluster)} into ${edit.parts} parts${done ? "" : ", at the next run"}`;
    default: return "an unknown edit";
  }
}

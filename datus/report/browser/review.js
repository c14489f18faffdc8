// Edits of the ticked clusters, the list of edits, and the file.

function showSelection() {
  const chosen = [...state.chosen].sort((one, other) =>
    run.clusters[other].share - run.clusters[one].share || one - other);
  const bar = $("selection");
  bar.hidden = !chosen.length || state.open >= 0;
  if (bar.hidden) return;
  const single = chosen.length === 1;
  bar.replaceChildren(
    el("b", {}, `${chosen.length} selected`),
    el("button", { class: "main", disabled: single, onclick: () => askMerge(chosen) }, "Merge"),
    el("button", { disabled: !single, onclick: () => askName(chosen[0]) }, "Rename"),
    el("button", { disabled: !single, onclick: () => askSplit(chosen[0]) }, "Split"),
    el("button", { onclick: () => dropAll(chosen) }, "Drop"),
    el("button", { onclick: () => (state.chosen.clear(), showClusters()) }, "Clear"),
  );
}

function dropAll(chosen) {
  setEdits([...edits, ...chosen.map((cluster) => ({ op: "drop", cluster }))]);
  speak(`${plural(chosen.length, "cluster")} dropped`);
}

/** A small dialog; a promise of what was written or chosen, null if it was left. */
function ask(title, label, input, note = "") {
  $("ask-title").textContent = title;
  $("ask-label").replaceChildren(el("span", {}, label), input);
  $("ask-note").textContent = note;
  const dialog = $("ask");
  dialog.showModal();
  input.focus();
  input.select?.();
  // With the press itself: left to the browser, the dialog goes some time after it, and a key pressed
  // in between (z, r) would find it open, or the edit not yet made.
  return new Promise((resolve) => {
    dialog.onsubmit = (event) => {
      event.preventDefault();
      resolve(event.submitter.value === "ok" ? input.value : null);
      dialog.close();
    };
    dialog.onclose = () => resolve(null);
  });
}

async function askName(cluster) {
  const input = el("input", { type: "text", maxlength: MAX_NAME, required: true, autocomplete: "off" });
  input.value = edited.names[cluster] ?? className(cluster) ?? "";
  const name = await ask(`Rename cluster ${cluster}`, "Name", input);
  if (name?.trim()) addEdit({ op: "rename", cluster, name: name.trim() });
}

async function askSplit(cluster) {
  const input = el("input", { type: "number", min: 2, max: MAX_PARTS, value: 2, required: true });
  const note = "The parts are made by the next run; the page shows them after it.";
  const parts = await ask(`Split ${nameOf(cluster)}`, "Number of parts", input, note);
  if (parts !== null) addEdit({ op: "split", cluster, parts: Number(parts) });
}

async function askMerge(chosen) {
  const input = el("select", {}, ...chosen.map((one) => el("option", { value: one }, nameOf(one))));
  const kept = await ask(`Merge ${chosen.length} clusters`, "Into", input, "Its number, name and colour stay.");
  if (kept === null) return;
  const first = Number(kept);
  addEdit({ op: "merge", clusters: [first, ...chosen.filter((one) => one !== first)] });
}

function showReview() {
  const list = edits.map((edit, number) => el("li", {}, el("span", { class: "text" }, wordsOf(edit)),
    number === edits.length - 1 ? el("button", { class: "quiet", onclick: undo }, "Undo") : null));
  const before = run.before.map((edit) => el("li", { class: "soft" }, el("span", { class: "text" }, `before this run: ${wordsOf(edit, true)}`)));
  $("review-page").replaceChildren(
    el("h2", {}, "Review"),
    el("p", {}, "Tick clusters on the Clusters tab to merge, rename, split or drop them. Merges, names and "
      + "drops show at once on this page; the run itself changes when it is made again with the saved file. "
      + "Scores and errors stay those of the run as it was made."),
    el("div", { class: "row" },
      el("button", { class: "main", id: "save", disabled: !edits.length, onclick: saveFile }, "Save edits.json"),
      el("button", { id: "undo", disabled: !edits.length, onclick: undo }, "Undo"),
      el("button", { id: "clear", disabled: !edits.length, onclick: () => setEdits([]) }, "Undo all"),
      el("label", { class: "button" }, "Load edits.json", el("input", {
        type: "file", id: "load", class: "visually-hidden", accept: ".json,application/json", onchange: loadChosen,
      }))),
    el("p", { id: "load-said", role: "alert" }, loadSaid),
    edits.length + before.length
      ? el("ol", { id: "edit-list", class: "edits" }, ...before, ...list)
      : el("p", { class: "soft" }, "No edits yet."),
  );
}

let loadSaid = "";

async function loadChosen(event) {
  const [file] = event.target.files;
  if (!file) return;
  try {
    readFile(await file.text());
    loadSaid = `${file.name}: ${plural(edits.length, "edit")} loaded`;
  } catch (error) {
    loadSaid = `${file.name}: ${error.message}`;
  }
  showReview();
}

// Small helpers, the state of the page, and who is told when it changes.
// All parts stand in one function, in the order of browse.py's SCRIPTS.
"use strict";

const $ = (id) => document.getElementById(id);
const IGNORE = 255;

/** An element with attributes and children. Text only ever becomes text nodes. */
function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child != null && child !== false));
  return node;
}

function bytesOf(base64) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(base64);
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let at = 0; at < bytes.length; at += 1) bytes[at] = text.charCodeAt(at);
  return bytes;
}

function percent(share, digits = 1) {
  return share == null ? "–" : `${(100 * share).toFixed(digits)} %`;
}

const plural = (n, word) => `${n.toLocaleString("en")} ${word}${n === 1 ? "" : "s"}`;

/** What the index said; set once, before anything is drawn. */
let run = null;

const state = {
  tab: "images",
  view: "overlay",
  opacity: 0.6,
  size: 200,
  sort: "name",
  descending: false,
  cluster: -1, // -1 = any
  share: 0,
  text: "",
  order: [], // rows of the index, filtered and sorted
  cursor: 0, // place in `order` that has the focus
  open: -1, // cluster whose page is open
  chosen: new Set(), // clusters ticked for the next edit
};

const listeners = {};

/** Tell or listen: "edits", "view", "order", "theme". */
function on(what, tell) {
  (listeners[what] ??= []).push(tell);
}

function changed(what) {
  for (const tell of listeners[what] ?? []) tell();
}

/** Said to screen readers; seen by nobody. */
function speak(text) {
  $("spoken").textContent = text;
}

function problem(text) {
  $("problem").textContent = text;
  $("problem").hidden = !text;
}

/** At most one call a frame. */
function framed(work) {
  let waiting = false;
  return () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      work();
    });
  };
}

/** The browser may forbid storage to pages from a disk: then nothing is remembered. */
const memory = {
  get(key) {
    try {
      return localStorage.getItem(key);
    } catch {
      return null;
    }
  },
  set(key, value) {
    try {
      if (value === null) localStorage.removeItem(key);
      else localStorage.setItem(key, value);
      return true;
    } catch {
      return false;
    }
  },
};

/** Keeps the `limit` entries that were used last. */
class Recent {
  constructor(limit, drop = () => {}) {
    this.limit = limit;
    this.drop = drop;
    this.entries = new Map();
  }
  get(key) {
    const value = this.entries.get(key);
    if (value === undefined) return undefined;
    this.entries.delete(key);
    this.entries.set(key, value);
    return value;
  }
  set(key, value) {
    this.entries.delete(key);
    this.entries.set(key, value);
    while (this.entries.size > this.limit) {
      const [oldest, gone] = this.entries.entries().next().value;
      this.entries.delete(oldest);
      this.drop(gone);
    }
  }
  delete(key) {
    this.entries.delete(key);
  }
}

/** One of several buttons of a group is on; arrows go from one to the next. */
function radioGroup(box, options, chosen, choose) {
  const buttons = options.map(({ value, label, off, title }) =>
    el("button", {
      role: "radio",
      type: "button",
      "data-value": value,
      "aria-checked": String(value === chosen()),
      disabled: Boolean(off),
      title,
      onclick: () => choose(value),
    }, label));
  const show = () => {
    for (const button of buttons) {
      const mine = button.dataset.value === chosen();
      button.setAttribute("aria-checked", String(mine));
      button.tabIndex = mine ? 0 : -1;
    }
  };
  box.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    const usable = buttons.filter((button) => !button.disabled);
    const at = usable.findIndex((button) => button.dataset.value === chosen());
    const next = usable[(at + step + usable.length) % usable.length];
    choose(next.dataset.value);
    next.focus();
  });
  box.replaceChildren(...buttons);
  show();
  return show;
}

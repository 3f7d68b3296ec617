"use strict";
const PER_PAGE = 60, MOST_FILES = 100, MOST_CHOICES = 200;
const at = (id) => document.getElementById(id);
const pending = new Map(), files = new Map(), columns = new Map();
let index = null, found = null, page = 0, filters = [], turn = 0;  // found: rows that are shown; null for all in order

function receive(name, data) {
  if (name === "index") { index = data; start(); } else pending.get(name)?.resolve(data);
}

function load(name) {
  if (!pending.has(name)) {
    const script = document.createElement("script"), task = {};
    task.promise = new Promise((resolve, reject) => {
      task.resolve = resolve;
      script.onerror = () => reject(new Error(name + ".js cannot be read"));
    }).finally(() => { pending.delete(name); script.remove(); });
    pending.set(name, task);
    script.src = name + ".js";
    document.head.append(script);
  }
  return pending.get(name).promise;
}

async function rowsFile(number) {  // the least recently used are dropped, so that memory stays bounded
  let data = files.get(number);
  if (data) files.delete(number); else data = await load("rows/" + number);
  files.set(number, data);
  if (files.size > MOST_FILES) files.delete(files.keys().next().value);
  return data;
}

async function column(number) {
  if (!columns.has(number)) {
    const note = await load("columns/" + number), bytes = Uint8Array.from(atob(note.data), (c) => c.charCodeAt(0));
    const Type = {Int32: Int32Array, Float32: Float32Array, Float64: Float64Array}[note.type];
    if (columns.size > 3) columns.delete(columns.keys().next().value);
    columns.set(number, {keys: new Type(bytes.buffer), values: note.values});
  }
  return columns.get(number);
}

function value(data, number, row) {
  const found = data.columns[number];
  return Array.isArray(found) ? found[row] : found.values[found.rows[row]];
}

const TESTS = {
  is: (text, wanted) => text === wanted,
  contains: (text, wanted) => text !== null && text.toLowerCase().includes(wanted.toLowerCase()),
  "is not": (text, wanted) => text !== wanted,
  "=": (number, wanted) => number === wanted, "≥": (number, wanted) => number >= wanted,
  "≤": (number, wanted) => number <= wanted, "is empty": (one) => one === null || Number.isNaN(one),
};

async function passing({number, condition, wanted}, rows, mine) {
  const test = TESTS[condition], {keys, values} = await column(number);
  if (index.columns[number].kind === "number") {
    const limit = keys instanceof Float32Array ? Math.fround(Number(wanted)) : Number(wanted);
    return rows.filter((row) => test(keys[row], limit));
  }
  if (condition === "is empty") return rows.filter((row) => keys[row] < 0);
  if (values) {
    const good = values.map((text) => test(text, wanted)), empty = test(null, wanted);
    return rows.filter((row) => (keys[row] < 0 ? empty : good[keys[row]]));
  }
  const hits = [];  // too many texts for one file: read them all, a file at a time
  let data = null, current = -1;
  for (const row of rows) {
    const file = Math.floor(row / index.perFile);
    if (mine !== turn) break;
    if (file !== current) { data = await load("rows/" + file); current = file; }
    if (file % 50 === 0) at("status").textContent = `searching, ${row.toLocaleString("en")} images read`;
    if (test(value(data, number, row % index.perFile), wanted)) hits.push(row);
  }
  return Uint32Array.from(hits);
}

async function update() {
  const mine = ++turn, by = Number(at("sort").value), sign = Number(at("direction").value);
  at("status").textContent = "working";
  let rows = null;
  if (filters.length || by >= 0 || sign < 0) rows = Uint32Array.from({length: index.rows}, (_, row) => row);
  for (const filter of filters) rows = await passing(filter, rows, mine);
  if (by >= 0) {
    const {keys} = await column(by), text = index.columns[by].kind === "text";
    const empty = (key) => (text ? key < 0 : key !== key);
    rows.sort((a, b) => (empty(keys[a]) - empty(keys[b])) || sign * (keys[a] - keys[b]) || a - b);  // empty ones last
  } else if (sign < 0) rows.reverse();
  if (mine !== turn) return;
  found = rows; page = 0;
  await show();
}

async function show() {
  const mine = turn, count = found ? found.length : index.rows, pages = Math.max(1, Math.ceil(count / PER_PAGE));
  page = Math.min(Math.max(0, page), pages - 1);
  const here = page;
  const shown = Array.from({length: Math.min(PER_PAGE, count - page * PER_PAGE)}, (_, n) =>
    found ? found[page * PER_PAGE + n] : page * PER_PAGE + n);
  const parts = document.createDocumentFragment();
  const by = at("sort").selectedOptions[0].text, people = by === "identity";
  let list = null, last = null;
  for (const row of shown) {
    const data = await rowsFile(Math.floor(row / index.perFile));
    const get = (name) => {
      const number = index.columns.findIndex((each) => each.name === name);
      return number < 0 ? null : value(data, number, row % index.perFile);
    };
    const who = get("role") === "distractor" ? "distractors" : `person ${get("pid")}`;
    const person = `${get("source")}, ${get("partition")}, ${who}`;
    const heading = people ? person : `Sorted by ${by}`;
    if (heading !== last) {
      last = heading;
      list = make("ul", "", "images");
      parts.append(make("h2", heading), list);
    }
    list.append(card(data, row % index.perFile, get, people ? [] : [person, `${by}: ${rounded(get(by))}`]));
  }
  if (mine !== turn || here !== page) return;
  at("content").replaceChildren(parts);
  at("page").value = page + 1; at("page").max = pages;
  at("previous").disabled = page === 0; at("next").disabled = page === pages - 1;
  at("status").textContent = `${count.toLocaleString("en")} of ${index.rows.toLocaleString("en")} images, page ` +
    `${(page + 1).toLocaleString("en")} of ${pages.toLocaleString("en")}`;
}

function card(data, row, get, words) {
  const item = make("li", ""), source = data.images[row], none = () => make("span", "cannot be read", "none");
  if (source === null) item.append(none());
  else {
    const image = make("img", "");
    image.loading = "lazy"; image.width = 64; image.height = 128;
    image.alt = `person ${get("pid")}, camera ${get("camid")}, ${get("split")}`;
    image.onerror = () => image.replaceWith(none());
    image.src = source;
    item.append(image);
  }
  item.append(...words.map((text) => make("div", text)));
  if (get("kept") === true) item.append(make("div", "kept", "kept"));
  if (get("kept") === false) item.append(make("div", `rejected: ${get("reason")}`, "rejected"));
  const more = make("details", ""), all = make("dl", "");
  for (const {name} of index.columns) {
    if (name.endsWith("_problem") && get(name)) item.append(make("div", get(name), "rejected"));
    if (get(name) !== null) all.append(make("dt", name), make("dd", String(get(name))));
  }
  more.append(make("summary", get("file_name").split("/").pop()), all);
  item.append(more);
  return item;
}

function rounded(number) { return Number.isInteger(number) || !Number(number) ? number : Number(number).toPrecision(4); }

function make(tag, text, style) {
  const element = document.createElement(tag);
  element.textContent = text;
  if (style) element.className = style;
  return element;
}

async function conditions() {
  const number = Number(at("column").value), text = index.columns[number].kind === "text";
  at("condition").replaceChildren(...(text ? ["is", "contains", "is not", "is empty"] : ["=", "≥", "≤", "is empty"])
    .map((name) => make("option", name)));
  at("values").replaceChildren();
  const {values} = text ? await column(number) : {};
  if (values && values.length <= MOST_CHOICES && number === Number(at("column").value)) {
    at("values").replaceChildren(...values.map((each) => make("option", each)));
  }
}

function listFilters() {
  at("filters").replaceChildren(...filters.map((filter, place) => {
    const item = make("li", ""), name = index.columns[filter.number].name;
    const remove = make("button", `Remove: ${name} ${filter.condition} ${filter.wanted}`);
    remove.onclick = () => { filters.splice(place, 1); listFilters(); run(update()); at("value").focus(); };
    item.append(remove);
    return item;
  }));
}

function run(task) { task.catch((error) => { at("status").textContent = error.message; }); }

function turnTo(number) { page = number; run(show()); }

function start() {
  const options = index.columns.map(({name}, number) => new Option(name, number));
  at("sort").replaceChildren(new Option("identity", -1), ...options);
  at("column").replaceChildren(...options.map((option) => option.cloneNode(true)));
  at("sort").onchange = at("direction").onchange = () => run(update());
  at("column").onchange = () => run(conditions());
  at("order").onsubmit = (event) => event.preventDefault();
  at("filter").onsubmit = (event) => {
    event.preventDefault();
    filters.push({number: Number(at("column").value), condition: at("condition").value, wanted: at("value").value});
    listFilters();
    run(update());
  };
  at("previous").onclick = () => turnTo(page - 1);
  at("next").onclick = () => turnTo(page + 1);
  at("page").onchange = () => turnTo(Number(at("page").value) - 1);
  run(conditions());
  run(update());
}

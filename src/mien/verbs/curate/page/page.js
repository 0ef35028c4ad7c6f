"use strict";
// The page of `mien curate label`. It draws what the server says after every answer, and keeps nothing itself.

const $ = (id) => document.getElementById(id);
const WHY = {
  first: "A group without a name yet",
  unclear: "Nobody's classifier is sure",
  again: "This does not fit the others of that name",
  doubt: "You took it out of a batch",
  skipped: "You skipped it before",
};
let state = null; // what the server said last
let busy = false;
let batchAt = 0; // which person's batch is shown
let refused = new Set(); // faces of the batch that are not the person
let chosen = -1; // line of the menu

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "class") made.className = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}
const picture = (face, alt) => element("img", { src: `face/${face}.jpg`, alt: alt || "", loading: "lazy" });

async function call(path, body) {
  const options = body === undefined ? {} : { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  const answer = await fetch(path, options);
  const told = await answer.json();
  if (!answer.ok) {
    const detail = told.error ? [told.error.what, told.error.hint].filter(Boolean).join(": ") : told.detail;
    throw new Error(typeof detail === "string" ? detail : "the answer was refused");
  }
  return told;
}

async function send(path, body, said) {
  if (busy) return;
  busy = true;
  document.body.classList.add("busy");
  try {
    show(await call(path, body));
    if (said) toast(said);
  } catch (error) {
    toast(error instanceof TypeError ? "The server has gone. Start the command again; nothing is lost." : error.message);
  } finally {
    busy = false;
    document.body.classList.remove("busy");
  }
}

let fading;
function toast(text) {
  const box = $("toast");
  box.textContent = text;
  box.hidden = false;
  clearTimeout(fading);
  fading = setTimeout(() => (box.hidden = true), 2600);
}

// ---------------------------------------------------------------------------------------------------- drawing

function show(next) {
  state = next;
  $("where").textContent = next.folder;
  progress(next.counts);
  if (next.purpose === null) {
    $("gate").hidden = false;
    $("main").hidden = true;
    $("labels").textContent = next.labels;
    $("purpose").focus();
    return;
  }
  $("gate").hidden = true;
  $("main").hidden = false;
  $("undo").disabled = !next.can_undo;
  $("about").textContent = `On this machine only. Purpose: ${next.purpose}`;
  question(next.question);
  people(next.people);
  batch();
}

function progress(counts) {
  const all = Math.max(1, counts.faces);
  const away = counts.rejected + counts.skipped;
  const part = (name, count) => {
    const made = element("i", { class: name });
    made.style.width = `${(100 * count) / all}%`;
    return made;
  };
  const word = (name, count, text) => {
    const dot = element("i");
    dot.style.background = `var(--${name})`;
    return element("span", {}, dot, element("b", {}, String(count)), ` ${text}`);
  };
  $("progress").setAttribute("aria-label", `${counts.named} of ${counts.faces} faces named`);
  $("progress").replaceChildren(
    element("div", { class: "bar" }, part("named", counts.named), part("certain", counts.certain), part("away", away)),
    element("div", { class: "legend" }, word("accent", counts.named, "named by you"), word("certain", counts.certain, "certain"),
      word("away", away, "set aside"), word("line", counts.open, "open")),
  );
}

function question(ask) {
  $("question").hidden = ask === null;
  $("done").hidden = ask !== null;
  if (ask === null) {
    const c = state.counts;
    $("summary").textContent = c.certain
      ? `${c.certain} faces have a certain name below. Confirm them, or finish and they are written down as the machine's.`
      : `${c.named} of ${c.faces} faces are named.`;
    return;
  }
  $("face").src = `face/${ask.face}.jpg`;
  $("context").src = `photo/${ask.face}.jpg`;
  mark($("mark"), ask);
  const wide = Math.min(300, (130 * ask.size[0]) / ask.size[1]);
  $("context").width = Math.round(wide);
  $("context").height = Math.round((wide * ask.size[1]) / ask.size[0]);
  $("file").textContent = ask.file;
  $("why").textContent = WHY[ask.why];
  $("why").className = `why ${ask.why}`;
  $("title").textContent = ask.said ? `Is this ${ask.said}?` : "Who is this?";
  $("suggestions").replaceChildren(
    ...ask.suggestions.map((one, place) => {
      const sure = element("i");
      sure.style.width = `${Math.round(100 * one.confidence)}%`;
      return element("li", {},
        element("button", { type: "button", class: place ? "" : "first", onclick: () => name(one.name) },
          picture(one.face, one.name), element("span", { class: "who" }, one.name),
          element("span", { class: "sure", title: `${Math.round(100 * one.confidence)} of 100` }, sure), element("kbd", {}, String(place + 1))));
    }),
  );
  $("name").value = "";
  $("name").placeholder = ask.suggestions.length ? "Another name" : "Type a name";
  menu([]);
  for (const one of state.batches.slice(0, 1)) one.faces.slice(0, 8).forEach((f) => (new Image().src = `face/${f.face}.jpg`));
}

function mark(box, ask) {
  const [w, h] = ask.size;
  const [x0, y0, x1, y1] = ask.box;
  Object.assign(box.style, { left: `${(100 * x0) / w}%`, top: `${(100 * y0) / h}%`, width: `${(100 * (x1 - x0)) / w}%`, height: `${(100 * (y1 - y0)) / h}%` });
}

function people(all) {
  $("count").textContent = all.length ? String(all.length) : "";
  $("people").replaceChildren(
    ...(all.length
      ? all.map((one) =>
          element("li", {}, picture(one.face, ""), element("span", { class: "who", title: one.name }, one.name),
            element("button", { class: "rename", title: "Give another name; an existing one joins the two", onclick: () => rename(one.name) }, "rename"),
            element("span", { class: "n", title: "named by you + certain" }, String(one.count), one.certain ? element("em", {}, ` +${one.certain}`) : "")))
      : [element("li", { class: "empty" }, "Nobody has a name yet.")]),
  );
}

function batch() {
  const all = state.batches;
  $("batch").hidden = !all.length;
  if (!all.length) return;
  batchAt %= all.length;
  const one = all[batchAt];
  const shown = new Set(one.faces.map((f) => f.face));
  refused = new Set([...refused].filter((face) => shown.has(face)));
  $("batch-title").textContent = one.count === 1 ? `One face looks like ${one.name}, and like nobody else` : `${one.count} faces look like ${one.name}, and like nobody else`;
  $("batch-help").textContent = "Click those that are not; the others are confirmed together.";
  $("other").hidden = all.length < 2;
  $("grid").replaceChildren(
    ...one.faces.map((f) =>
      element("button", { class: refused.has(f.face) ? "tile no" : "tile", title: `weight ${f.confidence.toFixed(2)}`, "aria-pressed": String(!refused.has(f.face)),
        onclick: (event) => {
          refused.has(f.face) ? refused.delete(f.face) : refused.add(f.face);
          event.currentTarget.classList.toggle("no");
          event.currentTarget.setAttribute("aria-pressed", String(!refused.has(f.face)));
          label(one);
        } }, picture(f.face, `${one.name}?`))),
  );
  label(one);
}
function label(one) {
  const yes = one.faces.length - refused.size;
  $("confirm").replaceChildren(yes ? `Confirm ${yes}` : "None of them", element("kbd", {}, "C"));
}

// ---------------------------------------------------------------------------------------------------- answering

function name(text) {
  const given = text.trim();
  if (given && state.question) send("api/answer", { face: state.question.face, verdict: "is", name: given });
}
function verdict(said) {
  if (state.question) send("api/answer", { face: state.question.face, verdict: said });
}
function confirm() {
  const one = state.batches[batchAt];
  if (!one) return;
  const faces = one.faces.map((f) => f.face);
  const no = faces.filter((face) => refused.has(face));
  refused = new Set();
  send("api/batch", { name: one.name, yes: faces.filter((face) => !no.includes(face)), no }, `${faces.length - no.length} × ${one.name}`);
}
function another() {
  refused = new Set();
  batchAt += 1;
  batch();
}
function rename(old) {
  const fresh = window.prompt(`Another name for ${old}. The name of somebody else joins the two.`, old);
  if (fresh && fresh.trim() && fresh.trim() !== old) send("api/rename", { old, new: fresh.trim() });
}
async function finish() {
  try {
    const told = await call("api/finish", {});
    $("ended-text").textContent = `${told.counts.named} faces are named by you and ${told.written} by the machine, in ${told.labels}.`;
    $("ended").hidden = false;
  } catch (error) {
    toast(error.message);
  }
}
function look() {
  const ask = state && state.question;
  if (!ask) return;
  $("whole").src = `photo/${ask.face}.jpg`;
  mark($("whole-mark"), ask);
  $("viewer").hidden = false;
}

// ---------------------------------------------------------------------------------------------------- names

function menu(names) {
  const box = $("menu");
  chosen = -1;
  box.hidden = !names.length;
  $("name").setAttribute("aria-expanded", String(names.length > 0));
  box.replaceChildren(
    ...names.map((one) => element("li", { role: "option", "data-name": one.name, onmousedown: (event) => { event.preventDefault(); name(one.name); } }, picture(one.face, ""), one.name)),
  );
}
function matching() {
  const text = $("name").value.trim().toLowerCase();
  if (!text) return menu([]);
  const words = (n) => n.toLowerCase().split(/[\s-]+/);
  const found = state.people.filter((one) => one.name.toLowerCase().startsWith(text) || words(one.name).some((w) => w.startsWith(text)));
  menu(found.slice(0, 8));
}
$("name").addEventListener("input", matching);
$("name").addEventListener("blur", () => menu([]));
$("name").addEventListener("keydown", (event) => {
  const lines = [...$("menu").children];
  if (event.key === "Escape") {
    $("name").value = "";
    $("name").blur();
  } else if ((event.key === "ArrowDown" || event.key === "ArrowUp") && lines.length) {
    event.preventDefault();
    chosen = (chosen + (event.key === "ArrowDown" ? 1 : -1) + lines.length) % lines.length;
    lines.forEach((line, place) => line.classList.toggle("on", place === chosen));
  } else if (event.key === "Tab" && lines.length) {
    event.preventDefault();
    $("name").value = lines[Math.max(0, chosen)].dataset.name;
    menu([]);
  }
});
$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const lines = [...$("menu").children];
  const text = chosen >= 0 && lines[chosen] ? lines[chosen].dataset.name : $("name").value;
  // The same name in other letters is the same person.
  const known = state.people.find((one) => one.name.toLowerCase() === text.trim().toLowerCase());
  $("name").blur();
  name(known ? known.name : text);
});

// ---------------------------------------------------------------------------------------------------- keys and buttons

document.addEventListener("keydown", (event) => {
  if (!$("viewer").hidden) {
    $("viewer").hidden = true;
    event.preventDefault();
    return;
  }
  if (state === null || state.purpose === null || !$("ended").hidden) return;
  if ((event.ctrlKey || event.metaKey) && event.key === "z" && event.target.tagName !== "INPUT") {
    event.preventDefault();
    return void send("api/undo", {}, "Taken back");
  }
  if (event.target.tagName === "INPUT" || event.ctrlKey || event.metaKey || event.altKey) return;
  const place = "12345".indexOf(event.key);
  const suggestions = state.question ? state.question.suggestions : [];
  const keys = { s: () => verdict("skip"), u: () => verdict("stranger"), x: () => verdict("not a face"), z: () => send("api/undo", {}, "Taken back"),
    y: () => suggestions[0] && name(suggestions[0].name), n: () => $("name").focus(), "/": () => $("name").focus(), c: confirm, b: another, p: look };
  const does = place >= 0 && event.key ? () => suggestions[place] && name(suggestions[place].name) : keys[event.key.toLowerCase()];
  if (!does || event.repeat) return;
  event.preventDefault();
  does();
});
document.querySelectorAll("[data-verdict]").forEach((button) => button.addEventListener("click", () => verdict(button.dataset.verdict)));
$("undo").addEventListener("click", () => send("api/undo", {}, "Taken back"));
$("finish").addEventListener("click", finish);
$("finish2").addEventListener("click", finish);
$("confirm").addEventListener("click", confirm);
$("other").addEventListener("click", another);
$("photo").addEventListener("click", look);
$("viewer").addEventListener("click", () => ($("viewer").hidden = true));
$("purpose-form").addEventListener("submit", (event) => {
  event.preventDefault();
  send("api/purpose", { purpose: $("purpose").value, agreed: $("agreed").checked });
});

send("api/state");

// What the page does when Python can answer: an element gets another value, the recorded pass runs
// again, and what has changed stands beside what was. Arrays that the page does not hold are fetched.

// ---- one request after the other

const queue = []; // of requests that wait, each with the function that takes its answer
let busy = false;

/** Send a request when the earlier ones are answered. It takes the place of one that waits for
 *  nothing any more. While Python computes a change, the page says so. */
async function send(request, take = receive) {
  while (queue.length && isOutdated(queue.at(-1).request, request)) queue.pop();
  queue.push({ request, take });
  if (busy) return;
  busy = true;
  try {
    while (queue.length) {
      const next = queue.shift();
      const waiting = setInterval(() => sayWaiting(next), 300);
      const answer = await ask({ ...next.request, version: data.version }).catch((error) => ({ error: error.message }));
      clearInterval(waiting);
      if (answer.contents) await released();
      next.take(answer, next.request.do === "step");
    }
  } finally {
    busy = false;
  }
}

/** Return whether a request that waits is outdated by a newer one. */
function isOutdated(old, request) {
  if (old.do === "try") return true;
  if (old.do !== request.do) return false;
  return old.do === "step" || (old.do === "set" && isSameElement(old, request)) || (old.do === "why" && old.of === request.of);
}

const isSameElement = (a, b) => a.value === b.value && a.cotangent === b.cotangent && a.flat === b.flat;

function sayWaiting(next) {
  const changes = [next, ...queue].filter(({ request }) => /^(set|try|descend|undo|reset)$/.test(request.do));
  const text = `Python computes …${changes.length > 1 ? ` ${changes.length - 1} more to do` : ""}`;
  if (changes.length && message.textContent !== text) say(text);
}

/** Wait until no slider is held, since a new pass puts new fields in the place of the old ones. */
async function released() {
  if (inspector.querySelector("#drag:active")) await new Promise((resolve) => {
    for (const event of ["pointerup", "pointercancel"]) window.addEventListener(event, () => setTimeout(resolve), { once: true }); // after the slider's own event
  });
}

/** Return the answer to a question about the pass. If another page has changed the pass, this page
 *  shows it, too. */
const answerTo = (request) => new Promise((resolve, reject) => send(request, (answer) => {
  if (answer.contents) receive(answer);
  if (answer.error) reject(new Error(answer.error));
  else resolve(answer);
}));

function receive({ error, outcome, contents }, isStep) {
  if (contents) adopt(contents);
  if (outcome || contents) showOutcome(outcome);
  if (data.run) sayOfRun(isStep ? error || "" : "");
  if (isStep && error) showRun(); // the slider goes back
  say(isStep ? "" : error || "");
  reading.status.textContent = error || "";
}

/** Show the pass after a change, at the same moment and the same element. The contents have the
 *  parts that have changed; a number stands for an array that the page has already. */
function adopt(contents) {
  const old = data;
  keepInside(reading.beside.checked && inside.open);
  replacePass({ ...old, ...contents, arrays: contents.arrays.map((x) => (typeof x === "number" ? old.arrays[x] : x)) });
}

// ---- the panel: what a change has done

const message = h("span", { role: "status", id: "message" });
const outcomeView = h("div", { id: "outcome" });
const rate = h("input", { id: "rate", size: 6, value: "0.1", "aria-label": "learning rate" });
const undo = h("button", { type: "button", id: "undo", onclick: () => send({ do: "undo" }) }, "undo");
const reset = h("button", { type: "button", id: "reset", onclick: () => send({ do: "reset" }) }, "as recorded");
const panel = h("details", { id: "change" },
  h("summary", {}, "what if"),
  h("form", { onsubmit: descend },
    h("label", {}, "a step of gradient descent with the rate ", rate), " ", h("button", {}, "descend"), " ", undo, " ", reset, " ", message),
  outcomeView);

function say(text) {
  message.textContent = text;
  if (text) panel.open = true;
}

function descend(event) {
  event.preventDefault();
  const x = Number(rate.value);
  if (rate.value.trim() === "" || !Number.isFinite(x)) say("The rate is to be a number, such as 0.1.");
  else send({ do: "descend", rate: x });
}

/** Show the rows of an outcome, or nothing. */
function showOutcome(outcome) {
  if (data.changes === 0 && [undo, reset].includes(document.activeElement)) rate.focus(); // not a disabled button
  undo.disabled = reset.disabled = data.changes === 0;
  if (!outcome) return fill(outcomeView);
  panel.open = true;
  fill(outcomeView,
    h("table", { class: "terms" },
      h("tr", {}, h("td", {}, ""), h("th", {}, "before"), h("th", {}, "after")),
      outcome.rows.map((cells) => h("tr", {}, cells.map((text, i) => h(i ? "td" : "th", {}, text))))),
    h("pre", {}, outcome.notes.join("\n")));
}

// ---- an element: a slider and a field

/** Return the request that changes a target; null if the target cannot be changed. */
function requestFor(target) {
  if (target.kind === "value") return { value: Number(target.n) };
  if (target.kind === "part") {
    const number = data.calls[target.call].off_tape[target.name];
    return number === undefined ? null : { value: number };
  }
  const made = target.kind === "cotangent" && makers.get(target.n);
  return made && data.calls[made[0]].step >= 0 ? { cotangent: Number(target.n) } : null;
}

hooks.change = (target, flat) => {
  const request = requestFor(target);
  const key = arrayOf(target);
  const held = element(key, flat);
  if (!request || held === undefined) return [];
  const waits = queue.findLast((next) => next.request.do === "set" && isSameElement(next.request, { ...request, flat }));
  const x = waits?.request.to ?? held;
  const { version } = data; // a field that is removed while it has the focus reports a change
  const change = (action, to) => Number.isFinite(to) && version === data.version && send({ do: action, ...request, flat, to });
  const whole = !data.arrays[key].type.startsWith("f");
  const name = `${labelOf(target)}${address(placeOf(flat, data.arrays[key].shape))}`;
  const field = h("input", { type: "number", id: "to", step: whole ? 1 : "any", value: whole ? x : Number(x.toPrecision(6)), "aria-label": `another value for ${name}`,
    onchange: () => field.validity.badInput ? say("The value is to be a finite number, such as 0.1.") : field.value && change("set", Number(field.value)) });
  if (whole) return [h("p", { class: "setter" }, h("label", {}, "set ", field))];
  const reach = Number.isFinite(x) ? Math.max(1, 2 * Math.abs(x)) : 1;
  const middle = Number.isFinite(x) ? x : 0;
  const slider = h("input", { type: "range", id: "drag", min: middle - reach, max: middle + reach, step: reach / 100, value: middle, "aria-label": `drag ${name}`,
    oninput: () => { field.value = Number(Number(slider.value).toPrecision(6)); change("try", Number(slider.value)); },
    onchange: () => change("set", Number(slider.value)) });
  return [h("p", { class: "setter" }, h("label", {}, "drag ", slider), " ", h("label", {}, "or set ", field))];
};

// ---- why an element is what it is

hooks.why = async (number, flat, of) => (await answerTo({ do: "why", number, flat, of })).why;

// ---- the updates of a run

hooks.step = (step, batch) => {
  sayOfRun(`${forecast(step)} …`);
  send({ do: "step", step, batch });
};

hooks.history = async (number, flat, first, last) => (await answerTo({ do: "follow", number, flat, first, last })).history;

// ---- other texts

const reading = {
  text: h("input", { id: "text", size: 40, "aria-label": "a text that the model reads" }),
  model: h("select", { "aria-label": "the model that reads" }, (data.reads ?? []).map((name, i) => h("option", { value: i }, name))),
  beside: h("input", { type: "checkbox", checked: true }),
  status: h("span", { role: "status" }),
};

/** Return the form that asks Python to let a model read another text. */
hooks.read = () => !data.reads ? null : h("form", { onsubmit: (event) => {
  event.preventDefault();
  reading.status.textContent = "the model reads …";
  send({ do: "read", text: reading.text.value, model: Number(reading.model.value) });
} }, h("label", {}, "read another text ", reading.text), data.reads.length > 1 ? [" ", reading.model] : null, " ", h("button", { id: "read" }, "read"), " ",
  h("label", {}, reading.beside, " beside what is shown now"), " ", reading.status);

// ---- arrays that the page does not hold

const MOST_DRAWN = 1 << 18; // elements of a heat map; of a larger array the corner is drawn

hooks.fetch = (keys) => {
  const { arrays, version } = data;
  const lacking = [...keys].map((key) => [key, arrays[key]]).filter(([, entry]) => !entry.asked);
  if (!lacking.length) return;
  const all = lacking.map(async ([key, entry]) => {
    entry.asked = true;
    const bytes = await ask({ do: "array", key: Number(key), version }).catch((error) => ({ error: error.message }));
    if (!(bytes instanceof ArrayBuffer)) {
      entry.asked = false; // so that the page asks again, if the pass was another by then
      throw new Error(bytes.error);
    }
    entry.numbers = new TYPES[entry.type](bytes);
    entry.whole = true;
    if (size(entry.shape.slice(-2)) <= MOST_DRAWN) delete entry.kept;
  });
  Promise.all(all).then(() => arrays === data.arrays && (showInspector(), showInside()), (error) =>
    send({ do: "show" }, (answer) => arrays === data.arrays && receive({ error: error.message, ...answer }))); // another page may have changed the pass
};

document.querySelector("header").after(h("aside", { "aria-label": "what if" }, panel));
showOutcome(null);
showInspector();
showInside();
// A notebook that moves or reopens a frame loads the page as it was at first.
if (data.channel === "frame") send({ do: "show" }, ({ contents }) => contents && receive({ contents }));

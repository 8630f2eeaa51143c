// A training run: its loss curve, on which one chooses an update; the sentences of the batch; and what
// moved a weight. A file holds some updates; a page that Python serves replays any other one.

const PLOT = { height: 96, left: 76, right: 12, top: 8, bottom: 18 }; // pixels
const stored = data.passes?.map((changed) => ({ ...data, ...changed })); // the passes in this file

const runTitle = h("summary", {});
const runPlot = h("div", {});
const runStatus = h("span", { role: "status" });
const runFacts = h("p", { class: "dim" });
const runBatch = h("span", {});
const runSentences = h("div", {});
const update = h("input", { type: "range", id: "update", "aria-label": "update of the run", oninput: () => sayOfRun(forecast(chosenUpdate())), onchange: () => goToUpdate(chosenUpdate()) });
const updateField = h("input", { type: "number", id: "update-number", min: 0, "aria-label": "number of an update" });
const run = h("details", { id: "run", open: true, ontoggle: () => showRun() }, runTitle,
  runPlot, update,
  h("form", { onsubmit: (event) => { event.preventDefault(); goToUpdate(Number(updateField.value)); } },
    h("label", {}, "update ", updateField), " ", h("button", {}, "go"), " ", runBatch, " ", runStatus,
    h("span", { class: "legend dim" }, h("span", { class: "train" }, "● training loss"), " ", h("span", { class: "val" }, "● validation loss"), " ▲ saved state")),
  runFacts,
  h("details", { id: "batch" }, h("summary", {}, "the sentences of the batch"), runSentences));

const sayOfRun = (text) => { runStatus.textContent = text; };

/** Return the update at which the slider stands; in a file, it stands at a stored one. */
const chosenUpdate = () => (stored ? storedUpdates()[Number(update.value)] : Number(update.value));
const storedUpdates = () => [...new Set(stored.map((pass) => pass.run.step))];

function showRun() {
  run.hidden = !data.run;
  if (run.hidden) return;
  const { step, n, loss, batch, batches, notes, command } = data.run;
  runTitle.textContent = `training: update ${step} of ${n}, loss ${short(loss)}${data.run.away ? " (the page shows another text)" : ""}`;
  update.max = (stored ? storedUpdates().length : n) - 1;
  update.value = stored ? storedUpdates().indexOf(step) : step;
  update.setAttribute("aria-valuetext", `update ${step}`);
  updateField.max = n - 1;
  updateField.value = step;
  fill(runBatch, batches < 2 ? null : h("label", {}, "batch ", h("select", { id: "batch-number", onchange: (event) => goToUpdate(step, Number(event.target.value)) },
    [...Array(batches).keys()].map((i) => h("option", { value: i, selected: i === batch }, `${i + 1} of ${batches}`)))));
  fill(runFacts, [...notes, stored && `This file has the updates ${storedUpdates().join(", ")}. All others: ${command} --serve`].filter(Boolean).join(". "));
  drawRun();
  showSentences();
}

function drawRun() {
  if (run.hidden || !run.open || !runPlot.clientWidth) return;
  const { losses, saved, step, n } = data.run;
  fill(runPlot, plot({
    label: "loss of each update of the run", width: runPlot.clientWidth, from: 0, to: n - 1,
    series: [{ name: "train", points: losses.train }, { name: "val", points: losses.val }],
    ticks: saved, marks: stored ? storedUpdates() : [], here: step, choose: (at) => goToUpdate(stored ? nearest(storedUpdates(), at) : at),
  }));
}

const nearest = (all, x) => all.reduce((best, one) => (Math.abs(one - x) < Math.abs(best - x) ? one : best));

new ResizeObserver(() => drawRun()).observe(runPlot);

/** Say from where Python replays the run up to an update, and how long this takes. */
function forecast(step) {
  const { saved, step: here, seconds } = data.run;
  if (stored) return storedUpdates().includes(step) ? `update ${step}` : `Update ${step} is not in this file. To see it: ${data.run.command} --at ${step} --serve`;
  const from = Math.max(...[...saved, here].filter((known) => known <= step));
  const n = step - from;
  const where = from === here ? `update ${from}` : from === 0 ? "the beginning" : `the state that was saved at ${from}`;
  return `update ${step}: ${n ? `Python replays ${n} update${n > 1 ? "s" : ""} from ${where}${duration(n * seconds)}` : `from ${where}`}`;
}

const duration = (x) => (!x ? "" : x < 1 ? ", in less than a second" : x < 120 ? `, in about ${Math.round(x)} s` : `, in about ${Math.round(x / 60)} min`);

/** Show an update of the run, or say why this cannot be. */
function goToUpdate(step, batch = 0) {
  if (!Number.isInteger(step) || step < 0 || step >= data.run.n) sayOfRun(`The run has the updates 0 to ${data.run.n - 1}.`);
  else if (step !== data.run.step || batch !== data.run.batch || data.run.away || data.changes) hooks.step(step, batch);
}

hooks.step = (step, batch) => {
  const found = stored.find((pass) => pass.run.step === step && pass.run.batch === batch);
  sayOfRun(forecast(step));
  if (found) replacePass(found);
};

// ---- sentences

/** List the sequences of the batch, the greatest loss first, with the loss of each token. */
function showSentences() {
  const { sequences, others } = data.run;
  const most = Math.max(1e-300, ...sequences.flatMap(([, , , tokens]) => tokens.map(([, x]) => x)));
  fill(runSentences, h("p", { class: "dim" }, "The greatest loss first. The stronger the colour of a token, the greater the loss of its prediction."),
    h("ol", {}, sequences.map(([loss, place, text, tokens]) => h("li", {}, h("b", { class: "loss" }, short(loss)), " ", sentence(place, text, tokens, most)))),
    others ? h("p", { class: "dim" }, `and ${others} more`) : null);
}

/** Return a text with its place in the data; the colour of a token is that of its number. */
function sentence(place, text, tokens, most) {
  return [h("span", { class: "dim" }, place), h("p", { class: "sentence" }, text || tokens.map(([token, x]) => {
    const span = h("span", { title: short(x) }, token);
    span.style.background = colour(x / most);
    return span;
  }))];
}

// ---- what moved a weight

/** Return what moved a weight in this update, and over the run; nothing for what is no weight. */
function movedView({ moved, unlisted, gradient, update: lines }, n, flat) {
  if (!moved) return null;
  const most = Math.max(1e-300, ...moved.flatMap(([, , , tokens]) => tokens.map(([, x]) => Math.abs(x))));
  return h("div", { id: "moved" },
    h("h3", {}, `the sentences of update ${data.run.step}`),
    h("p", { class: "dim" }, `What each sentence adds to the gradient of the whole update, ${short(gradient)}. The colour of a token is what its loss adds: blue is positive, orange negative.`),
    h("ol", {}, moved.map(([adds, place, text, tokens, loss]) => h("li", {}, h("b", { class: "adds" }, short(adds)), ` loss ${short(loss)} `, sentence(place, text, tokens, most)))),
    unlisted[0] ? h("p", {}, `${short(unlisted[1])} by the ${unlisted[0]} others`) : null,
    h("h3", {}, "what the update does to the weight"),
    h("table", { class: "terms" }, lines.map(([what, numbers, x]) => h("tr", {}, h("td", {}, what), h("td", {}, numbers), h("td", { class: "value" }, x)))),
    historyView(n, flat));
}

/** Return the history of a weight: in a file at the stored updates, else over those that are asked for. */
function historyView(n, flat) {
  const answer = h("div", {});
  const view = h("details", { id: "history" }, h("summary", {}, "over the run: which update moved it most?"));
  if (!hooks.history) {
    const points = storedValues(data.values[n].name, flat);
    const side = { width: 420, from: points[0][0], to: points.at(-1)[0], choose: (at) => goToUpdate(nearest(storedUpdates(), at)), here: data.run.step };
    if (points.length < 2) return null;
    return fill(view, view.firstChild, h("p", { class: "dim" }, "The weight and its gradient at the updates in this file."),
      captioned({ ...side, label: "the weight", series: [{ name: "train", points: points.map(([step, x]) => [step, x]) }] }),
      captioned({ ...side, label: "its gradient", series: [{ name: "val", points: points.map(([step, , g]) => [step, g]) }] }));
  }
  const [first, last] = [0, data.run.n - 1].map((value) => h("input", { type: "number", min: 0, max: data.run.n - 1, value }));
  const cost = () => `Python replays about ${Math.max(0, last.value - first.value + 1)} updates${duration((last.value - first.value + 1) * data.run.seconds)}.`;
  const note = h("span", { role: "status" }, cost());
  for (const field of [first, last]) field.addEventListener("input", () => { note.textContent = cost(); });
  const show = async (event) => {
    event.preventDefault();
    note.textContent = "Python replays …";
    try {
      fill(answer, historyPlot(await hooks.history(Number(n), flat, Number(first.value), Number(last.value))));
      note.textContent = "";
    } catch (error) {
      note.textContent = error.message;
    }
  };
  return fill(view, view.firstChild, h("form", { onsubmit: show }, h("label", {}, "from update ", first), " ", h("label", {}, "to ", last), " ", h("button", {}, "replay"), " ", note), answer);
}

/** Return the stored updates with the value and the gradient of an element, where this file has them. */
function storedValues(name, flat) {
  const now = data;
  const found = stored.filter((pass) => pass.run.batch === 0).map((pass) => {
    data = pass;
    const n = numberOf(name);
    return n === undefined ? [] : [pass.run.step, element(arrayOf(value(n)), flat), element(arrayOf(cotangent(n)), flat)];
  });
  data = now;
  return found.filter((point) => point.length && point.every(Number.isFinite));
}

function historyPlot({ moves, before, decay }) {
  const side = { width: 420, from: moves[0][0], to: Math.max(moves.at(-1)[0], moves[0][0] + 1), choose: (at) => goToUpdate(at), here: data.run.step };
  const order = [...moves].sort((a, b) => Math.abs(b[4]) - Math.abs(a[4])).slice(0, 5);
  return [
    captioned({ ...side, label: "the weight before each update", series: [{ name: "train", points: moves.map(([step, x]) => [step, x]) }] }),
    captioned({ ...side, label: "what the batch of each update has moved", series: [{ name: "val", points: moves.map(([step, , , , x]) => [step, x]) }] }),
    h("p", {}, "These batches moved the weight most, in their own update and, through the running mean of the gradients, in later ones:"),
    h("ol", {}, order.map(([step, , , , x]) => h("li", {}, h("button", { onclick: () => goToUpdate(step) }, `update ${step}`), ` ${short(x)}`))),
    h("p", { class: "dim" }, `The batches before these updates moved it by ${short(before)}, weight decay by ${short(decay)}.`),
  ];
}

// ---- a plot over updates

/** Return a plot with its label above. */
const captioned = (options) => [h("p", { class: "dim" }, options.label), plot(options)];

/** Return a picture of series over updates: a click chooses an update. */
function plot({ label, width, from, to, series, ticks = [], marks = [], here, choose }) {
  const { height, left, right, top, bottom } = PLOT;
  const all = series.flatMap(({ points }) => points.map(([, y]) => y));
  const [low, high] = all.length ? [Math.min(...all), Math.max(...all)] : [0, 1];
  const x = (step) => left + (width - left - right) * (to > from ? (step - from) / (to - from) : 0);
  const y = (loss) => top + (height - top - bottom) * (high > low ? (high - loss) / (high - low) : 0.5);
  const text = (at, level, anchor, words) => svg("text", { x: at, y: level, class: anchor }, words);
  const floor = height - bottom;
  const inside = (step) => step >= from && step <= to;
  const picture = svg("svg", { class: "plot", width, height, role: "img", "aria-label": `${label}, from ${short(low)} to ${short(high)}` },
    svg("title", {}, label),
    svg("line", { class: "axis", x1: left, x2: width - right, y1: floor, y2: floor }),
    text(left - 6, top + 9, "end", short(high)), text(left - 6, floor, "end", short(low)),
    text(left + 6, height - 4, "start", from), text(width - right, height - 4, "end", to),
    series.map(({ name, points }) => {
      const shown = points.filter(([step]) => inside(step));
      return [svg("polyline", { class: name, points: shown.map(([step, loss]) => `${x(step)},${y(loss)}`).join(" ") }),
        shown.length < 30 ? shown.map(([step, loss]) => svg("circle", { class: name, cx: x(step), cy: y(loss), r: 2.5 })) : []];
    }),
    ticks.filter(inside).map((step) => svg("path", { class: "saved", d: `M${x(step)} ${floor} l-4 7 h8 z` }, svg("title", {}, `a state was saved at ${step}`))),
    marks.map((step) => svg("line", { class: "stored", x1: x(step), x2: x(step), y1: top, y2: floor })),
    inside(here) ? svg("line", { class: "here", x1: x(here), x2: x(here), y1: top, y2: floor }) : null);
  picture.addEventListener("click", (event) => {
    const share = (event.clientX - picture.getBoundingClientRect().left - left) / (width - left - right);
    choose(Math.round(from + Math.max(0, Math.min(1, share)) * (to - from)));
  });
  return picture;
}

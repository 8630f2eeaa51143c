"use strict";
// Shows lessons and katas. Python judges each answer, and saves how far the learner has come.

const data = JSON.parse(document.getElementById("data").textContent);
let nav, place, alarm; // the list on the left, the exercise, and why a request failed
let current = ""; // what is open: the number of a lesson, or the name of an op

/** Send a request, and show why it failed, if it did; return the answer, or null. */
async function demand(request) {
  try {
    const answer = await ask(request);
    alarm.textContent = answer.error ?? "";
    if (answer.error) return null;
    if (answer.katas) {
      Object.assign(data, { lessons: answer.lessons, katas: answer.katas });
      showList();
    }
    return answer;
  } catch (error) {
    alarm.textContent = error instanceof TypeError ? "Python does not answer: does its program still run?" : error.message;
  }
  return null;
}

// ---- the list

function showList() {
  const entry = (name, label, done, open) => h("li", {},
    h("button", { "aria-current": name === current ? "page" : false, onclick: open }, `${done ? "✓ " : ""}${label}`, done ? h("span", { class: "unseen" }, " done") : null));
  const other = h("input", { list: "ops", size: 12, "aria-label": "another op" });
  fill(nav,
    h("h2", {}, "Lessons"),
    h("ul", {}, data.lessons.map(([number, title, done]) => entry(number, `${number}. ${title}`, done, () => openLesson(number)))),
    h("h2", {}, "Katas: write the rule of an op"),
    h("ul", {}, data.katas.map(([name, done]) => entry(name, name, done, () => openKata(name)))),
    h("form", { onsubmit: (event) => { event.preventDefault(); if (other.value.trim()) openKata(other.value.trim()); } },
      h("label", {}, "any op: ", other), " ", h("button", {}, "open"),
      h("datalist", { id: "ops" }, data.ops.map((name) => h("option", { value: name })))));
}

/** Put the reader at the beginning of what was opened. */
function begin(...children) {
  fill(place, ...children);
  place.scrollTop = 0;
  place.focus();
}

// ---- katas

async function openKata(name) {
  current = name;
  const answer = await demand({ do: "kata", op: name });
  if (answer) showKata(answer.kata);
}

function showKata(kata) {
  const verdict = h("div", { role: "status" });
  const hints = h("div", { role: "status" });
  const judgeIt = async (request) => {
    fill(verdict, h("p", {}, "checking ..."));
    const answer = await demand({ do: "check", op: kata.name, ...request });
    if (!answer) fill(verdict);
    else fill(verdict, h("pre", { class: `verdict ${answer.right ? "right" : "wrong"}` }, answer.text));
  };
  const fields = kata.inputs.map((name) => [name, h("input", { id: `rule-${name}`, autocomplete: "off", spellcheck: "false" })]);
  const source = h("textarea", { id: "source", spellcheck: "false", "aria-label": "the solution, in Python" });
  source.value = kata.source;
  begin(
    h("h2", {}, kata.solved ? `${kata.name}: solved` : kata.name),
    kata.level && !kata.solved ? h("p", {}, `Level ${kata.level} of 4 is passed.`) : null,
    h("pre", {}, kata.code),
    kata.formula.length ? h("pre", {}, kata.formula.join("\n")) : null,
    h("p", { class: "asked" }, kata.question),
    h("form", { id: "rules", onsubmit: (event) => { event.preventDefault(); judgeIt({ rules: Object.fromEntries(fields.map(([name, field]) => [name, field.value])) }); } },
      fields.map(([name, field]) => h("p", {}, h("label", {}, `d${name} = `, field))),
      h("button", {}, "check"), " ",
      h("button", { type: "button", onclick: async () => { const answer = await demand({ do: "hint", op: kata.name }); if (answer) fill(hints, h("pre", {}, answer.text)); } }, "hint")),
    hints,
    h("details", {}, h("summary", {}, "a solution of several lines"),
      h("form", { onsubmit: (event) => { event.preventDefault(); judgeIt({ source: source.value }); } },
        source, h("p", {}, h("button", {}, "check the solution")))),
    verdict);
}

// ---- lessons

async function openLesson(number) {
  current = number;
  const answer = await demand({ do: "lesson", lesson: number });
  if (answer) showPart(answer.lesson, answer.lesson.part);
}

function showPart(lesson, at) {
  const n = lesson.sections.length;
  const go = async (part) => {
    if (!await demand({ do: "part", lesson: lesson.number, part })) return;
    if (part < n) showPart(lesson, part);
    else begin(h("h2", {}, `Lesson ${lesson.number} is finished`), h("p", {}, "Choose the next one in the list."));
  };
  begin(
    h("p", { class: "dim" }, `lesson ${lesson.number}, part ${at + 1} of ${n}`),
    lesson.sections[at].parts.map((part) => SHOWN[part.kind](part, lesson)),
    h("p", {}, h("button", { disabled: at === 0, onclick: () => go(at - 1) }, "the part before"), " ",
      h("button", { onclick: () => go(at + 1) }, at + 1 < n ? "next part" : "finish")));
}

const SHOWN = {
  text: ({ text }) => prose(text),
  python: ({ code }) => h("pre", {}, code),
  output: ({ text }) => h("pre", { tabindex: 0, "aria-label": "what the script prints" }, text),
  step: ({ text }) => h("pre", { tabindex: 0, "aria-label": "what the stepper prints" }, text),
  question: showQuestion,
};

function showQuestion({ number, text, options, hint, judge }, lesson) {
  const name = `question-${number}`;
  const field = h("input", { name, autocomplete: "off", "aria-label": `the answer: ${judge}` });
  const verdict = h("div", { role: "status" });
  const say = (kind, message) => fill(verdict, h("p", { class: `verdict ${kind}` }, message));
  const letters = options.map((_, i) => "abcdefgh"[i]);
  const judgeIt = async (event) => {
    event.preventDefault();
    const chosen = options.length ? new FormData(event.target).get(name) ?? "" : field.value;
    const answer = await demand({ do: "judge", lesson: lesson.number, question: number, answer: chosen });
    if (answer) say(answer.verdict, `${{ right: "Right.", wrong: "Not right.", unclear: "?" }[answer.verdict]} ${answer.text}`);
  };
  return h("form", { class: "question", onsubmit: judgeIt },
    h("fieldset", {}, h("legend", {}, "question"), prose(text),
      options.length ? options.map((option, i) => h("p", {}, h("label", {}, h("input", { type: "radio", name, value: letters[i] }), ` ${option}`))) : h("p", {}, field),
      h("button", {}, "check"), " ",
      hint ? [h("button", { type: "button", onclick: () => say("", hint) }, "hint"), " "] : null,
      h("button", { type: "button", onclick: async () => { const answer = await demand({ do: "reveal", lesson: lesson.number, question: number }); if (answer) say("", answer.text); } }, "show the answer")),
    verdict);
}

/** Return the elements of a text in Markdown: headings, indented lines, lists and paragraphs. */
function prose(text) {
  return text.replace(/^\n+|\s+$/g, "").split(/\n\s*\n/).map((block) => {
    const heading = /^(#+) (.*)/.exec(block);
    if (heading) return h("h2", {}, heading[2]);
    if (/^    /.test(block)) return h("pre", {}, block.replace(/^    /gm, ""));
    if (/^- /.test(block)) return h("ul", {}, block.split(/\n(?=- )/).map((item) => h("li", {}, inline(item.slice(2)))));
    return h("p", {}, inline(block));
  });
}

const inline = (text) => text.split(/(`[^`]+`)/).map((x) => x[0] === "`" ? h("code", {}, x.slice(1, -1)) : x.replace(/\s+/g, " "));

document.addEventListener("DOMContentLoaded", () => {
  nav = h("nav", { "aria-label": "lessons and katas" });
  place = h("section", { tabindex: -1, "aria-label": "exercise" }, h("p", {}, "Choose a lesson or a kata."));
  alarm = h("p", { role: "alert", id: "alarm" });
  document.body.append(h("header", {}, h("h1", {}, "Lessons and katas"), alarm), h("main", { class: "learn" }, nav, place));
  showList();
  if (/^\d+$/.test(data.start)) openLesson(data.start);
  else if (data.start) openKata(data.start);
});

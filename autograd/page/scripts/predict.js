// Predictions: the numbers of a step are asked for before they are shown.

function question(target) {
  const key = arrayOf(target);
  const { shape, largest } = data.arrays[key];
  const flat = largest.length ? largest[0][0] : 0;
  const place = address(placeOf(flat, shape));
  const parent = data.values[data.steps[target.step].edges.find(([x]) => x === target.input)[1]].name;
  const answer = h("p", { role: "status" });
  const ask = (label, judge) => {
    const field = h("input", { size: 12 });
    const check = (event) => {
      event.preventDefault();
      answer.textContent = judge(field.value);
    };
    return h("form", { onsubmit: check }, h("label", {}, `${label} `, field), " ", h("button", {}, "check"));
  };
  return h("figure", { class: "question" }, h("figcaption", {}, labelOf(target), " is hidden"),
    ask("its shape:", (text) => {
      const given = text.match(/\d+/g)?.map(Number) ?? [];
      return same(given, shape) ? "Right." : `Not right: a cotangent has the shape of its value, which is ${parent}.`;
    }),
    shape.length || flat === 0 ? ask(`its element ${place || "(a number)"}:`, (text) => {
      const x = element(key, flat);
      const given = Number(text);
      if (text.trim() === "" || Number.isNaN(given)) return "Type a number.";
      if (Math.abs(given - x) <= 0.006 * Math.abs(x) + 1e-12) return "Right.";
      if (Math.abs(given + x) <= 0.006 * Math.abs(x)) return "The sign is wrong.";
      return `Not right: your number is ${short(given / x)} times the true one.`;
    }) : null,
    answer,
    h("button", { onclick: () => { state.hidden = false; showControls(); showInspector(); } }, "show it"));
}

// Sums: an element of an array, as the terms that Python's trees name. This script looks numbers up,
// multiplies and adds; it knows no rule of any op.

/** Return the flat place, in the array as recorded, of an element of a reference. */
function recordedPlace(ref, flat) {
  return "places" in ref ? element(ref.places, flat) : flat;
}

/** Return an element of a reference, with where it is; an index outside of the array means 0. */
function lookUp(at, ref, subscripts, env) {
  const lead = ref.shape.length - subscripts.length;
  const place = env.batch.slice(env.batch.length - lead);
  subscripts.forEach((s, i) => {
    const n = ref.shape[lead + i];
    place.push(n === 1 && s[0] === "i" ? 0 : evaluate(at, s, env));
  });
  ref.shape.forEach((n, i) => {
    if (n === 1 && i < lead) place[i] = 0;
  });
  if (place.some((p, i) => p < 0 || p >= ref.shape[i])) return { x: 0 };
  const flat = recordedPlace(ref, flatOf(place, ref.shape));
  if (flat === undefined) return { x: undefined }; // where it stands is not in this file
  const target = meaning(at, ref.name); // no array has the cotangent of a result that nothing reads
  return { x: element(ref.array, flat), flat, target: arrayOf(target) >= 0 ? target : undefined };
}

const SIGNS = {
  "+": (a, b) => a + b, "-": (a, b) => a - b, "·": (a, b) => a * b, "/": (a, b) => a / b,
  "=": (a, b) => Number(a === b), "≠": (a, b) => Number(a !== b), "<": (a, b) => Number(a < b),
  ">": (a, b) => Number(a > b), "≤": (a, b) => Number(a <= b), "≥": (a, b) => Number(a >= b),
  mod: (a, b) => a - b * Math.floor(a / b), neg: (a) => -a, "[]": (a) => a,
};

/** Call a function for each environment in which the index of a sum has a value. */
function each([sign, letter, n], env, visit) {
  if (letter) {
    for (let i = 0; i < n; i++) visit({ ...env, [letter]: i });
  } else {
    for (let i = 0; i < n; i++) visit({ ...env, batch: placeOf(i, env.shape) });
  }
}

/** Return the number that a tree stands for; undefined if an element of it is not in this file. */
function evaluate(at, tree, env) {
  const [sign, ...rest] = tree;
  if (sign === "n") return Number(rest[0]);
  if (sign === "c") return Number(rest[1]);
  if (sign === "i") return env[rest[0]];
  if (sign === "a") return lookUp(at, data.calls[at].refs[rest[0]], rest[1], env).x;
  if (sign === "f") return computed(rest, env);
  if (sign === "Σ" || sign === "mean") {
    let sum = 0;
    let known = true;
    each(tree, env, (inner) => {
      const x = evaluate(at, rest[2], inner);
      known &&= x !== undefined;
      sum += x;
    });
    return !known ? undefined : sign === "Σ" ? sum : sum / rest[1];
  }
  const parts = rest.map((x) => evaluate(at, x, env));
  if (parts.includes(undefined)) return undefined;
  const isLeftOut = sign === "·" && parts.includes(0) && rest.some(([inner]) => inner === "[]");
  return isLeftOut ? 0 : SIGNS[sign](...parts); // also of infinity
}

/** Return a function's value, which Python has computed. */
function computed([word, parts, key, letters], env) {
  const { shape } = data.arrays[key];
  const whole = [...env.batch, ...letters.map((letter) => env[letter])];
  const place = whole.slice(whole.length - shape.length);
  return element(key, flatOf(place.map((p, i) => (shape[i] === 1 ? 0 : p)), shape));
}

/** Return a tree as a flat sum: a list of products, each a list of factors, without those that a
 *  condition makes 0. */
function expand(at, tree, env) {
  const [sign, ...rest] = tree;
  if (sign === "[]") {
    const holds = evaluate(at, tree, env);
    return holds === undefined ? [single(at, tree, env)] : holds ? [{ sign: 1, index: "", factors: [] }] : [];
  }
  if (sign === "+") return [...expand(at, rest[0], env), ...expand(at, rest[1], env)];
  if (sign === "-") return [...expand(at, rest[0], env), ...expand(at, rest[1], env).map(negated)];
  if (sign === "neg") return expand(at, rest[0], env).map(negated);
  if (sign === "Σ" || sign === "mean") {
    const terms = [];
    each(tree, env, (inner) => {
      const index = rest[0] ? `${rest[0]} = ${inner[rest[0]]}` : address(inner.batch);
      for (const t of expand(at, rest[2], inner)) terms.push({ ...t, index: t.index ? `${index}, ${t.index}` : index });
    });
    if (sign === "Σ" || rest[1] === 1) return terms;
    const n = { x: rest[1], text: String(rest[1]), below: true };
    return terms.map((t) => ({ ...t, factors: [...t.factors, n] }));
  }
  if (sign === "·") {
    const [left, right] = [expand(at, rest[0], env), expand(at, rest[1], env)];
    if (left.length > 1 && right.length > 1) return [single(at, rest[0], env, single(at, rest[1], env))];
    return left.flatMap((a) => right.map((b) => ({
      sign: a.sign * b.sign, index: a.index || b.index, factors: [...a.factors, ...b.factors],
    })));
  }
  if (sign === "/") {
    const below = { ...factor(at, rest[1], env), below: true };
    return expand(at, rest[0], env).map((t) => ({ ...t, factors: [...t.factors, below] }));
  }
  return [single(at, tree, env)];
}

const negated = (term) => ({ ...term, sign: -term.sign });
const single = (at, tree, env, other) => ({
  sign: 1, index: "", factors: [factor(at, tree, env), ...(other ? other.factors : [])],
});

/** Return a factor: its number, how it is written, and what it leads to. */
function factor(at, tree, env) {
  if (tree[0] === "a") {
    const found = lookUp(at, data.calls[at].refs[tree[1]], tree[2], env);
    return { ...found, text: symbol(at, data.calls[at].refs[tree[1]].name) };
  }
  if (tree[0] === "c") { // a number, which a variable may hold
    const target = meaning(at, tree[1]);
    return { x: evaluate(at, tree, env), text: labelOf(target), ...(target.kind === "value" && { target, flat: 0 }) };
  }
  return { x: evaluate(at, tree, env), text: written(at, tree), parts: () => spelled(at, tree, env) };
}

/** Return an expression with its numbers in the place of names; a sum in it is one number. */
function spelled(at, tree, env) {
  const [sign, ...rest] = tree;
  if (sign === "a" || sign === "n" || sign === "c" || sign === "i") return [number(factor(at, tree, env))];
  const inside = (x, least) => {
    const parts = spelled(at, x, env);
    const negative = least > 1 && (x[0] === "a" || x[0] === "c") && evaluate(at, x, env) < 0;
    return strength(x) < least || negative ? ["(", parts, ")"] : parts;
  };
  if (sign === "f" && rest[0] === "^") return [inside(rest[1][0], 5), "^", inside(rest[1][1], 5)];
  if (sign === "f" && !rest[0].includes("_")) return [rest[0], "(", rest[1].map((x, i) => [i ? ", " : "", spelled(at, x, env)]), ")"];
  if (sign === "neg") return ["−", inside(rest[0], 2)];
  if (sign in SIGNS && rest.length === 2 && sign !== "mod" && !("=≠<>≤≥".includes(sign)))
    return [inside(rest[0], strength(tree)), ` ${sign} `, inside(rest[1], strength(tree) + 1)];
  return [h("span", { title: written(at, tree) }, short(evaluate(at, tree, env)))];
}

const product = (term) => term.factors.reduce((p, f) => (f.below ? p / f.x : p * f.x), term.sign);

/** Return the terms of one element of the left side of an equation. */
function termsOf(at, equation, flat) {
  const ref = data.calls[at].refs[equation.left];
  const inverse = "places" in ref ? numbersOf(ref.places).indexOf(flat) : flat;
  const place = placeOf(inverse, ref.shape);
  const whole = [...equation.spread, ...equation.lengths];
  const full = Array(whole.length - place.length).fill(0).concat(place);
  const shape = Array(whole.length - place.length).fill(1).concat(ref.shape);
  // An input that was broadcast has fewer elements than the equation: its uses are added.
  const missing = whole.map((n, i) => (shape[i] === 1 && n > 1 ? n : 1));
  const terms = [];
  for (let i = 0; i < size(missing); i++) {
    const shifted = placeOf(i, missing).map((p, k) => p + full[k]); // batch axes, then indices
    const env = { batch: shifted.slice(0, equation.batch.length), shape: equation.batch };
    equation.letters.forEach((letter, k) => (env[letter] = shifted[equation.batch.length + k]));
    const found = expand(at, equation.tree, env);
    const use = size(missing) > 1 ? address(shifted.filter((_, k) => missing[k] > 1)) : "";
    terms.push(...found.map((t) => ({ ...t, index: t.index || use })));
  }
  return terms;
}

/** Return the sums behind an element: a list of sums, each with a heading and its terms. */
function sums(target, flat) {
  if (target.kind === "earlier") return [];
  if (target.kind === "value") {
    if (!makers.has(target.n)) return [];
    const [at, k] = makers.get(target.n);
    const name = data.calls[at].results.length > 1 ? `out${k}` : "out";
    return sumIn(at, name, flat, target);
  }
  if (target.kind === "part") return sumIn(target.call, target.name, flat, target);
  if (target.kind === "edge") return sumIn(data.steps[target.step].call, `d${target.input}`, flat, target);
  if (data.values[target.n].replaced) return [];
  const from = received.get(target.n) || [];
  if (from.length === 1 && target.n !== String(data.start)) return sums(edge(...from[0]), flat);
  const terms = from.map(([step, input]) => {
    const sent = edge(step, input);
    const x = element(arrayOf(sent), flat);
    return { sign: 1, index: "", factors: [{ x, flat, target: sent, text: labelOf(sent) }] };
  });
  if (target.n === String(data.start)) terms.unshift({
    sign: 1, index: "", factors: [{ x: element(arrayOf(target), flat), text: "where the pass begins" }],
  });
  return [{ heading: "the sum of what its uses send", terms }];
}

function sumIn(at, name, flat, target) {
  const call = data.calls[at];
  if ("from" in call) return isWhole(call.from) ? moved(at, name, flat, target) : [];
  const equation = (call.equations || []).find((e) => e.name === name);
  const left = equation && call.refs[equation.left];
  if (!left || ("places" in left && !isWhole(left.places))) return [];
  return [{ heading: target.kind === "value" ? call.op : `rule of ${call.op}`, equation, at, terms: termsOf(at, equation, flat) }];
}

/** Return the sum of an op that only moves elements: the elements that stand at the place. */
function moved(at, name, flat, target) {
  const call = data.calls[at];
  const from = numbersOf(call.from);
  const terms = [];
  let begin = 0;
  for (const [input, count] of Object.entries(call.sizes)) {
    const end = begin + count;
    if (/^out\d*$/.test(name)) {
      let before = 0;
      const k = Number(name.slice(3) || 0);
      for (let i = 0; i < k; i++) before += size(data.arrays[data.values[call.results[i]].array].shape);
      const place = from[before + flat];
      if (place >= begin && place < end) terms.push(oneFactor(meaning(at, input), place - begin));
    } else if (name === `d${input}`) {
      let before = 0;
      for (const n of call.results) {
        const key = data.values[n].cotangent;
        const count = size(data.arrays[data.values[n].array].shape);
        for (let i = 0; i < count && key >= 0; i++)
          if (from[before + i] === begin + flat) terms.push(oneFactor(cotangent(n), i));
        before += count;
      }
    }
    begin = end;
  }
  // What comes from no array, such as the elements around an array in `pad`.
  const x = target.kind === "value" && !terms.length ? element(arrayOf(target), flat) : 0;
  if (x) terms.push({ sign: 1, index: "", factors: [{ x, text: `filled in by ${call.op}` }] });
  return [{ heading: `${call.op} only moves elements`, terms }];
}

function oneFactor(target, flat) {
  return { sign: 1, index: "", factors: [{ x: element(arrayOf(target), flat), flat, target, text: labelOf(target) }] };
}

// Formulas as text and as MathML.

const STRENGTH = { "+": 1, "-": 1, neg: 1, "Σ": 2, mean: 2, "·": 2, "/": 3, "=": 0, "≠": 0, "<": 0, ">": 0, "≤": 0, "≥": 0 };
const strength = (tree) => (tree[0] === "f" && tree[1] === "^" ? 4 : tree[0] in STRENGTH ? STRENGTH[tree[0]] : 5);

/** Return a tree as a line of text. */
function written(at, tree) {
  const [sign, ...rest] = tree;
  const inside = (x, least) => (strength(x) < least ? `(${written(at, x)})` : written(at, x));
  if (sign === "n") return short(rest[0]);
  if (sign === "c") return symbol(at, rest[0]);
  if (sign === "i") return rest[0];
  if (sign === "a") {
    const letters = rest[1].map((s) => written(at, s)).join(", ");
    return symbol(at, data.calls[at].refs[rest[0]].name) + (letters ? `[${letters}]` : "");
  }
  if (sign === "f") {
    if (rest[0] === "^") return `${inside(rest[1][0], 5)}^${inside(rest[1][1], 5)}`;
    return `${rest[0]}(${rest[1].map((x) => written(at, x)).join(", ")})`;
  }
  if (sign === "[]") return `[${written(at, rest[0])}]`;
  if (sign === "neg") return `-${inside(rest[0], 2)}`;
  if (sign === "mod") return `mod(${written(at, rest[0])}, ${written(at, rest[1])})`;
  if (sign === "Σ" || sign === "mean") return `${sign}${rest[0] ? `_${rest[0]}` : ""} ${inside(rest[2], 2)}`;
  const least = strength(tree);
  return `${inside(rest[0], least)} ${sign} ${inside(rest[1], least + 1)}`;
}

const MATH = "http://www.w3.org/1998/Math/MathML";
const math = (tag, ...children) => build(document.createElementNS(MATH, tag), {}, children);
const row = (...children) => math("mrow", ...children);
const bracketed = (x) => row(math("mo", "("), x, math("mo", ")"));

/** Return a tree in the notation of mathematics. */
function notation(at, tree) {
  const [sign, ...rest] = tree;
  const inside = (x, least) => (strength(x) < least ? bracketed(notation(at, x)) : notation(at, x));
  if (sign === "n") return math("mn", short(rest[0]));
  if (sign === "c") return math("mi", symbol(at, rest[0]));
  if (sign === "i") return math("mi", rest[0]);
  if (sign === "a") {
    const name = math("mi", symbol(at, data.calls[at].refs[rest[0]].name));
    if (!rest[1].length) return name;
    return math("msub", name, row(...rest[1].flatMap((s, i) => [...(i ? [math("mo", ",")] : []), notation(at, s)])));
  }
  if (sign === "f") {
    if (rest[0] === "sqrt") return math("msqrt", notation(at, rest[1][0]));
    if (rest[0] === "^") return math("msup", inside(rest[1][0], 5), notation(at, rest[1][1]));
    return row(math("mi", rest[0]), bracketed(row(...rest[1].flatMap((x, i) => [...(i ? [math("mo", ",")] : []), notation(at, x)]))));
  }
  if (sign === "[]") return row(math("mo", "["), notation(at, rest[0]), math("mo", "]"));
  if (sign === "neg") return row(math("mo", "−"), inside(rest[0], 2));
  if (sign === "mod") return row(notation(at, rest[0]), math("mo", "mod"), notation(at, rest[1]));
  if (sign === "Σ" || sign === "mean") {
    const head = sign === "Σ" ? math("mo", "∑") : math("mi", "mean");
    return row(rest[0] ? math("munder", head, math("mi", rest[0])) : head, inside(rest[2], 2));
  }
  if (sign === "/") return math("mfrac", notation(at, rest[0]), notation(at, rest[1]));
  const least = strength(tree);
  return row(inside(rest[0], least), math("mo", sign === "-" ? "−" : sign), inside(rest[1], least + 1));
}

function equationLine(at, equation) {
  const letters = equation.letters.map((letter) => ["i", letter]);
  const left = notation(at, ["a", equation.left, letters]);
  const whole = math("math", row(left, math("mo", "="), notation(at, equation.tree)));
  whole.setAttribute("displaystyle", "true");
  return whole;
}

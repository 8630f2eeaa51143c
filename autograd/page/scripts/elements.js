// Makes and fills the elements of the page.

function build(node, attributes, children) {
  for (const [key, x] of Object.entries(attributes)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), x);
    else if (x !== false && x !== undefined) node.setAttribute(key, x === true ? "" : x);
  }
  return fill(node, ...children);
}

/** Replace what is inside a node; an empty child is left out. */
function fill(node, ...children) {
  node.replaceChildren(...children.flat(9).filter((x) => x !== null && x !== undefined));
  return node;
}

const h = (tag, attributes, ...children) => build(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) =>
  build(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

const AROUND = 4; // pixels

/** Scroll a part of the page, and nothing around it, until something in it is in sight. */
function bringInSight(part, node, isCentred = false) {
  const [outer, { left, right, top, bottom }] = [part, node].map((x) => x.getBoundingClientRect());
  const nearest = (low, size, start, end) => (start < low ? start - low : Math.max(0, Math.min(end - low - size, start - low)));
  const across = nearest(outer.left, part.clientWidth, left - AROUND, right + AROUND);
  const down = nearest(outer.top, part.clientHeight, top - AROUND, bottom + AROUND);
  if (across || down) part.scrollBy(across, down && isCentred ? (top + bottom - part.clientHeight) / 2 - outer.top : down);
}

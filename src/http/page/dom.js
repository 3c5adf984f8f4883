
// Elements, and texts of models in them. Nothing here parses markup: a string becomes a text node.

const $ = (id) => document.getElementById(id);
const SVG = $('mark').namespaceURI;

/** Sets attributes; `onclick` and the like are listeners, true is an attribute without a value, null none. */
function dress(node, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? '' : value);
  }
  return node;
}

/** An element with attributes and children: nodes, strings, or lists of them. */
function el(name, attributes = {}, ...children) {
  const node = dress(document.createElement(name), attributes);
  node.append(...children.flat(9).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

function drawn(name, attributes, ...children) {
  const node = dress(document.createElementNS(SVG, name), attributes);
  node.append(...children);
  return node;
}

// Control characters but line end and tab, and marks that are not seen but change how the text around them is.
const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/g;

/** A text with hidden characters shown as their numbers, as nodes. */
function shown(text) {
  const nodes = [];
  let from = 0;
  for (const found of text.matchAll(HIDDEN)) {
    if (found.index > from) nodes.push(text.slice(from, found.index));
    const number = `U+${found[0].codePointAt(0).toString(16).toUpperCase().padStart(4, '0')}`;
    nodes.push(el('span', { class: 'ctl', title: 'a character that is not seen' }, number));
    from = found.index + found[0].length;
  }
  if (from < text.length) nodes.push(text.slice(from));
  return nodes;
}

const textBlock = (text) => el('div', { class: 'text', dir: 'auto' }, shown(text));

const whole = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });
const number = (value, digits = 0) => {
  if (value === null || value === undefined || Number.isNaN(value)) return '–';
  return digits === 0 ? whole.format(value) : value.toFixed(digits);
};
const cuText = (cu) => (cu === null || cu === undefined ? '–' : cu.toFixed(2));
const mib = (bytes) => number(bytes / 1048576);
const clock = (time) => new Date(time).toLocaleTimeString([], { hour12: false });
// Sweden writes dates as ISO 8601 does.
const dateTime = (time) => new Date(time).toLocaleString('sv');

function span(seconds) {
  if (seconds < 100) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86400)} d`;
}

const ago = (time) => `${span(Math.max(0, (Date.now() - time) / 1000))} ago`;

/** The colour of a critique's utility; it says no more than the number. */
function scoreClass(cu) {
  if (cu === null || cu === undefined) return 'score none';
  return `score s${cu < 0.2 ? 0 : cu < 0.45 ? 1 : cu <= 0.55 ? 2 : cu <= 0.8 ? 3 : 4}`;
}

const score = (cu) => el('span', { class: scoreClass(cu), title: cu === null ? 'no CU: no valid verdict' : 'critique utility' }, cuText(cu));

/** The utilities of all critiques as blocks beside each other. */
const strip = (cus) => el('span', { class: 'strip', role: 'img', 'aria-label': `CU ${cus.map(cuText).join(', ')}`, title: `CU ${cus.map(cuText).join(', ')}` },
  cus.map((cu) => el('i', { class: scoreClass(cu) })));

// Elements of the page. Text from run folders only ever becomes a text node or an attribute's value.

export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "class") node.className = value;
    else if (name in node && typeof value !== "string") node[name] = value;
    else if (value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export const $ = (id) => document.getElementById(id);

// Set a text only if it is another: what a reader has selected stays selected.
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function show(node, visible) {
  if (node.hidden === visible) node.hidden = !visible;
}

// Replace children only if their description changed.
export function fill(node, key, make) {
  if (node.dataset.key === key) return false;
  node.dataset.key = key;
  node.replaceChildren(...make());
  return true;
}

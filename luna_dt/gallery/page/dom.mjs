// Elements, made from values.  Text is always text: nothing here reads it as HTML.

/** An element with its properties (on… are listeners, aria-… and data-… attributes) and its children. */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && !name.includes("-") && name !== "list") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== undefined && child !== null && child !== ""));
  return element;
}

/** A button; its title is told where its label is a sign. */
export const button = (label, onclick, properties = {}) => h("button", { type: "button", onclick, ...properties }, label);

/** A select of [value, label] pairs. */
export function select(label, pairs, value, onchange) {
  const made = h("select", { "aria-label": label, title: label, onchange: () => onchange?.(made.value) });
  made.append(...pairs.map(([each, told]) => h("option", { value: each, selected: each === value }, told)));
  return made;
}

/** Text that somebody else wrote, in whichever direction it runs. */
export const said = (text, className = "") => h("span", { className, dir: "auto" }, text);

export const count = (number) => number.toLocaleString("en");

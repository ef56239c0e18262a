// The library's settings, for a dialog of ComfyUI's: what is typed is written into settings.toml; the token is never read back.
import { button, h } from "./dom.mjs";
import * as data from "./data.mjs";
import { findings } from "./work.mjs";

const FIELDS = [
  ["dt", "Where your pictures are", "http://localhost:5000, or an installed DiffusionToolkit", "An address, DT's database or its folder, or a folder of pictures"],
  ["token", "Token", "none", "What DT's server asks for; it stays on ComfyUI's machine"],
  ["home", "Home of the library", "", "The folder of the mirror; what is in another one is not moved"],
  ["index", "Engine", "auto", "auto, scan, hnswlib, exact, or a Milvus server: milvus+http://host"],
  ["device", "Device", "auto", "auto is where ComfyUI computes; or cpu, cuda:0, mps"],
  ["hide", "Hidden", "delete, unavailable, and nsfw as DT hides it", "Some of delete, unavailable, nsfw; or none"],
  ["path_map", "Path map", "D:\\Pictures = /mnt/pictures", "DT's folder = the same on this machine, one a line"],
];
const CHOICES = { index: ["auto", "scan", "hnswlib", "exact"], device: ["auto", "cpu", "cuda:0", "mps"], hide: ["none", "delete, unavailable", "delete, unavailable, nsfw"] };
const LIKELY = "luna-likely-";

const asLines = (map) => Object.entries(map).map((pair) => pair.join(" = ")).join("\n");
const asMap = (lines) => Object.fromEntries(lines.split("\n").filter((line) => line.trim()).map((line) => {
  const [theirs, ...ours] = line.split("=");
  return [theirs.trim(), ours.join("=").trim()];
}));

/** A form over the settings, with a check that tells what is well and what is not. */
export function settingsForm() {
  const fields = {}, before = {}, notes = {};
  const told = h("p", { role: "status" }), result = h("div", {});
  const rows = FIELDS.map(([name, label, otherwise, help]) => {
    const properties = { id: `luna-setting-${name}`, placeholder: otherwise, title: help, dir: name === "path_map" ? "ltr" : undefined, spellcheck: false };
    fields[name] = name === "path_map" ? h("textarea", { rows: 3, ...properties })
      : h("input", { type: name === "token" ? "password" : "text", autocomplete: name === "token" ? "new-password" : "off", ...properties,
        list: CHOICES[name] && LIKELY + name });
    notes[name] = h("small", {}, help);
    return [h("label", { htmlFor: properties.id }, label), h("div", {}, fields[name], notes[name],
      CHOICES[name] && h("datalist", { id: LIKELY + name }, CHOICES[name].map((value) => h("option", { value }))))];
  });
  const forget = button("forget the token", () => write({ token: "" }), { hidden: true });
  const element = h("form", { className: "luna-form", onsubmit: (event) => (event.preventDefault(), save()), onkeydown: (event) => event.key !== "Escape" && event.stopPropagation() },
    rows, h("div", { className: "luna-row luna-form-wide" }, h("button", { type: "submit" }, "save"), forget, button("check", (event) => check(event.target))),
    h("div", { className: "luna-form-wide" }, told, result));

  function show({ settings, file }) {
    for (const [name, , otherwise, help] of FIELDS) {
      const { value, source, variable } = settings[name], field = fields[name];
      before[name] = name === "token" || (source === "default" && name !== "home") ? "" : name === "path_map" ? asLines(value) : value;
      field.value = before[name];
      field.disabled = source === "environment";
      if (name === "token") field.placeholder = value ? "there is one; it is not shown" : otherwise;
      notes[name].textContent = source === "environment" ? `${help}. Said by the environment variable ${variable}, which wins.` : help;
    }
    forget.hidden = !settings.token.value || settings.token.source === "environment";
    element.title = file;
  }

  async function write(changes) {
    try {
      show(await data.change(changes));
      told.textContent = `Saved in ${element.title}.`;
      result.replaceChildren();
    } catch (problem) {
      told.textContent = problem.message;
    }
  }

  function save() {
    const changed = FIELDS.map(([name]) => name).filter((name) => fields[name].value.trim() !== before[name].trim());
    write(Object.fromEntries(changed.map((name) => [name, name === "path_map" ? asMap(fields[name].value) : fields[name].value])));
  }

  async function check(pressed) {
    pressed.disabled = true;
    told.textContent = "…";
    try {
      result.replaceChildren(findings(await data.doctor()));
      told.textContent = "";
    } catch (problem) {
      told.textContent = problem.message;
    }
    pressed.disabled = false;
  }

  data.settings().then(show, (problem) => {
    told.textContent = problem.message;
    for (const field of Object.values(fields)) field.disabled = true;
  });
  return element;
}

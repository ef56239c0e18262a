// Clusters to look through: each as some of its pictures, with its name and how many it has.
import { button, count, h } from "./dom.mjs";
import { clusterAt } from "./data.mjs";
import { Grid } from "./grid.mjs";
import { showMenu } from "./menu.mjs";

export class Clusters {
  /** host: opened(each) by a double click, looked(each) shows its pictures, actions(each) as [label, run]; veil(), root(),
   *  missing(address). */
  constructor(host) {
    this.host = host;
    this.all = new Map();
    this.name = h("input", { type: "search", placeholder: "name …", "aria-label": "Name of a cluster", dir: "auto", oninput: () => this.draw() });
    this.told = h("span", { className: "luna-soft", role: "status" });
    this.empty = h("p", { className: "luna-empty", role: "status", hidden: true });
    this.selection = h("div", { className: "luna-row luna-selection", hidden: true });
    this.grid = new Grid({
      opened: (id) => host.opened(this.all.get(id)), detail: (id) => host.opened(this.all.get(id)), missing: host.missing,
      menu: ([id], x, y) => showMenu(host.root(), this.pairs(this.all.get(id)), x, y), chosen: () => this.chosen(),
      dragged: (event) => event.preventDefault(), // it would be dropped as a file
    }, {
      label: "Clusters", record: (id) => this.all.get(id), records: async () => {}, named: (id) => `cluster ${id}`,
      at: (id, size) => clusterAt(id, size, host.veil()),
    });
    this.element = h("section", { className: "luna-clusters", "aria-label": "Clusters" },
      h("div", { className: "luna-row luna-search" }, this.name), this.told, this.empty, this.grid.element, this.selection);
  }

  show(clusters) {
    this.all = new Map(clusters.map((each) => [each.id, each]));
    this.draw();
  }

  draw() {
    const name = this.name.value.trim().toLowerCase();
    const found = [...this.all.values()].filter((each) => each.label.toLowerCase().includes(name));
    this.grid.show(found.map((each) => each.id), found.map((each) => `${each.name || each.label} (${count(each.images)})`));
    this.told.textContent = `${count(found.length)} cluster${found.length === 1 ? "" : "s"}`;
    this.empty.hidden = found.length > 0;
    this.empty.textContent = this.all.size ? "No cluster has such a name."
      : "No clusters are here: those that DT has come with a sync (“Library”, then “sync”).";
  }

  pairs(each) {
    return [["its pictures", () => this.host.looked(each)], ...this.host.actions(each)];
  }

  chosen() {
    const each = this.all.get(this.grid?.chosen.at(-1));
    this.selection.hidden = !each;
    if (each) this.selection.replaceChildren(h("span", { dir: "auto" }, each.label), ...this.pairs(each).map(([label, run]) => button(label, run)));
  }
}

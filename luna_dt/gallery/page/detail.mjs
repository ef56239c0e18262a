// One picture, whole, with all that is known of it; or two, side by side.
import { button, h, said } from "./dom.mjs";
import { isHidden, mapAt, one, pictureAt, record, records, thumbnailAt, whyNot } from "./data.mjs";
import { STILL } from "./states.mjs";

const SETTINGS = [["model", "model"], ["sampler", "sampler"], ["scheduler", "scheduler"], ["steps", "steps"], ["cfg", "CFG"], ["seed", "seed"],
  ["rating", "rating"], ["aesthetic_score", "aesthetic"], ["created", "made"], ["loras", "LoRAs"], ["path", "file"]];

const veiled = (id) => (isHidden(id) ? "luna-hidden" : "");

export class Detail {
  /** host: ids() that are gone through, actions(ids) and similar(id) as [label, run] pairs, cluster(each). */
  constructor(host) {
    this.host = host;
    this.body = h("div", { className: "luna-detail-body" });
    this.element = h("dialog", { className: "luna-detail", "aria-label": "Picture", onkeydown: (event) => this.key(event),
      onclose: () => this.body.replaceChildren() }, this.body);
  }

  async show(id) {
    this.id = id;
    if (!this.element.open) this.element.showModal();
    await records([id]).catch(() => {});
    if (this.id !== id) return;
    const known = record(id);
    const facts = h("div", { className: "luna-facts" });
    this.body.replaceChildren(this.bar(id), h("div", { className: "luna-detail-parts" }, this.picture(id), facts));
    if (!known) return facts.append(h("p", { role: "alert" }, `Image ${id} is not in the library here; a sync may bring it.`));
    this.write(facts, known);
    try {
      const all = await one(id);
      await records(all.lineage.map((node) => node.image_id).filter((each) => each !== null)).catch(() => {});
      if (this.id === id) this.write(facts, known, all);
    } catch (problem) {
      if (this.id === id) facts.append(h("p", { role: "alert" }, problem.message));
    }
  }

  picture(id) {
    const image = h("img", { src: pictureAt(id), alt: record(id)?.prompt || `image ${id}`, className: veiled(id) });
    const figure = h("figure", {}, image);
    if (isHidden(id)) figure.append(button("show", (event) => (image.classList.remove("luna-hidden"), event.target.remove())));
    image.addEventListener("error", async () => {
      const problem = await whyNot(image.src);
      figure.replaceChildren(h("p", { role: "alert" }, said(problem?.message ?? "The file is no picture that a browser shows."), " ",
        problem?.away ? STILL : "The check in “Library” tells more."));
    });
    return figure;
  }

  bar(id) {
    return h("div", { className: "luna-row luna-detail-bar" },
      button("‹", () => this.step(-1), { "aria-label": "The picture before" }), button("›", () => this.step(1), { "aria-label": "The next picture" }),
      ...this.host.similar(id).map(([label, run]) => button(label, () => (this.element.close(), run()))),
      ...this.host.actions([id]).filter(Boolean).map(([label, run]) => button(label, () => run())),
      button("×", () => this.element.close(), { "aria-label": "Close", className: "luna-close" }));
  }

  write(facts, known, all) {
    const rows = SETTINGS.map(([name, label]) => [label, known[name]]).filter(([, value]) => value !== null && value !== "" && value !== 0);
    if (known.width) rows.unshift(["size", `${known.width} × ${known.height}`]);
    const list = h("dl", {}, rows.map(([label, value]) => [h("dt", {}, label), h("dd", {}, said(String(value)))]));
    const parts = [h("h2", {}, `Image ${known.id}`), said(known.prompt || "no prompt", "luna-prompt")];
    if (known.negative_prompt) parts.push(h("h3", {}, "Negative"), said(known.negative_prompt, "luna-prompt"));
    parts.push(list);
    if (all?.captions.combined) parts.push(h("h3", {}, "Captions"), said(all.captions.combined));
    if (all?.clusters.length) {
      parts.push(h("h3", {}, "Clusters"), h("div", { className: "luna-row" },
        all.clusters.map((each) => button(each.name || `cluster ${each.id}`, () => (this.element.close(), this.host.cluster(each))))));
    }
    if (all?.maps.length) {
      parts.push(h("h3", {}, "Maps"), h("div", { className: "luna-row" }, all.maps.map((kind) =>
        h("a", { href: mapAt(known.id, kind), target: "_blank", rel: "noopener" }, h("img", { className: `luna-map ${veiled(known.id)}`, src: mapAt(known.id, kind), alt: `${kind} map` }), kind))));
    }
    if (all && all.lineage.length > 1) parts.push(h("h3", {}, "Lineage"), this.lineage(all.lineage));
    facts.replaceChildren(...parts);
  }

  lineage(nodes) {
    return h("ul", { className: "luna-lineage" }, nodes.map((node) => {
      const told = node.generation ? `${node.generation.operation} ${node.generation.created?.slice(0, 16) ?? ""}` : `image ${node.image_id}`;
      const line = h("li", {});
      line.style.marginInlineStart = `${node.depth * 16}px`;
      if (node.image_id === null) line.append(said(told));
      else line.append(button(told, () => this.show(node.image_id)), h("img", { src: thumbnailAt(node.image_id, 256), alt: "", className: veiled(node.image_id) }));
      if (node.image_id === this.id) line.classList.add("luna-here");
      return line;
    }));
  }

  async compare(first, second) {
    this.id = undefined;
    if (!this.element.open) this.element.showModal();
    await records([first, second]).catch(() => {});
    const sides = [first, second].map((id) => h("div", {}, this.picture(id), said(record(id)?.prompt ?? "", "luna-prompt"),
      h("p", {}, `image ${id}, ${record(id)?.model ?? ""}, seed ${record(id)?.seed ?? ""}`)));
    this.body.replaceChildren(
      h("div", { className: "luna-row luna-detail-bar" }, h("h2", {}, "Compare"), button("×", () => this.element.close(), { "aria-label": "Close", className: "luna-close" })),
      h("div", { className: "luna-compare" }, sides));
  }

  step(by) {
    const ids = this.host.ids(), at = ids.indexOf(this.id);
    const next = ids[at + by];
    if (at >= 0 && next !== undefined) this.show(next);
  }

  key(event) {
    if (event.target.matches("input, select, textarea")) return;
    if (event.key === "ArrowLeft") this.step(-1);
    else if (event.key === "ArrowRight") this.step(1);
    else return;
    event.preventDefault();
  }
}

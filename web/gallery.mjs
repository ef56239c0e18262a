// The gallery inside ComfyUI: a sidebar tab, pictures that become nodes, and pickers at the nodes' inputs.  What a workflow
// holds is the nodes' own values and nothing of ours, so it runs the same where this page is not.
import { addNode, chosenNode, clusterTaker, give, nodeAt, pointOf, setValue, taker } from "./graph.mjs";
import { addPicker } from "./picker.mjs";

const PAGE = new URL("../../luna_dt/gallery/page/", import.meta.url);
const CARRIED = "application/x-luna-image"; // ids, while they are dragged
const MAPS = ["openpose_full", "canny", "depth_midas", "lineart", "softedge"];
const MOST_NODES = 20; // that are made at once

let loading;

/** The gallery's modules, loaded when they are first wanted. */
export function galleryPage() {
  if (!loading) {
    const style = Object.assign(document.createElement("link"), { rel: "stylesheet", href: new URL("gallery.css", PAGE).href });
    document.head.append(style);
    loading = Promise.all([import(new URL("gallery.mjs", PAGE).href), import(new URL("data.mjs", PAGE).href)]);
    loading.catch(() => (loading = undefined));
  }
  return loading.then(([{ mountGallery }, data]) => ({ mountGallery, data }));
}

export function galleryExtension(app) {
  const make = (type, values, at) => addNode(app, type, values, at);
  const load = (ids, at) => ids.slice(0, MOST_NODES).forEach((id, index) =>
    make("LunaDTImageLoader", { image_id: id }, at && [at[0] + 40 * index, at[1] + 40 * index]));

  function actions(ids) {
    const id = ids[0], pairs = [["Image Loader", () => load(ids)]];
    if (ids.length === 1) {
      pairs.push(["Similar Search", () => make("LunaDTSimilarSearch", { reference_image_id: id })],
        ["Prompt Injector", () => make("LunaDTPromptInjector", { image_id: id })],
        ...MAPS.map((kind) => [`ControlNet Cache: ${kind}`, () => make("LunaDTControlNetCache", { image_id: id, controlnet_type: kind })]));
    }
    pairs.push(["Likeness Gate’s references", () => make("LunaDTLikenessGate", { reference_ids: ids.join(", ") })],
      ["Batch Queue", () => make("LunaDTBatchQueue", { image_ids: ids.join(", ") })]);
    const node = chosenNode(app, (each) => taker(each) ?? taker(each, [0, 0]));
    if (node) pairs.push([`into ${node.title}`, () => give(app, node, ids)]);
    return pairs;
  }

  function clusterActions({ label }) {
    const pairs = [["Cluster Sampler", () => make("LunaDTClusterSampler", { cluster: label })],
      ["Likeness Gate", () => make("LunaDTLikenessGate", { cluster: label })]];
    const node = chosenNode(app, clusterTaker);
    if (node) pairs.push([`into ${node.title}`, () => setValue(app, node, clusterTaker(node), label)]);
    return pairs;
  }

  // one element, kept while the tab is closed, which takes it out of the page
  let panel, mounted;
  function render(place) {
    place.style.height = "100%"; // the tab itself has none, and would grow to its content
    if (!panel) {
      panel = Object.assign(document.createElement("div"), { className: "luna-panel" });
      panel.style.height = "100%";
      galleryPage().then(({ mountGallery }) => {
        mounted = mountGallery(panel, {
          actions, clusterActions, opened: (id) => load([id]),
          dragged: (event, ids) => {
            event.dataTransfer.effectAllowed = "copy";
            event.dataTransfer.setData(CARRIED, JSON.stringify(ids));
          },
        });
      }, (error) => (panel.textContent = `The gallery could not be loaded: ${error.message}`));
    }
    const at = mounted?.grid.element.scrollTop ?? 0;
    place.append(panel);
    if (mounted) requestAnimationFrame(() => requestAnimationFrame(() => (mounted.grid.element.scrollTop = at)));
  }

  // the target is the canvas, or with Vue's nodes a node's own element: so they are heard before both
  function listen() {
    const ours = (event) => event.dataTransfer?.types.includes(CARRIED);
    document.addEventListener("dragover", (event) => ours(event) && event.preventDefault(), true);
    document.addEventListener("drop", (event) => {
      if (!ours(event) || event.target.closest?.(".luna-gallery")) return;
      event.preventDefault();
      event.stopPropagation();
      const ids = JSON.parse(event.dataTransfer.getData(CARRIED)).filter(Number.isSafeInteger);
      const at = pointOf(app, event), node = nodeAt(app, at);
      if (!(node && give(app, node, ids))) load(ids, at);
    }, true);
  }

  return {
    name: "luna_dt.gallery",
    settings: [{ id: "LunaDT.Settings", name: "Your library", category: ["Luna DT", "Library", "Settings"], type: settingsPlace, defaultValue: "" }],
    setup() {
      listen();
      app.extensionManager?.registerSidebarTab?.({
        id: "luna_dt.gallery", icon: "pi pi-images", title: "Luna DT", tooltip: "Luna DT: your pictures", type: "custom", render,
      });
    },
    nodeCreated(node) {
      if ((node.comfyClass ?? node.type ?? "").startsWith("LunaDT")) addPicker(app, node, galleryPage);
    },
    loadedGraphNode(node) {
      node.lunaShow?.();
    },
  };
}

/** In ComfyUI's settings: a form of our own, so that nothing of it is stored among ComfyUI's. */
function settingsPlace() {
  const place = document.createElement("div");
  Object.assign(place.style, { width: "min(620px, 100%)" });
  galleryPage().then(() => import(new URL("settings.mjs", PAGE).href)).then(({ settingsForm }) => place.append(settingsForm()),
    (error) => (place.textContent = `The settings could not be loaded: ${error.message}`));
  return place;
}

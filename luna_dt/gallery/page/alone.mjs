// The gallery as a page of its own.
import { mountGallery } from "./gallery.mjs";

const gallery = mountGallery(document.getElementById("gallery"), {});
document.addEventListener("keydown", (event) => event.target === document.body && gallery.key(event));
document.addEventListener("paste", (event) => event.target === document.body && gallery.pasted(event));

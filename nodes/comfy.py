"""All that touches ComfyUI's own modules, and the one library that the nodes share.

Nothing of ComfyUI is imported before a node runs, so the pack loads, and its nodes run, without it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlsplit

from ..luna_dt import Cluster, Identity, Library, LunaError, Settings, threads
from ..luna_dt.errors import BadInput, IdentityMismatch, NotAllowed
from ..luna_dt.settings import DEFAULT_DT

if TYPE_CHECKING:
    import torch
    from PIL import Image

log = logging.getLogger(__name__)

CATEGORY = "Luna/Toolkit"
#: The largest whole number a web page keeps exactly; without it the front end stops ids at 2048.
MAX_ID = 2**53 - 1
MAX_SEED = 2**64 - 1
IMAGE_ID = ("INT", {"default": 0, "min": 0, "max": MAX_ID, "tooltip": "DT's id of the picture."})
NO_CLUSTERS = "no clusters yet: sync, or start DT"
CLUSTERS_ROUTE = "/luna_dt/clusters"

T = TypeVar("T")

# -- the library ------------------------------------------------------------------------------------

_libraries: dict[str, Library] = {}
_lock = threading.Lock()
_ending = threading.Event()


def library(api_url: str = "") -> Library:
    """The library at an address that the user has configured or allowed; "" and the default mean the configured one.

    Raises NotAllowed: a workflow from elsewhere must not make this machine call a stranger.
    """
    settings = Settings.load()
    if _running():
        import comfy.model_management
        import folder_paths

        theirs = [Path(p) for kind in ("clip_vision", "text_encoders") for p in folder_paths.get_folder_paths(kind)]
        theirs += [Path(p) / "comfyui_controlnet_aux" / "ckpts" for p in folder_paths.get_folder_paths("custom_nodes")]
        if os.environ.get("AUX_ANNOTATOR_CKPTS_PATH"):  # where that pack has been told to keep them
            theirs.append(Path(os.environ["AUX_ANNOTATOR_CKPTS_PATH"]))
        settings = settings.replace(
            device=str(comfy.model_management.get_torch_device()), models=(*settings.models_folders, *theirs)
        )
    address = api_url.strip().rstrip("/")
    if address in ("", DEFAULT_DT, settings.dt.rstrip("/")):
        address = settings.dt
    elif urlsplit(address).scheme not in ("http", "https"):
        raise NotAllowed(
            f"api_url '{address}' is not http(s); other addresses are set as DT_API_URL, not in a workflow"
        )
    elif address not in settings.allowed:
        raise NotAllowed(
            f"api_url '{address}' is none that you allowed; if you trust it, add to "
            f"{settings.home / 'settings.toml'}: allowed = ['{address}']"
        )
    else:  # another DT's mirror must not mix with this one's
        home = settings.home / "others" / quote(address, safe="")
        settings = replace(settings, home=home, models=settings.models_folders, token="")  # the token is the other's
    settings = settings.replace(dt=address)
    with _lock:
        opened = _libraries.get(address)
        if opened is not None and opened.settings != settings:  # changed since, in settings.toml
            opened.close()
            opened = None
        if opened is None:
            opened = _libraries[address] = Library(settings=settings, residency=_resident if _running() else None)
            if hasattr(_server(), "port"):
                _go_on(opened)
        return opened


def close_libraries() -> None:
    """Closes every library that was opened; the next use opens it again."""
    with _lock:
        for opened in _libraries.values():
            opened.close()
        _libraries.clear()


def fingerprint(opened: Library, image_id: int | None) -> str:
    """What a node that shows one image depends on; ComfyUI does not tell a linked id (None) before the run."""
    return opened.fingerprint(image_id=image_id) if image_id else opened.fingerprint("images", "captions")


def needed_id(image_id: int) -> int:
    if image_id <= 0:
        raise BadInput("image_id is 0: give the id of an image in DT")
    return image_id


# -- pixels -----------------------------------------------------------------------------------------


def to_image(picture: Image.Image) -> torch.Tensor:
    """IMAGE: float32 [1, H, W, 3] in 0..1, from an RGB picture."""
    import numpy as np
    import torch

    return torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255)[None]


def to_mask(alpha: Image.Image | None, size: tuple[int, int]) -> torch.Tensor:
    """MASK: float32 [1, H, W], 1 where the picture is transparent, as ComfyUI's own loader gives it."""
    import numpy as np
    import torch

    if alpha is None:
        return torch.zeros((1, size[1], size[0]), dtype=torch.float32)
    return 1 - torch.from_numpy(np.asarray(alpha, dtype=np.float32) / 255)[None]


def preview(picture: Image.Image) -> dict[str, Any]:
    """What a node returns as ``ui`` to show a picture; {} outside ComfyUI."""
    if not _running():
        return {}
    import folder_paths

    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    name = f"luna_dt_{uuid.uuid4().hex}.png"
    picture.save(folder / name, compress_level=1)
    return {"images": [{"filename": name, "subfolder": "", "type": "temp"}]}


@dataclass(frozen=True)
class Saved:
    """A picture that was saved: where, and as ComfyUI's page shows it."""

    path: Path
    shown: dict[str, Any]


def save(picture: Image.Image, prefix: str, parameters: str, graph: Any, extra_pnginfo: Any) -> Saved:
    """Saves a PNG in ComfyUI's output folder with A1111's ``parameters`` and ComfyUI's own ``prompt`` and ``workflow``."""
    from PIL.PngImagePlugin import PngInfo

    if not _running():
        raise BadInput("pictures are saved only inside ComfyUI; leave filename_prefix empty")
    import folder_paths

    folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
        prefix.strip(), folder_paths.get_output_directory(), picture.width, picture.height
    )
    from comfy.cli_args import args

    text = PngInfo()
    if not args.disable_metadata:
        text.add_text("parameters", parameters)
        if graph is not None:
            text.add_text("prompt", json.dumps(graph))
        for key, value in (extra_pnginfo or {}).items():
            text.add_text(str(key), json.dumps(value))
    path = Path(folder).absolute() / f"{name}_{counter:05}_.png"
    part = path.with_suffix(".part")
    picture.save(part, "PNG", pnginfo=text, compress_level=4)
    part.replace(path)
    return Saved(path, {"filename": path.name, "subfolder": subfolder, "type": "output"})


# -- the workflow itself ----------------------------------------------------------------------------


def sampler_of(graph: Any, node: Any) -> dict[str, Any]:
    """What the workflow shows of how a node's image was made: of the nearest sampler upstream its seed, steps, cfg,
    denoise, sampler, scheduler, and the prompts and model that are written out there; {} for nothing."""
    sampler = _upstream(
        graph, node, lambda n: "sampler_name" in n["inputs"] and {"seed", "noise_seed"} & set(n["inputs"])
    )
    if sampler is None:
        return {}
    inputs = graph[sampler]["inputs"]
    names = {
        "seed": "seed", "noise_seed": "seed", "steps": "steps", "cfg": "cfg", "denoise": "denoise",
        "sampler_name": "sampler", "scheduler": "scheduler",
    }  # fmt: skip
    found = {ours: inputs[theirs] for theirs, ours in names.items() if _written(inputs.get(theirs))}
    for theirs, ours in (("positive", "prompt"), ("negative", "negative")):
        if source := _upstream(graph, sampler, lambda n: isinstance(n["inputs"].get("text"), str), via=theirs):
            found[ours] = graph[source]["inputs"]["text"]
    if loader := _upstream(graph, sampler, lambda n: isinstance(n["inputs"].get("ckpt_name"), str), via="model"):
        found["model"] = graph[loader]["inputs"]["ckpt_name"]
    return found


def _written(value: Any) -> bool:
    return isinstance(value, (str, int, float))


def _upstream(graph: Any, node: Any, fits: Callable[[Any], Any], via: str = "") -> str | None:
    """The nearest node that fits, going up the links from a node, first along one of its inputs if named."""
    start = (graph or {}).get(str(node))
    if start is None:
        return None

    def onward(inputs: dict[str, Any]) -> list[Any]:
        """A node that has an input of that name, as a ControlNet has, is passed through along it."""
        return [inputs[via]] if via in inputs else list(inputs.values())

    ahead = onward(start["inputs"])
    seen: set[str] = set()
    while ahead:
        value = ahead.pop(0)
        name = str(value[0]) if isinstance(value, list) and len(value) == 2 else ""
        if name in seen or name not in graph:
            continue
        seen.add(name)
        if fits(graph[name]):
            return name
        ahead.extend(onward(graph[name]["inputs"]))
    return None


def workflow_file(name: str) -> Path:
    """A saved workflow, in ComfyUI's input folder or among its saved workflows; raises BadInput for any other place."""
    if not _running():
        raise BadInput("saved workflows are found only inside ComfyUI; leave workflow empty")
    import folder_paths

    wanted = PureWindowsPath(name)  # which takes both slashes for one
    if wanted.drive or wanted.root or ".." in wanted.parts:  # before anything is touched, as on another machine's share
        raise BadInput(f"'{name}' is no workflow's name; give the name of a file, without a drive and without '..'")
    folders = [
        Path(folder_paths.get_input_directory()),
        Path(folder_paths.get_user_directory()) / "default" / "workflows",
    ]
    for folder in folders:
        for file in (folder / name, folder / f"{name}.json"):
            if file.is_file() and file.resolve().is_relative_to(folder.resolve()):
                return file
    raise BadInput(
        f"there is no workflow '{name}' in {' or '.join(map(str, folders))}; save it there with Export (API)"
    )


# -- queueing ---------------------------------------------------------------------------------------


def own_address() -> str:
    """Where this ComfyUI answers; raises BadInput outside ComfyUI."""
    instance = _server()
    if instance is None:
        raise BadInput("a batch is queued only inside ComfyUI; from elsewhere use luna-dt batch or Library.batches")
    from comfy.cli_args import args

    scheme = "https" if getattr(args, "tls_keyfile", None) else "http"
    listening = str(getattr(instance, "address", ""))
    host = "127.0.0.1" if listening in ("", "0.0.0.0", "::", "::1", "localhost") else listening  # noqa: S104
    return f"{scheme}://{host}:{instance.port}"


def extra_data(extra_pnginfo: Any) -> dict[str, Any]:
    """What goes with each queued run: the workflow for its pictures, and the page that is to be told of it."""
    client = getattr(_server(), "client_id", None)
    return {
        **({"extra_pnginfo": extra_pnginfo} if extra_pnginfo else {}),
        **({"client_id": client} if client else {}),
    }


def show_progress(node: str, text: str) -> None:
    """Shows a line of text in a node, while a page is open that can."""
    instance = _server()
    if instance is not None and hasattr(instance, "send_progress_text"):
        instance.send_progress_text(text, str(node))


def _server() -> Any:
    return getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)


# -- progress and interruption ----------------------------------------------------------------------


def each(items: Sequence[T]) -> Iterator[T]:
    """The items one by one, with ComfyUI's progress bar, ended by its interruption."""
    if not _running():
        yield from items
        return
    import comfy.model_management
    import comfy.utils

    bar = comfy.utils.ProgressBar(len(items))
    for item in items:
        comfy.model_management.throw_exception_if_processing_interrupted()
        yield item
        bar.update(1)


# -- models -----------------------------------------------------------------------------------------


def _resident(module: Any) -> None:
    """Puts a model under ComfyUI's memory management, which moves it out when something else needs the room."""
    import comfy.model_management
    import comfy.model_patcher
    import torch

    if not hasattr(module, "luna_dt_patcher"):
        module.luna_dt_patcher = comfy.model_patcher.ModelPatcher(
            torch.nn.ModuleList([module]),  # ComfyUI writes to what it holds; transformers' `device` cannot be written
            load_device=comfy.model_management.get_torch_device(),
            offload_device=comfy.model_management.unet_offload_device(),
        )
    # whole: a partial load leaves parameters that are not in a leaf module behind
    comfy.model_management.load_models_gpu([module.luna_dt_patcher], force_full_load=True)


def clip_vision_vector(clip_vision: Any, image: torch.Tensor, identity: Identity) -> Any:
    """A batch's mean direction by ComfyUI's own CLIP_VISION, float32[dim], if it is the model of that identity.

    Which weights it has cannot be seen, only its architecture.  Raises IdentityMismatch with the reason.
    """
    import open_clip
    import torch

    vision = getattr(clip_vision.model, "vision_model", None)
    wanted = open_clip.get_model_config(identity.architecture) if identity.tower == "image" else None
    if vision is None or wanted is None:
        raise IdentityMismatch(f"this layer was made by {identity}, which CLIP_VISION is not; leave clip_vision empty")
    have = (vision.embeddings.class_embedding.shape[-1], len(vision.encoder.layers), clip_vision.image_size)
    config = wanted["vision_cfg"]
    need = (config["width"], config["layers"], config["image_size"])
    if have != need:
        raise IdentityMismatch(
            f"this layer was made by {identity} (width, layers, pixels {need}), the CLIP_VISION given has {have}; "
            "load the model of the layer, or leave clip_vision empty"
        )
    out = clip_vision.encode_image(image, crop=identity.pixels == "crop")
    if identity.output == "projected":
        vectors = out["image_embeds"]
    else:
        norm = vision.post_layernorm
        vectors = norm(out["last_hidden_state"][:, 0].to(norm.weight.device))
    return torch.nn.functional.normalize(vectors.float(), dim=-1).mean(dim=0).cpu().numpy()


# -- clusters, as a list that is always there -------------------------------------------------------

_seen_clusters: list[Cluster] = []
_asked = 0.0
ASK_EVERY = 30.0  # seconds between two questions to a DT that may be away


def cluster_labels() -> list[str]:
    """Every cluster as ``id: name (count)``, at once: from the mirror, else from what DT last told in the background."""
    global _asked
    try:
        opened = library()
        if opened.mirrors("clusters"):
            return _labels(opened.clusters()) or [NO_CLUSTERS]
    except LunaError as error:
        log.warning("clusters cannot be listed: %s", error)
        return [NO_CLUSTERS]
    if time.monotonic() - _asked > ASK_EVERY:
        _asked = time.monotonic()
        threads.start("clusters", lambda: _ask_for_clusters(opened), lambda: None, network=True)
    return _labels(_seen_clusters) or [NO_CLUSTERS]


def _ask_for_clusters(opened: Library) -> None:
    try:
        _seen_clusters[:] = opened.clusters()
    except LunaError as error:
        log.info("DT tells no clusters: %s", error)


def _labels(clusters: Iterable[Cluster]) -> list[str]:
    return [f"{c.id}: {c.name or 'unnamed'} ({c.image_count})" for c in clusters]


def cluster_id(label: str) -> int:
    """The id in a label; a saved label's name and count may be out of date.  Raises BadInput."""
    number = str(label).partition(":")[0].strip()
    if not number.isdigit():
        raise BadInput(f"'{label}' is no cluster; choose one from the list again (it may take a moment to load)")
    return int(number)


def add_routes() -> None:
    """Serves the list of clusters to the front end, where there is one, and goes on with what was left undone."""
    instance = _server()
    if instance is None:
        return
    threads.start("goes on", _go_on_when_ready, _ending.set, network=True)
    from aiohttp import web

    @instance.routes.get(CLUSTERS_ROUTE)  # type: ignore[untyped-decorator]
    async def clusters(_: Any) -> Any:
        return web.json_response(await asyncio.get_running_loop().run_in_executor(None, cluster_labels))


def _go_on(opened: Library) -> None:
    """What was recorded before is sent now, and batches that are open are looked after."""
    opened.outbox.start()
    opened.batches.watch_all(own_address())


def _go_on_when_ready() -> None:
    """Opens the library once ComfyUI has its port, which it is told when all packs are loaded."""
    while not hasattr(_server(), "port"):
        if _ending.wait(0.5):
            return
    try:
        library()
    except LunaError as error:
        log.warning("what was left undone waits: %s", error)


def _running() -> bool:
    """Whether this runs inside ComfyUI."""
    return "comfy.model_management" in sys.modules

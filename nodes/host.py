"""ComfyUI itself: the only file that touches its modules.

None of them is imported before a node runs, so the pack loads, and its nodes run, without ComfyUI.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Any, TypeVar

from ..luna_dt.errors import BadInput, IdentityMismatch
from ..luna_dt.identity import Identity
from ..luna_dt.made.batch import QUEUED_BY
from ..luna_dt.progress import Progress, silent

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


def running() -> bool:
    """Whether this runs inside ComfyUI."""
    return "comfy.model_management" in sys.modules


# -- its server -------------------------------------------------------------------------------------


def server() -> Any:
    """ComfyUI's PromptServer; None where there is none.  It has its ``port`` once all packs are loaded."""
    return getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)


def own_address() -> str:
    """Where this ComfyUI answers; raises BadInput outside ComfyUI."""
    instance = server()
    if instance is None:
        raise BadInput("a batch is queued only inside ComfyUI; from elsewhere use Library.batches")
    from comfy.cli_args import args

    scheme = "https" if getattr(args, "tls_keyfile", None) else "http"
    listening = str(getattr(instance, "address", ""))
    host = "127.0.0.1" if listening in ("", "0.0.0.0", "::", "::1", "localhost") else listening  # noqa: S104
    return f"{scheme}://{host}:{instance.port}"


def extra_data(extra_pnginfo: Any) -> dict[str, Any]:
    """What goes with each queued run: the workflow for its pictures, the page that is to be told of it, and the run
    that goes on now, which queues it."""
    client, run = getattr(server(), "client_id", None), getattr(server(), "last_prompt_id", None)
    return {
        **({QUEUED_BY: run} if run else {}),
        **({"extra_pnginfo": extra_pnginfo} if extra_pnginfo else {}),
        **({"client_id": client} if client else {}),
    }


def running_node() -> str:
    """The id of the node that runs now, empty where none does or a ComfyUI is too old to say."""
    try:
        from comfy_execution.utils import get_executing_context
    except ImportError:
        return ""
    context = get_executing_context()
    return str(context.node_id) if context else ""


def show_text(node: str, kind: str, text: str) -> None:
    """Shows a line of text in a node of that class, while a page is open; web/texts.mjs has it shown there.

    Not by ComfyUI's own message, which puts it on whatever has that number in the workflow that is open then.
    """
    instance = server()
    if instance is not None and hasattr(instance, "send_sync"):
        instance.send_sync("luna_dt.text", {"nodeId": str(node), "type": kind, "text": text})


# -- its folders ------------------------------------------------------------------------------------


def weights_folders() -> list[Path]:
    """Where ComfyUI's users, and those of comfyui_controlnet_aux, have the weights that we know."""
    import folder_paths

    theirs = [Path(p) for kind in ("clip_vision", "text_encoders") for p in folder_paths.get_folder_paths(kind)]
    theirs += [Path(p) / "comfyui_controlnet_aux" / "ckpts" for p in folder_paths.get_folder_paths("custom_nodes")]
    if os.environ.get("AUX_ANNOTATOR_CKPTS_PATH"):  # where that pack has been told to keep them
        theirs.append(Path(os.environ["AUX_ANNOTATOR_CKPTS_PATH"]))
    return theirs


def temp_folder() -> Path:
    """Where pictures lie that a node only shows; it is there."""
    import folder_paths

    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def output_file(prefix: str, size: tuple[int, int], end: str) -> tuple[Path, str]:
    """The next free name with that end for a picture of that size in the output folder, and its subfolder there."""
    import folder_paths

    folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
        prefix, folder_paths.get_output_directory(), *size
    )
    return Path(folder).absolute() / f"{name}_{counter:05}_{end}", subfolder


def keeps_metadata() -> bool:
    """Whether text may go into saved pictures, which ComfyUI can be told to leave out."""
    from comfy.cli_args import args

    return not args.disable_metadata


def workflow_file(name: str) -> Path:
    """A saved workflow, in ComfyUI's input folder or among its saved workflows; raises BadInput for any other place."""
    if not running():
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


# -- its progress bar and interruption ----------------------------------------------------------------


def heed_interruption() -> None:
    """Ends the node's work, by ComfyUI's own exception, if the user has asked for that."""
    if running():
        import comfy.model_management

        comfy.model_management.throw_exception_if_processing_interrupted()


def interrupted() -> bool:
    """Whether the user has asked for that; it stays to be heeded."""
    if not running():
        return False
    import comfy.model_management

    return bool(comfy.model_management.processing_interrupted())


def each(items: Sequence[T]) -> Iterator[T]:
    """The items one by one, with ComfyUI's progress bar, ended by its interruption."""
    if not running():
        yield from items
        return
    import comfy.utils

    bar = comfy.utils.ProgressBar(len(items))
    for item in items:
        heed_interruption()
        yield item
        bar.update(1)


def progress() -> Progress:
    """Moves ComfyUI's progress bar, and ends the work by its interruption."""
    if not running():
        return silent
    import comfy.utils

    bar = comfy.utils.ProgressBar(1)

    def tell(_what: str, done: int, total: int) -> None:
        heed_interruption()
        bar.update_absolute(done, max(1, total))

    return tell


def blocker() -> Any:
    """What has ComfyUI skip, without a word, whatever follows an output; None outside it."""
    if not running():
        return None
    from comfy_execution.graph_utils import ExecutionBlocker

    return ExecutionBlocker(None)


# -- its models and memory ----------------------------------------------------------------------------


def device() -> str:
    """Where ComfyUI computes, as torch names it."""
    import comfy.model_management

    return str(comfy.model_management.get_torch_device())


def resident(module: Any) -> None:
    """Puts a model under ComfyUI's memory management, which moves it out when something else needs the room."""
    import comfy.model_management
    import comfy.model_patcher
    import torch

    if not hasattr(module, "luna_dt_patcher"):
        _look_between_parts(module)
        module.luna_dt_patcher = comfy.model_patcher.ModelPatcher(
            torch.nn.ModuleList([module]),  # ComfyUI writes to what it holds; transformers' `device` cannot be written
            load_device=comfy.model_management.get_torch_device(),
            offload_device=comfy.model_management.unet_offload_device(),
        )
    # whole: a partial load leaves parameters that are not in a leaf module behind
    comfy.model_management.load_models_gpu([module.luna_dt_patcher], force_full_load=True)


def _look_between_parts(module: Any) -> None:
    """Has a model look at the interruption before each of its parts, since on a CPU the whole takes seconds.

    Torch computes the parts of attention in another way once they have hooks; so these have none.
    """
    from torch.nn import MultiheadAttention, TransformerEncoder, TransformerEncoderLayer

    whole = (MultiheadAttention, TransformerEncoder, TransformerEncoderLayer)
    inside = {id(part) for each in module.modules() if isinstance(each, whole) for part in each.modules()}
    for part in module.modules():
        if id(part) not in inside:
            part.register_forward_pre_hook(lambda *_: heed_interruption())


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

"""WeightsFile for every detector, in the files and under the names that the published ones have.

    python -m tests.weights FOLDER

They are random: loading, shapes, bytes and speed can be shown with them, not what a map looks like.  Only those
of OpenPose's body are not: its network is set up by hand to find a figure of coloured dots (``figure``), so that
poses, and hands and faces at their places, are there to be looked at.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw

from luna_dt.files import sha256
from luna_dt.preproc import detectors
from luna_dt.preproc.map_types import TYPES, WeightsFile

#: The network sees a square picture as this many cells a side: 368 / 2 pixels, 8 to a cell.
CELLS = 23
#: A figure's 18 keypoints (OpenPose's COCO order) in cells, and the pairs that its limbs join.
FIGURE = (
    (11, 4), (11, 7), (8, 7), (6, 10), (5, 13), (14, 7), (16, 10), (17, 13), (9, 13), (9, 16), (9, 19), (13, 13),
    (13, 16), (13, 19), (10, 3), (12, 3), (8, 3), (14, 3),
)  # fmt: skip
LIMBS = (
    (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13), (1, 0),
    (0, 14), (14, 16), (0, 15), (15, 17), (2, 16), (5, 17),
)  # fmt: skip
#: Where the network's answer has the x of each limb's direction; y comes next.
LIMB_CHANNELS = (12, 20, 14, 16, 22, 24, 0, 2, 4, 6, 8, 10, 28, 30, 34, 32, 36, 18, 26)
#: A keypoint's colour, in fifths: all are equally bright, so none is a darker shade of another, as at a dot's edge.
COLOURS = [each for each in itertools.product(range(6), repeat=3) if sum(each) == 5][: len(FIGURE)]


def figure(side: int) -> tuple[Image.Image, list[tuple[float, float]]]:
    """A square picture of a figure of coloured dots on black, and where in it the keypoints are."""
    picture = Image.new("RGB", (side, side))
    cell = side / CELLS
    points = [((x + 0.5) * cell, (y + 0.5) * cell) for x, y in FIGURE]
    for (x, y), (r, g, b) in zip(points, COLOURS, strict=True):
        box = (x - 0.4 * cell, y - 0.4 * cell, x + 0.4 * cell, y + 0.4 * cell)
        ImageDraw.Draw(picture).rectangle(box, fill=(51 * r, 51 * g, 51 * b))
    return picture, points


def _body() -> dict[str, Any]:
    """WeightsFile by which the body's network finds ``figure``: through each convolution but the last stage's only the
    three colours go; there each keypoint's colour is a peak, and each limb's direction is everywhere."""
    state = {name: torch.zeros_like(value) for name, value in _without_prefix(_parts().bodypose_model()).items()}

    def hand_on(layer: str, channels: int) -> None:
        weight = state[f"{layer}.weight"]
        middle = weight.shape[-1] // 2
        weight[range(channels), range(channels), middle, middle] = 1

    for name in [name[: -len(".weight")] for name in state if name.startswith("conv") and name.endswith(".weight")]:
        if "CPM_L" not in name:
            hand_on(name, 3)
    state["conv1_1.bias"][:3] = 0.5  # the network is given -0.5..0.5

    stage, width = "Mconv{}_stage6_L2", 0.15
    first, second = state[stage.format(1) + ".weight"], state[stage.format(2) + ".weight"]
    at = first.shape[1] - 128  # behind the limbs' and keypoints' channels come those of the picture
    for unit, (channel, level, sign) in enumerate(itertools.product(range(3), range(6), (1, -1))):
        first[unit, at + channel, 3, 3] = sign
        state[stage.format(1) + ".bias"][unit] = -sign * level * 51 / 256
        for keypoint, colour in enumerate(COLOURS):
            if colour[::-1][channel] == level:  # it is given blue first
                second[keypoint, unit, 3, 3] = -1 / width
    state[stage.format(2) + ".bias"][: len(FIGURE)] = 1
    for layer in range(3, 8):
        hand_on(stage.format(layer), len(FIGURE))
    for channel, (a, b) in zip(LIMB_CHANNELS, LIMBS, strict=True):
        direction = torch.tensor(FIGURE[b], dtype=torch.float32) - torch.tensor(FIGURE[a])
        state["Mconv7_stage6_L1.bias"][channel : channel + 2] = direction / direction.norm()
    return state


def _parts() -> Any:
    return detectors.part("open_pose.model")


def _without_prefix(model: Any) -> dict[str, Any]:
    """As OpenPose's files have their tensors, under the layer's own name."""
    return {name.partition(".")[2]: value for name, value in model.state_dict().items()}


def _alive(state: dict[str, Any]) -> dict[str, Any]:
    """Random weights through which a picture still shows at the end, so that points are found at different places."""
    for value in state.values():
        if value.dim() == 4:
            torch.nn.init.kaiming_normal_(value)
    return state


def _hand() -> dict[str, Any]:
    return _alive(_without_prefix(_parts().handpose_model()))


def _face() -> dict[str, Any]:
    return _alive(dict(detectors.part("open_pose.face").FaceNet().state_dict()))


def _zoe() -> dict[str, Any]:
    zoe = detectors.part("zoe")
    return {"model": zoe.ZoeDepth.build_from_config(zoe.get_config("zoedepth", "infer")).state_dict()}


def _normal_bae() -> dict[str, Any]:
    import types

    bae = detectors.part("normalbae")
    given = types.SimpleNamespace(
        mode="client", architecture="BN", pretrained="scannet", sampling_ratio=0.4, importance_ratio=0.7
    )
    return {"model": bae.NNET(given).state_dict()}


def _anime() -> dict[str, Any]:
    m = detectors.part("lineart_anime")
    norm = m.functools.partial(torch.nn.InstanceNorm2d, affine=False, track_running_stats=False)
    return dict(m.UnetGenerator(3, 1, 8, 64, norm_layer=norm, use_dropout=False).state_dict())


def _halved(state: dict[str, Any]) -> dict[str, Any]:
    """In half precision, as some are published, and to write half as much."""
    if "model" in state:
        return {"model": _halved(state["model"])}
    return {name: value.half() if value.is_floating_point() else value for name, value in state.items()}


MAKERS: dict[str, Callable[[], dict[str, Any]]] = {
    "body_pose_model.pth": _body,
    "hand_pose_model.pth": _hand,
    "facenet.pth": _face,
    "ControlNetHED.pth": lambda: dict(detectors.part("hed").ControlNetHED_Apache2().state_dict()),
    "dpt_hybrid-midas-501f0c75.pt": lambda: dict(
        detectors.part("midas.midas.dpt_depth").DPTDepthModel(path=None, backbone="vitb_rn50_384").state_dict()
    ),
    "ZoeD_M12_N.pt": _zoe,
    "scannet.pt": _normal_bae,
    "sk_model.pth": lambda: dict(detectors.part("lineart").Generator(3, 1, 3).state_dict()),
    "netG.pth": _anime,
    "pytorch_model.bin": lambda: dict(detectors.uper_net().state_dict()),
}


def write(folder: Path, types: Iterable[str] = TYPES) -> None:
    """Writes those types' weights into ``folder``, as comfyui_controlnet_aux keeps them, with their SHA256SUMS."""
    wanted: dict[str, WeightsFile] = {each.file: each for name in types for each in TYPES[name].weights}
    for file, each in wanted.items():
        place = folder / each.repository
        place.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(len(file))
        with detectors.contained():
            torch.save(_halved(MAKERS[file]()), place / file)
        with (place / "SHA256SUMS").open("a", encoding="utf-8") as sums:
            sums.write(f"{sha256(place / file)}  {file}\n")


if __name__ == "__main__":
    write(Path(sys.argv[1]))

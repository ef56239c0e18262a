"""The nodes, one a file, and what they share: host (ComfyUI itself), shared (the one library), crossing (where
ComfyUI calls them), contact (with DT), words, pictures, clusters, routes, inputs."""

from __future__ import annotations

from typing import Any

from . import crossing, routes, shared, sync
from .batch_queue import LunaDTBatchQueue
from .caption_fetcher import LunaDTCaptionFetcher
from .cluster_sampler import LunaDTClusterSampler
from .connection_status import LunaDTConnectionStatus
from .controlnet_cache import LunaDTControlNetCache
from .image_loader import LunaDTImageLoader
from .likeness_gate import LunaDTLikenessGate
from .metadata_writer import LunaDTMetadataWriter
from .prompt_injector import LunaDTPromptInjector
from .similar_search import LunaDTSimilarSearch
from .sync import LunaDTSync

NODE_CLASS_MAPPINGS: dict[str, Any] = {
    node.__name__: crossing.guarded(node)
    for node in (
        LunaDTImageLoader,
        LunaDTSimilarSearch,
        LunaDTClusterSampler,
        LunaDTCaptionFetcher,
        LunaDTMetadataWriter,
        LunaDTPromptInjector,
        LunaDTControlNetCache,
        LunaDTConnectionStatus,
        LunaDTBatchQueue,
        LunaDTSync,
        LunaDTLikenessGate,
    )
}
NODE_DISPLAY_NAME_MAPPINGS = {name: node.TITLE for name, node in NODE_CLASS_MAPPINGS.items()}

routes.add_routes()
shared.go_on(then=sync.go_on)

"""Which columns this database has: they drift between versions of the fork, so they are discovered.

For each layer the newest name of its column that holds anything counts.  What made a layer is known for
DT's own columns (identity.DT_IDENTITIES); a JSON identity in the column's comment (``COMMENT ON COLUMN``,
in the contract's form) says otherwise.
"""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from dataclasses import dataclass, replace

from ...errors import BadAnswer, NotSearchable, Refused
from ...identity import DT_IDENTITIES, Identity
from ...query import Columns, Sql, where
from ...records import checked_layer
from .connection import Database

log = logging.getLogger(__name__)

#: For each layer the names its column has had, newest first.
LAYER_COLUMNS = {
    "visual": ("clip_vision_embedding", "image_embedding"),
    "semantic": ("bge_prompt_embedding", "prompt_embedding"),
    "negative": ("negative_prompt_embedding",),
    "composition": ("clip_g_prompt_embedding", "clip_g_embedding"),
    "style": ("clip_l_prompt_embedding", "clip_l_embedding"),
}
#: ImageRecord's fields (but tags) in their order: column, SQL with {} for it, SQL where it is missing.
IMAGE_FIELDS = {
    "id": ("id", "{}::bigint", ""),
    "path": ("path", "{}", "''"),
    "prompt": ("prompt", "COALESCE({}, '')", "''"),
    "negative_prompt": ("negative_prompt", "COALESCE({}, '')", "''"),
    "width": ("width", "COALESCE({}, 0)", "0"),
    "height": ("height", "COALESCE({}, 0)", "0"),
    "model": ("model", "COALESCE({}, '')", "''"),
    "model_hash": ("model_hash", "COALESCE({}, '')", "''"),
    "sampler": ("sampler", "COALESCE({}, '')", "''"),
    "scheduler": ("scheduler", "COALESCE({}, '')", "''"),
    "steps": ("steps", "COALESCE({}, 0)", "0"),
    "cfg": ("cfg_scale", "COALESCE({}, 0)::float8", "0::float8"),
    "seed": ("seed", "COALESCE({}, 0)", "0"),
    "rating": ("rating", "{}", "NULL::integer"),
    "aesthetic_score": ("aesthetic_score", "{}::float8", "NULL::float8"),
    "favorite": ("favorite", "COALESCE({}, false)", "false"),
    "nsfw": ("nsfw", "COALESCE({}, false)", "false"),
    "for_deletion": ("for_deletion", "COALESCE({}, false)", "false"),
    "unavailable": ("unavailable", "COALESCE({}, false)", "false"),
    "no_metadata": ("no_metadata", "COALESCE({}, false)", "false"),
    "created": ("created_date", "COALESCE(to_char({}, 'YYYY-MM-DD\"T\"HH24:MI:SS'), '')", "''"),
    "custom_tags": ("custom_tags", "COALESCE({}, '')", "''"),
    "loras": ("loras", "COALESCE({}::text, '')", "''"),
}


@dataclass(frozen=True)
class LayerColumn:
    """The column that holds a layer's vectors, and what made them."""

    name: str
    identity: Identity


class TableColumns:
    """The columns of a schema's tables, and what SQL says with them; looked up once, and again by ``anew``."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[str, dict[str, tuple[str, str]]] | None = None
        self._found_layers: dict[str, LayerColumn] | None = None

    def of(self, table: str) -> dict[str, tuple[str, str]]:
        """A table's columns: name -> (type, comment); empty where there is no such table."""
        tables = self._known
        if tables is None:
            known: dict[str, dict[str, tuple[str, str]]] = defaultdict(dict)
            for name, column, kind, comment in self._database.rows(
                "SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), col_description(c.oid, a.attnum) "
                "FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
                "JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped "
                "WHERE n.nspname = %s AND c.relkind IN ('r', 'v', 'm', 'p')",
                [self._database.schema],
            ):
                known[name][column] = (kind, comment or "")
            if "image" not in known:
                raise Refused(
                    f"schema '{self._database.schema}' of {self._database.address} has no table 'image': not a "
                    "collection of DiffusionToolkit's LUNA fork; name the collection with ?schema=NAME"
                )
            tables = self._known = dict(known)
        return tables.get(table, {})

    def select(self) -> dict[str, str]:
        """SQL for each of ImageRecord's fields, with what this database's ``image`` table has."""
        there = self.of("image")
        return {
            name: present.format(f"image.{column}") if column in there else absent
            for name, (column, present, absent) in IMAGE_FIELDS.items()
        }

    def where(self, text: str) -> Sql:
        """A query in DT's language as a condition on ``image`` and its values; raises BadQuery."""
        there = self.of("image")
        names = {name: expression for name, expression in self.select().items() if IMAGE_FIELDS[name][0] in there}
        missing = {name: "false" for name in ("for_deletion", "unavailable") if name not in names}
        names = {**missing, **names, "rating": "rating", "date": names.get("created", "''")}
        names |= {"negative": names["negative_prompt"], "delete": names["for_deletion"]}
        if "no_metadata" in names:
            names["nometa"] = names["no_metadata"]
        return where(text, Columns(names, "%s"))

    def layers(self, anew: bool = False) -> dict[str, LayerColumn]:
        """The layers that hold anything."""
        if anew or self._found_layers is None:
            if anew:
                self._known = None
            found = {}
            for layer, names in LAYER_COLUMNS.items():
                for name in names:
                    column = self._layer_column(layer, name)
                    if column:
                        found[layer] = column
                        break
            self._found_layers = found
        return self._found_layers

    def _layer_column(self, layer: str, name: str) -> LayerColumn | None:
        kind, comment = self.of("image").get(name, ("", ""))
        if not kind.startswith("vector"):
            return None
        first = self._database.rows(f"SELECT vector_dims({name}) FROM image WHERE {name} IS NOT NULL LIMIT 1")
        if not first:
            return None
        dim = int(first[0][0])
        identity = DT_IDENTITIES[layer]
        if comment.lstrip().startswith("{"):
            try:
                identity = Identity.from_json(json.loads(comment))
            except (ValueError, BadAnswer) as error:
                log.warning("the comment of column image.%s is not an identity and is ignored: %s", name, error)
        if identity.dim != dim:
            log.warning("image.%s has %d dimensions, not those of %s: what made it is not known", name, dim, identity)
            identity = replace(identity, architecture="unknown", weights="", dim=dim)
        return LayerColumn(name, identity)

    def layer(self, layer: str) -> LayerColumn:
        """Raises UnknownLayer, NotSearchable."""
        checked_layer(layer)
        found = self.layers().get(layer) or self.layers(anew=True).get(layer)
        if found is None:
            raise NotSearchable(f"DT has no vectors in layer '{layer}' ({' or '.join(LAYER_COLUMNS[layer])} is empty)")
        return found

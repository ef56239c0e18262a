"""Which columns this database has: they drift between versions of the fork, so they are discovered.

A layer's vectors lie in up to two columns: the live one, which DT writes, and a copy that one of its migrations
made once.  Row by row the live one counts, and the copy where that is NULL.  What made them is known for DT's own
columns (identity.DT_IDENTITIES); a JSON identity in a column's comment (``COMMENT ON COLUMN``, in the contract's
form) says otherwise.  What is there and cannot be used is told (``left_out``).
"""

from __future__ import annotations

import json
import logging
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from ...errors import BadAnswer, NotSearchable, Refused
from ...identity import DT_IDENTITIES, Identity
from ...query import Columns, Names, Sql, where
from ...records import checked_layer
from .connection import Database

log = logging.getLogger(__name__)

#: For each layer its columns: the live one, then the copy.
LAYER_COLUMNS = {
    "visual": ("image_embedding", "clip_vision_embedding"),
    "semantic": ("prompt_embedding", "bge_prompt_embedding"),
    "negative": ("negative_prompt_embedding",),
    "composition": ("clip_g_prompt_embedding", "clip_g_embedding"),
    "style": ("clip_l_prompt_embedding", "clip_l_embedding"),
}
_NUMBER = ("smallint", "integer", "bigint", "numeric", "real", "double precision")
_ANY: tuple[str, ...] = ("",)
#: In no language, for a database's own order and letters hang on its locale.
_TEXT = "COALESCE({}::text, '') COLLATE \"C\"", "''", _ANY
_COUNT = "COALESCE({}, 0)", "0", _NUMBER
_FLAG = "COALESCE({}, false)", "false", ("boolean",)
_REAL = "CASE WHEN {0} NOT BETWEEN -1e308 AND 1e308 THEN 'NaN'::float8 ELSE {0}::float8 END"  # it may be a numeric
_DATE = "COALESCE(to_char({}, 'YYYY-MM-DD\"T\"HH24:MI:SS'), '') COLLATE \"C\"", "''", ("timestamp", "date")
#: As records.file_hash has it.
_HASH = "COALESCE(lower(substring({}::text COLLATE \"C\" FROM '^[0-9A-Fa-f]{{32,128}}$')), '')", "''", _ANY
#: ImageRecord's fields (but tags) in their order: column, SQL with {} for it, SQL where it is missing, and with what
#: the names of the types begin that it may have.
IMAGE_FIELDS = {
    "id": ("id", "{}::bigint", "", _ANY),
    "path": ("path", '{}::text COLLATE "C"', "''", _ANY),
    "prompt": ("prompt", *_TEXT),
    "negative_prompt": ("negative_prompt", *_TEXT),
    "width": ("width", *_COUNT),
    "height": ("height", *_COUNT),
    "model": ("model", *_TEXT),
    "model_hash": ("model_hash", *_TEXT),
    "sampler": ("sampler", *_TEXT),
    "scheduler": ("scheduler", *_TEXT),
    "steps": ("steps", *_COUNT),
    "cfg": ("cfg_scale", f"COALESCE({_REAL}, 0)", "0::float8", _NUMBER),
    "seed": ("seed", *_COUNT),
    "rating": ("rating", "{}", "NULL::integer", _NUMBER),
    "aesthetic_score": ("aesthetic_score", _REAL, "NULL::float8", _NUMBER),
    "favorite": ("favorite", *_FLAG),
    "nsfw": ("nsfw", *_FLAG),
    "for_deletion": ("for_deletion", *_FLAG),
    "unavailable": ("unavailable", *_FLAG),
    "no_metadata": ("no_metadata", *_FLAG),
    "created": ("created_date", *_DATE),
    "custom_tags": ("custom_tags", *_TEXT),
    "loras": ("loras", *_TEXT),
    "hash": ("hash", *_HASH),
}
#: The latest caption of each source; {} for a condition.
LATEST = (
    "SELECT DISTINCT ON (image_id, source) image_id::bigint, COALESCE(source::text, '') AS source, "
    "COALESCE(caption::text, '') AS caption FROM image_captions {}"
    "ORDER BY image_id, source, updated_at DESC NULLS LAST, id DESC"
)
TAG = "replace(tag::text, E'\\n', ' ') COLLATE \"C\""  # which is one line, and an empty one is none
CAPTIONERS = ("manual", "joycaption", "openai")  # the best first
#: What of other tables is read; a table that lacks any of it is not.
TABLES = {
    "image_tags": {"image_id", "tag", "source", "confidence"},
    "image_captions": {"id", "image_id", "source", "caption", "updated_at"},
    "face_group": {"id", "name"},
    "face_group_member": {"face_group_id", "face_detection_id", "similarity_score"},
    "face_detection": {"id", "image_id"},
}


#: Differs when a column of those tables is added, dropped, renamed or made another, or a table is, or pgvector moves.
_STRUCTURE = (
    "SELECT tables::text, ARRAY(SELECT xmin FROM pg_attribute WHERE attrelid = ANY(tables))::text, "
    "ARRAY(SELECT xmin FROM pg_description WHERE objoid = ANY(tables))::text, "
    "(SELECT extnamespace FROM pg_extension WHERE extname = 'vector') "
    "FROM (SELECT ARRAY(SELECT to_regclass(name)::oid FROM unnest(%s::text[]) name) AS tables) known"
)

#: pgvector's types as format_type writes them; with their schema only where that is not on the search path.
_VECTOR = re.compile(r"(vector|halfvec)(?:\((\d+)\))?")


@dataclass(frozen=True)
class VectorColumn:
    """A column of vectors, and in SQL what is ``stored`` in it, NULL where that has not ``dim`` dimensions."""

    name: str
    stored: str
    kind: str
    dim: int
    identity: Identity
    filled: bool

    @property
    def vector(self) -> str:
        return self.stored if self.kind == "vector" else f"{self.stored}::vector"


@dataclass(frozen=True)
class LayerColumns:
    """The columns that hold a layer's vectors, of which in each row the first that is not NULL counts."""

    columns: tuple[VectorColumn, ...]

    @property
    def identity(self) -> Identity:
        return self.columns[0].identity

    @property
    def vector(self) -> str:
        return self.first(lambda column: column.vector)

    @property
    def there(self) -> str:
        """The condition that a row has a vector."""
        return "(" + " OR ".join(f"{column.stored} IS NOT NULL" for column in self.columns) + ")"

    def first(self, value: Callable[[VectorColumn], str]) -> str:
        """SQL for a value of a row's vector; ``value`` gives that of one column, which is NULL where it holds none."""
        return f"COALESCE({', '.join(map(value, self.columns))}, NULL)"


@dataclass
class _Learnt:
    """What was found in a schema: tables and their columns, layers, and what cannot be used, in the order found."""

    tables: dict[str, dict[str, tuple[str, str]]] | None = None
    layers: dict[str, LayerColumns] | None = None
    left_out: dict[str, None] = field(default_factory=dict)


class TableColumns:
    """The columns of a schema's tables, and what SQL says with them; learnt when first asked for, until ``refresh``
    sees that the tables have changed."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._learnt = _Learnt()
        self._structure: tuple[object, ...] | None = None
        self._told: set[str] = set()

    def refresh(self) -> tuple[object, ...]:
        """Forgets what was learnt of tables that are no longer as they were; gives what differs then."""
        (structure,) = self._database.rows(_STRUCTURE, [["image", *TABLES]])
        if structure != self._structure:
            if self._structure is not None:
                self._database.changes += 1
            self._structure, self._learnt = structure, _Learnt()
        return structure

    def of(self, table: str) -> dict[str, tuple[str, str]]:
        """A table's columns: name -> (type, comment); empty where there is no such table."""
        learnt = self._learnt
        if learnt.tables is None:
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
            learnt.tables = self._usable(known)
        return learnt.tables.get(table, {})

    def _usable(self, tables: dict[str, dict[str, tuple[str, str]]]) -> dict[str, dict[str, tuple[str, str]]]:
        """The tables without those, and the columns of ``image``, that are not as they are read."""
        there = tables["image"]
        for column, _, _, types in IMAGE_FIELDS.values():
            if column in there and not there[column][0].startswith(types):
                self._leave_out(f"column image.{column} is of type {there[column][0]}, which cannot be read")
                del there[column]
        for name, needed in TABLES.items():
            if name in tables and (missing := needed - tables[name].keys()):
                self._leave_out(f"table {name} has no {' and no '.join(sorted(missing))}")
                del tables[name]
        faces = {name for name in TABLES if name.startswith("face_")}
        if not faces <= tables.keys():
            tables = {name: columns for name, columns in tables.items() if name not in faces}
        return tables

    def select(self) -> dict[str, str]:
        """SQL for each of ImageRecord's fields, with what this database's ``image`` table has."""
        there = self.of("image")
        return {
            name: present.format(f"image.{column}") if column in there else absent
            for name, (column, present, absent, _) in IMAGE_FIELDS.items()
        }

    def where(self, text: str, hide: tuple[str, ...]) -> Sql:
        """A query in DT's language as a condition on ``image`` and its values, without what those flags hide; raises BadQuery."""
        there = self.of("image")
        names = {name: expression for name, expression in self.select().items() if IMAGE_FIELDS[name][0] in there}
        missing = {name: "false" for name in ("for_deletion", "unavailable") if name not in names}
        names = {**missing, **names}
        hide = tuple(flag for flag in hide if flag != "nsfw" or flag in names)
        return where(text, Columns(names, "%s", "~", self._database.encoding, *self._beside(), hide=hide))

    def _beside(self) -> tuple[dict[str, Names], dict[str, str]]:
        """The names that images have through other tables, and what they may have."""
        names, has = dict[str, Names](), dict[str, str]()
        if self.of("image_tags"):
            names["tag"] = Names("image.id IN (SELECT image_id FROM image_tags WHERE {})", TAG)
        if self.of("face_group"):
            names["cluster"] = Names(
                "image.id IN (SELECT d.image_id FROM face_group g JOIN face_group_member m ON m.face_group_id = g.id "
                "JOIN face_detection d ON d.id = m.face_detection_id WHERE {})",
                "COALESCE(g.name::text, '') COLLATE \"C\"",
                "g.id",
            )
        if self.of("image_captions"):
            has["caption"] = (
                f"image.id IN (SELECT image_id FROM ({LATEST.format('')}) latest WHERE caption <> '' AND source IN {CAPTIONERS})"
            )
        return names, has

    def layers(self, anew: bool = False) -> dict[str, LayerColumns]:
        """The layers that hold anything."""
        if anew:
            self._learnt = _Learnt()
        learnt = self._learnt
        if learnt.layers is None:
            filled = self._filled()
            every = {layer: self._layer_columns(layer, names, filled) for layer, names in LAYER_COLUMNS.items()}
            learnt.layers = {layer: found for layer, found in every.items() if found}
        return learnt.layers

    def _filled(self) -> set[str]:
        """The columns of vectors that hold any, found in one pass over the table."""
        there = [name for names in LAYER_COLUMNS.values() for name in names if name in self.of("image")]
        counts = ", ".join(f"COUNT({name})" for name in ("id", *there))
        ((_, *filled),) = self._database.rows(f"SELECT {counts} FROM image")
        return {name for name, count in zip(there, filled, strict=True) if count}

    def _layer_columns(self, layer: str, names: tuple[str, ...], filled: set[str]) -> LayerColumns | None:
        there = [column for name in names if (column := self._vector_column(layer, name, name in filled))]
        first = next((column for column in there if column.filled), None)
        if first is None:
            return None
        found: list[VectorColumn] = []
        for column in there:
            if not column.filled:  # DT may write to the live one at any moment, but to no copy
                fits = not found and (column.dim, column.identity) == (first.dim, first.identity)
                found += [column] if fits else []
            elif column.dim != first.dim:
                self._leave_out(
                    f"the vectors of image.{column.name} have {column.dim} dimensions, those of image.{first.name} "
                    f"{first.dim}"
                )
            elif column.identity != first.identity:
                self._leave_out(
                    f"the vectors of image.{column.name} are made by {column.identity}, those of image.{first.name} by "
                    f"{first.identity}"
                )
            else:
                found.append(column)
        return LayerColumns(tuple(found))

    def _vector_column(self, layer: str, name: str, filled: bool) -> VectorColumn | None:
        kind, comment = self.of("image").get(name, ("", ""))
        if not kind:
            return None
        form = _VECTOR.fullmatch(kind)
        if form is None:
            self._leave_out(f"column image.{name} is of type {kind}, which cannot be read as vectors")
            return None
        stored = f"image.{name}"
        if form[2]:
            dim = int(form[2])
        else:  # each of its vectors may have a dimension of its own: that of most counts
            dims = self._database.rows(
                f"SELECT vector_dims({name}), COUNT(*) FROM image WHERE {name} IS NOT NULL GROUP BY 1 ORDER BY 2 DESC, 1"
            )
            if not dims:
                return None
            dim, filled = int(dims[0][0]), True
            if others := sum(count for _, count in dims[1:]):
                self._leave_out(f"{others:,} vectors of image.{name} have another dimension than its others, {dim}")
            stored = f"(CASE WHEN vector_dims({stored}) = {dim} THEN {stored} END)"
        return VectorColumn(name, stored, form[1], dim, self._identity(layer, name, dim, comment), filled)

    def _identity(self, layer: str, name: str, dim: int, comment: str) -> Identity:
        identity = DT_IDENTITIES[layer]
        if comment.lstrip().startswith("{"):
            try:
                identity = Identity.from_json(json.loads(comment))
            except (ValueError, BadAnswer) as error:
                log.warning("the comment of column image.%s is not an identity and is ignored: %s", name, error)
        if identity.dim != dim:
            log.warning("image.%s has %d dimensions, not those of %s: what made it is not known", name, dim, identity)
            identity = replace(identity, architecture="unknown", weights="", dim=dim)
        return identity

    def layer(self, layer: str) -> LayerColumns:
        """Raises UnknownLayer, NotSearchable."""
        checked_layer(layer)
        found = self.layers().get(layer) or self.layers(anew=True).get(layer)
        if found is None:
            raise NotSearchable(f"DT has no vectors in layer '{layer}' ({' or '.join(LAYER_COLUMNS[layer])} is empty)")
        return found

    def left_out(self) -> tuple[str, ...]:
        """What there is and is not used, and why, as it was when the layers were last looked for."""
        self.layers()
        return tuple(self._learnt.left_out)

    def _leave_out(self, reason: str) -> None:
        self._learnt.left_out[reason] = None
        if reason not in self._told:
            self._told.add(reason)
            log.warning("left out: %s", reason)

"""The fork's database: a pool of connections that can only read, and its errors as ours."""

from __future__ import annotations

import codecs
import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from urllib.parse import unquote

import psycopg
import psycopg_pool
from psycopg import sql

from ...errors import Refused, Unreachable
from ...settings import without_secrets

CONNECTION_WAIT = 5  # seconds for a connection, new or the pool's


class _Connection(psycopg.Connection[Any]):
    changes = 0  # Database.changes, when it was configured


class Database:
    """One schema of one database; connects when first asked.  Raises Unreachable, Refused."""

    def __init__(self, address: str, timeout: float = 30.0) -> None:
        base, _, query = address.partition("?")
        options = [option for option in query.split("&") if option]
        schemas = [unquote(option[7:]) for option in options if option.startswith("schema=")]
        self.schema = schemas[-1] if schemas else "public"
        libpqs = "&".join(option for option in options if not option.startswith("schema="))
        self._conninfo = f"{base}?{libpqs}" if libpqs else base
        self.address = without_secrets(address)
        self.changes = 0  # how often tables or pgvector were seen to be no longer as they were
        self.encoding = "utf-8"  # the database's own, by Python's name for it, once connected
        self._timeout = timeout
        self._pool = psycopg_pool.ConnectionPool(
            self._conninfo,
            connection_class=_Connection,
            min_size=0,
            max_size=8,
            timeout=CONNECTION_WAIT,
            open=False,
            kwargs={"connect_timeout": CONNECTION_WAIT, "application_name": "luna_dt", "client_encoding": "utf8"},
            configure=self._configure,
            check=psycopg_pool.ConnectionPool.check_connection,
        )

    def _configure(self, connection: _Connection) -> None:
        connection.read_only = True
        # the types and operators of vectors, wherever pgvector was put
        connection.execute(
            "SELECT set_config('search_path', concat_ws(', ', %s::text, (SELECT quote_ident(n.nspname) FROM pg_extension e "
            "JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'vector')), false)",
            [f'"{self.schema}", public'],
        )
        connection.execute("SELECT set_config('statement_timeout', %s, false)", [f"{int(self._timeout * 10_000)}"])
        connection.commit()
        connection.changes = self.changes
        self.encoding = _encoding(connection.info.parameter_status("server_encoding") or "UTF8")

    @contextlib.contextmanager
    def connection(self) -> Iterator[psycopg.Connection[Any]]:
        try:
            self._pool.open()
            with self._pool.connection() as connection:
                if connection.changes != self.changes:
                    self._configure(connection)
                    connection.prepare_threshold = None  # what it has prepared is for tables as they were
                yield connection
        except (psycopg_pool.PoolTimeout, psycopg.OperationalError) as error:
            raise Unreachable(f"the database at {self.address} does not answer: {self._reason(error)}") from error
        except UnicodeError as error:  # of the encoding SQL_ASCII, which takes any bytes
            raise Refused(f"the database at {self.address} holds text that is not in UTF-8") from error
        except psycopg.Error as error:
            reason = str(error).splitlines()[0]
            raise Refused(f"the database at {self.address} refuses what was asked: {reason}") from error

    def _reason(self, error: Exception) -> str:
        """The pool says only that time ran out; asking once more directly tells why."""
        if isinstance(error, psycopg_pool.PoolTimeout):
            try:
                psycopg.connect(self._conninfo, connect_timeout=CONNECTION_WAIT).close()
            except psycopg.Error as reason:
                error = reason
        return str(error).strip().splitlines()[0]

    def rows(self, statement: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        with self.connection() as connection:
            return connection.execute(trusted(statement), values or None).fetchall()

    def count(self, statement: str) -> int:
        return int(self.rows(statement)[0][0])

    def close(self) -> None:
        self._pool.close()


def among(ids: Iterable[int]) -> str:
    """SQL for being one of those ids: written out, since only in such a list PostgreSQL looks them up, rather than trying
    one after the other, where it has no index."""
    return f"= ANY('{{{','.join(map(str, ids))}}}')"


def _encoding(name: str) -> str:
    if name == "SQL_ASCII":  # takes any bytes, and so what we send, which is UTF-8
        return "utf-8"
    try:
        return codecs.lookup(name.replace("WIN", "cp")).name
    except LookupError:
        return "ascii"


def trusted(statement: str) -> sql.SQL:
    """Statements are built from this package's own text and discovered column names; values are parameters."""
    return sql.SQL(statement)

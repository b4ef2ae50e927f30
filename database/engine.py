"""Engines from a DATABASE_URL as people write it."""

from sqlalchemy import Engine, create_engine
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from errors import SetupError


def driver_url(database_url: str) -> URL:
    """The URL with our driver in it. Raises SetupError, without the URL, when it is not one of PostgreSQL."""
    try:
        url = make_url(database_url)
    except ArgumentError as error:
        raise SetupError("DATABASE_URL is not a database URL.") from error
    if url.get_backend_name() not in {"postgresql", "postgres"}:
        raise SetupError("DATABASE_URL must begin with postgresql://; no other database is supported.")
    return url.set(drivername="postgresql+psycopg")


def libpq_url(database_url: str) -> str:
    """The URL as libpq reads it, for connections that psycopg opens itself."""
    return driver_url(database_url).set(drivername="postgresql").render_as_string(hide_password=False)


def open_engine(database_url: str) -> Engine:
    """For commands and training."""
    return create_engine(driver_url(database_url), pool_pre_ping=True, hide_parameters=True)


def open_async_engine(database_url: str, *, pool_size: int) -> AsyncEngine:
    """For the server's reads. Parameters stay out of error messages: they may name a patient."""
    return create_async_engine(
        driver_url(database_url),
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=2,
        pool_pre_ping=True,
        hide_parameters=True,
        connect_args={
            "connect_timeout": 3,
            "options": "-c statement_timeout=10s -c idle_in_transaction_session_timeout=5s",
        },
    )

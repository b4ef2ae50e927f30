"""What all commands share: one line for what cannot be done, the console, a database to work on."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from errors import FollowupError, SetupError

console = Console()
Json = Annotated[bool, typer.Option("--json", help="For machines.")]


def plain(text: str) -> Text:
    """As it is shown in a table: what is in the database steers no terminal and is no markup."""
    from audit.verify import printable

    return Text(printable(text))


def explained(command: Callable[..., None]) -> Callable[..., None]:
    """Turns what cannot be done into one line on standard error."""

    @wraps(command)
    def run(*arguments: Any, **options: Any) -> None:
        from sqlalchemy.exc import SQLAlchemyError

        try:
            command(*arguments, **options)
        except (SetupError, FollowupError) as error:
            _complain(str(error))
            raise typer.Exit(1) from error
        except OSError as error:
            _complain(f"{error.filename}: {error.strerror}" if error.filename else str(error))
            raise typer.Exit(1) from error
        except SQLAlchemyError as error:  # its message would quote statements, addresses and values
            _complain(
                f"The database cannot be used ({type(error).__name__}): is it there, and is OWNER_DATABASE_URL right?"
            )
            raise typer.Exit(1) from error

    return run


def _complain(message: str) -> None:
    Console(stderr=True).print(f"followup: {message}", style="red", markup=False, highlight=False, soft_wrap=True)


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write that only its owner reads, and that is there when all of it is and not before."""
    with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as output:
        part = Path(output.name)
        try:
            yield output
            output.flush()
            part.replace(path)
        except BaseException:
            part.unlink()
            raise


@contextmanager
def database() -> Iterator[Any]:
    """An engine on OWNER_DATABASE_URL or DATABASE_URL, or on the demo's database when neither is set."""
    from database.engine import open_engine
    from demo import HOME, Demo
    from settings import owner_database_url

    demo = None
    if not owner_database_url():
        home = Path(os.environ.get("FOLLOWUP_HOME", HOME))
        if not home.exists():
            raise SetupError("DATABASE_URL is not set, and there is no demo here: `followup up` makes one.")
        demo = Demo(home)
        os.environ.update(demo.start())
    Path(os.environ["BENTOML_HOME"]).mkdir(parents=True, exist_ok=True)
    engine = open_engine(owner_database_url())
    try:
        yield engine
    finally:
        engine.dispose()
        if demo is not None:
            demo.stop()

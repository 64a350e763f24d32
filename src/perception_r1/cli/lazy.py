"""A command group that imports a command's module when the command is called, and turns user errors into one line."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from importlib import import_module
from typing import Any, ClassVar, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command as build_command

from perception_r1.disk import is_want_of_room, no_room
from perception_r1.errors import UserError
from perception_r1.packages import extra_line, extra_of_module
from perception_r1.train import launch


class Spec(NamedTuple):
    """Where a command lives (``module:attribute``, a function or a ``typer.Typer``), its help line and its panel."""

    target: str
    help: str
    panel: str


class _Stub(TyperCommand):
    """A command that is known by name and help only; ``load`` imports the real one."""

    def __init__(self, name: str, spec: Spec) -> None:
        super().__init__(name, help=spec.help, rich_help_panel=spec.panel)
        self.spec = spec

    def load(self) -> Any:
        module, attribute = self.spec.target.split(":")
        target = getattr(import_module(module), attribute)
        if isinstance(target, typer.Typer):
            target.info.help = target.info.help or self.spec.help
            command: Any = build_command(target)
        else:
            single = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
            single.command(help=None if target.__doc__ else self.spec.help)(target)
            command = build_command(single)
        command.name = self.name
        return command


class LazyGroup(TyperGroup):
    """A group whose subclass gives the ``table`` of its commands."""

    table: ClassVar[Mapping[str, Spec]] = {}

    def __init__(self, **attrs: Any) -> None:
        super().__init__(**attrs)
        for name, spec in self.table.items():
            self.add_command(_Stub(name, spec), name)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Imports the module of the command that was named; ``--help`` of the group never comes here."""
        name, command, rest = super().resolve_command(ctx, args)
        if isinstance(command, _Stub):
            command = command.load()
        return name, command, rest

    def invoke(self, ctx: Any) -> Any:
        """Runs the command; what the user can fix ends with one line and exit code 2."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            # Only commands that keep their state in a run folder have the option.
            resume = "--resume" in _options(self.commands.get(ctx.invoked_subcommand or ""))
            if launch.OURS not in os.environ:
                typer.echo("\ninterrupted; resume with --resume" if resume else "\ninterrupted", err=True)
            raise typer.Exit(130) from None
        except (UserError, ModuleNotFoundError, OSError) as error:
            message = explain(error)
            if message is None:
                raise
            if ctx.params.get("traceback"):
                import traceback

                traceback.print_exc()
            if not launch.leave_to_parent(message):
                typer.echo(f"error: {message}", err=True)
            raise typer.Exit(2) from None

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """As click's, but an unknown option or command is one line too, and a command may return its exit code."""
        args = list(sys.argv[1:] if args is None else args) or ["--help"]
        inner = partial(super().main, args, prog_name, complete_var, False, windows_expand_args, **extra)
        if not standalone_mode:
            return inner()
        try:
            code = inner()
        except typer.Abort:
            typer.echo("aborted", err=True)
            sys.exit(1)
        except SystemExit as stop:
            # `pr1 check … | head`: rich ends the program itself, with 1, when the reader has gone.
            sys.exit(0 if isinstance(stop.__context__, BrokenPipeError) else stop.code)
        except Exception as error:
            # Click's own errors (bad option, missing argument): typer vendors click in recent releases, so they are
            # known by what they can do.
            if not hasattr(error, "format_message") or not hasattr(error, "exit_code"):
                raise
            if type(error).__name__ == "NoArgsIsHelpError":
                error.show()  # type: ignore[attr-defined]
                sys.exit(error.exit_code)
            ctx = getattr(error, "ctx", None)
            hint = f" (see {ctx.command_path} --help)" if ctx is not None else ""
            typer.echo(f"error: {_one_line(error.format_message()).rstrip('.')}{hint}", err=True)
            sys.exit(error.exit_code)
        sys.exit(code if isinstance(code, int) and not isinstance(code, bool) else 0)


def explain(error: Exception) -> str | None:
    """One line for an error that the user can fix; None for a bug of ours, whose traceback is the useful answer."""
    if isinstance(error, UserError):
        return _one_line(str(error))
    if isinstance(error, ModuleNotFoundError):
        module = (error.name or "").split(".")[0]
        extra = extra_of_module(module)
        return None if extra is None else f"this needs {module}: {extra_line(extra)} (see pr1 doctor)"
    if isinstance(error, BrokenPipeError):
        # `pr1 score … | head`: the reader has what it wanted. Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0)
    if isinstance(error, OSError) and error.errno is not None:
        if error.filename is not None and is_want_of_room(error):
            return no_room(error, error.filename)
        if error.filename is not None:
            return f"{error.filename}: {error.strerror}"
        return error.strerror if error.errno == errno.ENOSPC else None
    return None


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _options(command: Any) -> set[str]:
    if isinstance(command, _Stub):
        command = command.load()
    return {option for parameter in getattr(command, "params", ()) for option in getattr(parameter, "opts", ())}

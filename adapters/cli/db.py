"""`radclipd db upgrade | current | maintain`."""

from __future__ import annotations

import typer

from adapters.cli.settings import config_of, parts_of

db = typer.Typer(help="The catalog: schema and maintenance.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(db, name="db")


@db.command()
def upgrade(ctx: typer.Context) -> None:
    """Bring the catalog to this release's schema. Safe to repeat."""
    from adapters.catalog import schema

    with parts_of(ctx) as parts:
        url = parts.config.catalog.url
        before = schema.current(url)
        schema.upgrade(url)
        parts.catalog.update_statistics()
    typer.echo(f"schema {before or 'none'} -> {schema.head()}")


@db.command()
def current(ctx: typer.Context) -> None:
    """Print the catalog's schema and this release's. Exit status 1 where they differ."""
    config = config_of(ctx)
    from adapters.catalog import schema

    found = schema.current(config.catalog.url)
    typer.echo(f"catalog {found or 'none'}, this release {schema.head()}")
    raise typer.Exit(0 if found == schema.head() else 1)


@db.command()
def maintain(ctx: typer.Context) -> None:
    """Run the dispatcher's hourly maintenance now.

    Delete jobs finished before [work] keep_done_days; refresh the planner's statistics.
    """
    from adapters.app.dispatch import maintain_catalog

    with parts_of(ctx) as parts:
        purged = maintain_catalog(parts)
        keep_days = parts.config.work.keep_done_days
    typer.echo(f"{purged} jobs deleted that were done more than {keep_days:g} days ago")

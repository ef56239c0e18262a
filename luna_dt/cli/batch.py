"""``luna-dt batch``: what the Batch Queue node queued as one."""

from __future__ import annotations

import logging

import click

from ..errors import Unreachable
from ..library import Library
from ..settings import Settings
from .terminal import json_option, out, plain, print_json, when


@click.command()
@click.argument("action", type=click.Choice(("list", "show", "resume", "cancel", "retry")))
@click.argument("batch_id", default="")
@click.option("--comfyui", default="", help="For resume: ComfyUI's address, if it is another now.")
@json_option
@click.pass_obj
def batch(settings: Settings, action: str, batch_id: str, comfyui: str, as_json: bool) -> None:
    """What the Batch Queue node queued as one: list all; show one, resume, cancel or retry it."""
    if bool(batch_id) == (action == "list"):
        raise click.UsageError("list takes no batch; every other action takes one, as list shows it")
    with Library(settings=settings) as library:
        batches = library.batches
        if action == "list":
            found = batches.all()
        elif action == "show":
            try:
                found = [batches.follow(batch_id)]
            except Unreachable as error:
                logging.getLogger(__name__).warning("as it was last seen: %s", error)
                found = [batches.get(batch_id)]
        elif action == "resume":
            found = [batches.resume(batch_id, comfyui)]
        else:
            found = [batches.cancel(batch_id) if action == "cancel" else batches.retry(batch_id)]
    if as_json:
        print_json([each.to_json() for each in found] if action == "list" else found[0].to_json())
        return
    if not found:
        out.print("there are no batches; the Batch Queue node makes them")
    for each in found:
        out.print(f"{each.id}  {when(each.created)}  {each.operation}  {each}")
    if action != "list":
        for item in found[0].items:
            if item.error:
                told = f"  item {item.position}, image {item.image_id}: {item.error}"
                out.print(plain(told), soft_wrap=True)
